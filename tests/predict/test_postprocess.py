"""`mttu postprocess` chooses on val cases alone, and `mttu predict` does what it chose."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from torch import nn

from mttu.cli import main
from mttu.data.manifest import write_manifest
from mttu.errors import InputError, RunError
from mttu.inference.postprocessing import (
    POSTPROCESSING,
    KeptPostprocessing,
    Rule,
    describe_masks,
    read_postprocessing,
    write_postprocessing,
)
from mttu.networks.checkpoint import read_checkpoint
from mttu.patients import PatientKey, name_patients
from mttu.predict import find_postprocessing, plan_postprocessing, plan_predictions, predict_cases


class Corners(nn.Module):
    """Calls a block of each window tumour, and a voxel far from it."""

    learned_parts = True
    learned_tasks = frozenset({"segmentation", "idh"})

    def forward(self, image):
        logits = image.new_zeros(1, 4, *image.shape[2:])
        logits[:, 0] = 1.0
        logits[:, 2, 4:10, 4:10, 4:10] = 5.0
        logits[:, 2, 14, 14, 14] = 5.0
        return {"seg_logits": logits, "idh_logits": image.new_zeros(1, 2)}


def test_rules_are_chosen_on_the_val_cases_and_kept_with_the_checkpoint(trained, manifest_file):
    told = []
    plan = plan_postprocessing(trained, manifest_file)
    val = [case.case_id for case in plan.cases]
    assert len(val) == 2
    kept = find_postprocessing(plan, lambda done, case_id: told.append((done, case_id)))
    assert told == list(enumerate(val, 1))
    assert kept.num_cases == 2
    assert read_postprocessing(trained) == kept
    text = (trained / "best" / POSTPROCESSING).read_text()
    assert kept.settings["inference.overlap"] == plan.config.inference.overlap
    assert [case.patient_id in kept.patients for case in plan.cases] == [True, True]
    assert kept.patients.keys == plan.known_patients.keys  # no second digest to compute for each id
    assert not any(case.patient_id in text for case in plan.cases)


def test_weights_that_are_replaced_meanwhile_get_no_rules(trained, manifest_file, tmp_path):
    own = shutil.copytree(trained / "best", tmp_path / "best")
    (own / POSTPROCESSING).unlink(missing_ok=True)
    plan = plan_postprocessing(own, manifest_file)

    def replace_weights(done, case_id):
        (own / "weights.safetensors").write_bytes(b"other weights")

    with pytest.raises(RunError, match="its weights were replaced meanwhile; nothing is kept; run again"):
        find_postprocessing(replace(plan, cases=plan.cases[:1]), replace_weights)
    assert not (own / POSTPROCESSING).exists()


def test_a_checkpoint_that_cannot_be_written_to_is_refused_first(trained, manifest_file, monkeypatch):
    monkeypatch.setattr("mttu.predict.postprocess.find_obstacle", lambda target: f"{target.name} is not writable")
    with pytest.raises(InputError, match=r"checkpoint .*: postprocessing\.json is not writable"):
        plan_postprocessing(trained, manifest_file)


def test_cases_that_teach_or_have_no_mask_are_never_chosen_on(trained, phantom_manifest, tmp_path):
    splits = {"train": "val", "val": "train", "test": "test", "unlabelled": "unlabelled"}
    swapped = replace(
        phantom_manifest, cases=tuple(replace(case, split=splits[case.split]) for case in phantom_manifest.cases)
    )
    write_manifest(swapped, tmp_path / "swapped.parquet")
    with pytest.raises(InputError, match="4 val cases of patients that the network learned from were left out"):
        plan_postprocessing(trained, tmp_path / "swapped.parquet")
    bare = replace(
        phantom_manifest,
        cases=tuple(replace(case, seg=None) if case.split == "val" else case for case in phantom_manifest.cases),
    )
    write_manifest(bare, tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="no val case is left to choose on \\(2 val cases without a mask"):
        plan_postprocessing(trained, tmp_path / "bare.parquet")


def test_a_checkpoint_that_does_not_say_whom_it_learned_from_is_refused(checkpoint, manifest_file, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["postprocess", str(checkpoint), str(manifest_file)])
    assert stopped.value.code == 2
    assert "does not say whom it learned from" in capsys.readouterr().err


def test_predict_drops_what_was_chosen_and_says_so(checkpoint, write_demo_checkpoint, cases, tmp_path):
    own = write_demo_checkpoint(tmp_path / "own" / "best")

    def run(out, **named):
        plan = replace(plan_predictions(own, [cases / "a"], tmp_path / out, **named), networks=(Corners(),))
        (row,) = predict_cases(plan)
        metadata = pq.read_schema(tmp_path / out / "predictions.parquet").metadata
        return row, np.asarray(nib.load(tmp_path / out / "a_seg.nii.gz").dataobj), plan.notes, metadata

    before, mask_before, notes, metadata = run("without")
    assert (before.removed_ml, notes, b"postprocessing" in metadata) == (None, (), False)
    scores = {"dice_wt": 0.873}, {"dice_wt": 0.9}
    kept = KeptPostprocessing(
        {"wt": Rule(largest_only=True)},
        3,
        *scores,
        settings=describe_masks(read_checkpoint(own)[1]),
        patients=name_patients(["a"], PatientKey("0123456789abcdef", n=2)),
    )
    write_postprocessing(own, kept)
    after, mask_after, notes, metadata = run("with")
    assert after.removed_ml == pytest.approx(before.wt_ml - after.wt_ml)
    assert after.removed_ml > 0
    assert (before.postprocessing_chosen_on, after.postprocessing_chosen_on) == (None, True)
    assert 0 < np.count_nonzero(mask_after) < np.count_nonzero(mask_before)
    assert notes == (
        "post-processing, chosen on 3 validation cases: WT largest component only (Dice WT 0.873 before, 0.900 after)",
    )
    assert json.loads(metadata[b"postprocessing"])["rules"] == {"wt": {"largest_only": True, "min_mm3": 0.0}}
    off, mask_off, notes, metadata = run("off", postprocess=False)
    assert np.array_equal(mask_off, mask_before)
    assert (off.removed_ml, notes, b"postprocessing" in metadata) == (
        None,
        ("masks are not post-processed, as was asked for",),
        False,
    )
    other, mask_other, notes, metadata = run("other", changes={"inference.overlap": 0.5})
    assert (other.removed_ml, other.postprocessing_chosen_on, b"postprocessing" in metadata) == (None, None, False)
    assert np.array_equal(mask_other, mask_before)
    (note,) = notes
    overlap = kept.settings["inference.overlap"]
    assert note == (
        f"masks are not post-processed: the kept rules were chosen with inference.overlap={overlap}, now 0.5"
    )
    write_postprocessing(own, replace(kept, patients=None))
    assert run("unknown")[0].postprocessing_chosen_on is None
    band = run("band", changes={"inference.undecided_band": [0.3, 0.7]})
    assert band[0].removed_ml == after.removed_ml  # a setting that masks do not depend on


def test_the_command_shows_scores_before_and_after(trained, manifest_file, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["postprocess", str(trained), str(manifest_file), "--threads", "1"])
    assert stopped.value.code == 0
    assert not capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["postprocess", str(trained), str(manifest_file), "--threads", "1", "--json"])
    assert stopped.value.code == 0
    out, shown = capsys.readouterr()
    kept = json.loads(json.dumps(read_postprocessing(trained).to_json()))
    assert json.loads(out) == {"checkpoint": str(trained / "best"), **kept}
    assert json.loads(out)["num_cases"] == 2
    assert "mean over 2 validation cases" in shown
    assert "Dice before" in shown
    assert "post-processing, chosen on 2 validation cases: " in shown
    read_checkpoint(trained)  # the further file does no harm
