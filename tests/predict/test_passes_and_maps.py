"""`--passes` and `--maps`: what they add, and that nothing else changes."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from mttu.errors import InputError
from mttu.networks.ensemble import write_ensemble
from mttu.predict import plan_predictions, predict_cases
from mttu.predict.results import MAPS, map_name


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def load(path):
    return np.asarray(nib.load(path).dataobj)


def test_passes_and_maps_stand_beside_the_same_prediction(tiny_checkpoint, cases, tmp_path):
    (plain,) = predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "plain"))
    plan = plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out", passes=2, maps=True)
    (row,) = predict_cases(plan)
    assert row.error == ""
    assert row.idh_mutant_probability == plain.idh_mutant_probability
    assert np.array_equal(load(tmp_path / "out" / "a_seg.nii.gz"), load(tmp_path / "plain" / "a_seg.nii.gz"))
    assert (plain.samples, plain.idh_sample_deviation, plain.wt_ml_deviation) == (None, None, None)
    assert row.samples == 2
    assert row.idh_sample_deviation > 0
    assert row.wt_ml_deviation >= 0
    metadata = pq.read_schema(tmp_path / "out" / "predictions.parquet").metadata
    assert metadata[b"passes"] == b"2"
    source = nib.load(cases / "a" / "a_flair.nii.gz")
    for kind in MAPS:
        found = nib.load(tmp_path / "out" / map_name("a", kind))
        assert found.shape == source.shape
        assert np.array_equal(found.affine, source.affine)
        assert found.get_data_dtype() == np.float32
        values = np.asarray(found.dataobj)
        assert 0 <= values.min() <= values.max() <= 1
    wt, tc, et = (load(tmp_path / "out" / map_name("a", kind)) for kind in MAPS[:3])
    assert (wt >= tc - 2e-4).all()
    assert (tc >= et - 2e-4).all()
    assert load(tmp_path / "out" / map_name("a", "deviation")).max() > 0
    # the next prediction has none, and leaves none of these behind
    predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out"))
    assert names(tmp_path / "out") == names(tmp_path / "plain")


def test_members_of_an_ensemble_are_samples_without_further_passes(write_tiny, cases, tmp_path):
    members = [write_tiny(tmp_path / name / "best", spoil=spoil) for name, spoil in (("one", 3.0), ("two", -3.0))]
    alone = [
        predict_cases(plan_predictions(member, [cases / "a"], tmp_path / f"out_{member.parent.name}"))[0]
        for member in members
    ]
    write_ensemble(tmp_path / "both", members)
    (row,) = predict_cases(plan_predictions(tmp_path / "both", [cases / "a"], tmp_path / "out", maps=True))
    probabilities = [one.idh_mutant_probability for one in alone]
    assert row.samples == 2
    assert row.idh_sample_mean == pytest.approx(np.mean(probabilities))
    assert row.idh_sample_deviation == pytest.approx(np.std(probabilities, ddof=1))
    assert row.wt_ml_deviation == 0.0  # they differ in the IDH head alone
    assert load(tmp_path / "out" / map_name("a", "deviation")).max() == 0.0


def test_a_calibrated_probability_in_the_undecided_band_is_flagged(tiny_checkpoint, cases, tmp_path):
    plan = plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out")

    class Flat:
        """Calibrates everything to 0.55."""

        fitted, patients, threshold = False, None, None
        num_cases, fitted_on, reason = 10, "validation", ""
        call = staticmethod(lambda probability: None)
        calibrate = staticmethod(lambda probability: 0.55)
        to_json = staticmethod(dict)

    (row,) = predict_cases(replace(plan, calibration=Flat()))
    assert (row.idh_calibrated_probability, row.idh_calibrated_undecided) == (0.55, True)
    settings = plan.config.inference.model_copy(update={"undecided_band": (0.4, 0.5)})
    changed = replace(plan, calibration=Flat(), config=plan.config.model_copy(update={"inference": settings}))
    (row,) = predict_cases(changed)
    assert row.idh_calibrated_undecided is False


def test_maps_of_the_user_are_not_overwritten(tiny_checkpoint, cases, tmp_path):
    out = tmp_path / "out"
    predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], out))
    (out / "a_entropy.nii.gz").write_bytes(b"of the user")
    with pytest.raises(InputError, match=r"holds a_entropy\.nii\.gz, not of an earlier prediction here"):
        plan_predictions(tiny_checkpoint, [cases / "a"], out, maps=True)
    predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], out))
    assert (out / "a_entropy.nii.gz").read_bytes() == b"of the user"


def test_maps_of_the_user_beside_an_earlier_prediction_with_maps_are_not_overwritten(tiny_checkpoint, cases, tmp_path):
    out = tmp_path / "out"
    predict_cases(plan_predictions(tiny_checkpoint, [cases / "a"], out, maps=True))
    (out / "b_entropy.nii.gz").write_bytes(b"of the user")
    with pytest.raises(InputError, match=r"holds b_entropy\.nii\.gz, not of an earlier prediction here"):
        plan_predictions(tiny_checkpoint, [cases], out, maps=True)
    predict_cases(plan_predictions(tiny_checkpoint, [cases], out))
    assert [path.name for path in out.glob("*_entropy.nii.gz")] == ["b_entropy.nii.gz"]
    assert (out / "b_entropy.nii.gz").read_bytes() == b"of the user"


def test_one_pass_is_refused(tiny_checkpoint, cases, tmp_path):
    with pytest.raises(InputError, match=r"mc\.passes.*greater than or equal to 2"):
        plan_predictions(tiny_checkpoint, [cases / "a"], tmp_path / "out", passes=1)
