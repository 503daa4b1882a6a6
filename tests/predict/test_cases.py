import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_cases import case_from_folder, score_dice

from mttu.cli import predict
from mttu.config import PrepareSettings, override
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.predict import cases as predicting
from mttu.predict import plan_predictions, predict_cases, write_segmentation

REAL = Path(os.environ.get("MTTU_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def snapshot(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_case_gets_mask_overlay_and_row(checkpoint, cases, tmp_path):
    before, out, told = snapshot(cases), tmp_path / "out", []
    rows = predict_cases(plan_predictions(checkpoint, [cases], out), lambda done, row: told.append((done, row)))
    assert snapshot(cases) == before
    assert told == [(1, rows[0]), (2, rows[1])]
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "README.txt",
        "a_overlay.png",
        "a_seg.nii.gz",
        "b_overlay.png",
        "b_seg.nii.gz",
        "predictions.csv",
        "predictions.parquet",
    ]
    for row in rows:
        assert row.error == ""
        assert row.seconds > 0
        assert 0 < row.idh_mutant_probability < 1
        source = nib.load(cases / row.case_id / f"{row.case_id}_flair.nii.gz")
        mask = nib.load(out / f"{row.case_id}_seg.nii.gz")
        labels = np.asarray(mask.dataobj)
        assert mask.shape == source.shape
        assert np.array_equal(mask.affine, source.affine)
        assert set(np.unique(labels)) <= {0, 1, 2, 4}
        assert row.wt_ml == pytest.approx(np.count_nonzero(labels) / 1000)
        assert row.tc_ml == pytest.approx(np.isin(labels, (1, 4)).sum() / 1000)
        assert row.et_ml == pytest.approx((labels == 4).sum() / 1000)
        assert row.no_tumour_found is (row.wt_ml == 0)
        assert matplotlib.image.imread(out / f"{row.case_id}_overlay.png").ndim == 3


def test_one_bad_case_does_not_stop_the_others(checkpoint, cases, tmp_path, write_case):
    write_case(cases, "c", modalities=("flair", "t1ce", "t1"))
    (cases / "a" / "a_t1.nii.gz").write_bytes(b"not a volume")
    out = tmp_path / "out"
    damaged, fine, incomplete = predict_cases(plan_predictions(checkpoint, [cases], out))
    assert fine.error == ""
    assert damaged.error.startswith("case a: a_t1.nii.gz: no readable NIfTI file")
    assert "case c: no t2" in incomplete.error
    for row in (damaged, incomplete):
        assert row.volumes_ml is None
        assert (row.idh_mutant_probability, row.no_tumour_found, row.idh_undecided) == (None, None, None)
    assert [path.name for path in sorted(out.glob("*_*"))] == ["b_overlay.png", "b_seg.nii.gz"]


def test_a_given_brain_mask_is_checked_and_what_looks_odd_is_in_the_table(checkpoint, cases, tmp_path):
    for name, shift in (("a", None), ("b", 2)):
        image = nib.load(cases / name / f"{name}_flair.nii.gz")
        brain = np.asarray(image.dataobj) != 0
        mask = ~brain if shift is None else np.roll(brain, shift, axis=0)
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), image.affine), cases / name / f"{name}_brainmask.nii.gz")
    inverted, shifted = predict_cases(plan_predictions(checkpoint, [cases], tmp_path / "out"))
    assert inverted.error.startswith(
        "case a: 100% of the voxels on the grid's faces lie in the brain mask; expected at"
    )
    assert inverted.warnings is None
    assert shifted.error == ""
    assert shifted.idh_mutant_probability is not None
    assert shifted.warnings.startswith("the brain has 0.015 litres; expected at least 0.7 l")
    assert "brain mask and skull-stripped images overlap with a Dice of 0.9" in shifted.warnings
    (_, row) = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert row["warnings"] == shifted.warnings


def test_a_phantom_has_no_warning_for_being_small(checkpoint, phantom_folder, tmp_path):
    inputs = [phantom_folder / "phantom_000"]
    (row,) = predict_cases(plan_predictions(checkpoint, inputs, tmp_path / "out"))
    assert (row.error, row.warnings) == ("", None)


def test_a_volume_that_is_a_copy_of_another_case_s_is_told_in_the_rows_of_both(
    checkpoint, cases, tmp_path, write_case, call_all
):
    write_case(cases, "c")
    for name in ("flair", "t1ce", "t1", "t2"):  # all of a, under another name
        (cases / "d").mkdir(exist_ok=True)
        shutil.copy(cases / "a" / f"a_{name}.nii.gz", cases / "d" / f"d_{name}.nii.gz")
    shutil.copy(cases / "b" / "b_t2.nii.gz", cases / "c" / "c_t2.nii.gz")
    rows = predict_cases(call_all(plan_predictions(checkpoint, [cases], tmp_path / "out"), 2))
    said = [str(row.warnings) for row in rows]
    both = "while other images differ; restore the right file, or leave one of the cases out"
    expected = [
        "all images have the same voxels as those of case d; check whose they are",
        f"t2 (b_t2.nii.gz) has the same voxels as t2 of case c, {both}",
        f"t2 (c_t2.nii.gz) has the same voxels as t2 of case b, {both}",
        "all images have the same voxels as those of case a; check whose they are",
    ]
    assert [text.endswith(sentence) for text, sentence in zip(said, expected, strict=True)] == [True] * 4, said
    assert [row.error for row in rows] == [""] * 4
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [row["warnings"] for row in table] == [row.warnings for row in rows]


def test_an_unforeseen_failure_is_told_with_its_kind_and_leaves_no_file(
    checkpoint, cases, tmp_path, call_all, monkeypatch
):
    def fail_for_a(*arguments, **named):
        raise MemoryError("no room at s3://me:hidden@host/x\nsecond line")

    monkeypatch.setattr("mttu.predict.cases.draw_overlay", fail_for_a)  # after the mask is written
    out = tmp_path / "out"
    rows = predict_cases(call_all(plan_predictions(checkpoint, [cases], out), 2))
    assert [row.error for row in rows] == [f"case {name}: MemoryError: no room at s3://host/x" for name in ("a", "b")]
    assert not list(out.glob("*_seg.nii.gz"))


def test_flags_say_no_tumour_and_undecided(checkpoint, cases, tmp_path, call_all):
    plan = plan_predictions(checkpoint, [cases / "a"], tmp_path / "out")
    (nothing,) = predict_cases(call_all(plan, 0))
    assert (nothing.no_tumour_found, nothing.wt_ml) == (True, 0.0)
    assert (nothing.idh_undecided, nothing.idh_mutant_probability) == (True, 0.5)
    changed = override(plan.config, {"inference.undecided_band": [0.6, 0.7]})
    (tumour,) = predict_cases(call_all(replace(plan, config=changed), 2))
    assert tumour.no_tumour_found is False
    assert tumour.idh_undecided is False
    assert tumour.wt_ml > 1.0


@pytest.mark.parametrize(("tasks", "segments"), [(["segmentation"], True), (["idh"], False)])
def test_a_single_task_network_writes_what_it_knows(tasks, segments, cases, tmp_path, write_demo_checkpoint):
    checkpoint = write_demo_checkpoint(tmp_path / "run" / "best", network__tasks=tasks)
    out = tmp_path / "out"
    (row,) = predict_cases(plan_predictions(checkpoint.parent, [cases / "a"], out))
    assert row.error == ""
    assert (row.volumes_ml is not None) == segments
    assert (row.no_tumour_found is not None) == segments
    assert (row.idh_mutant_probability is None) == segments
    assert (row.idh_undecided is None) == segments
    assert (out / "a_seg.nii.gz").exists() == segments
    assert (out / "a_overlay.png").exists()


def test_the_enhancing_threshold_counts_cubic_millimetres(checkpoint, cases, tmp_path, call_all):
    def volumes(threshold):
        plan = plan_predictions(
            checkpoint,
            [cases / "a"],
            tmp_path / "out",
            changes={"inference.min_enhancing_mm3": threshold},
        )
        return predict_cases(call_all(plan, 3))[0].volumes_ml

    kept = volumes(0.0)
    assert kept["et"] == kept["tc"] > 0
    all_of_it = kept["et"] * 1000
    assert volumes(all_of_it) == kept
    assert volumes(all_of_it + 1) == {**kept, "et": 0.0}


@pytest.mark.parametrize(
    ("convention", "index", "label"),
    [("brats", 1, 1), ("brats", 3, 4), ("brats2013", 3, 4), ("whole-tumour", 1, 1), ("whole-tumour", 2, 1)],
)
def test_masks_are_written_in_the_chosen_convention(checkpoint, cases, tmp_path, call_all, convention, index, label):
    plan = plan_predictions(checkpoint, [cases / "a"], tmp_path / "out", labels=convention)
    predict_cases(call_all(plan, index))
    assert np.unique(np.asarray(nib.load(tmp_path / "out" / "a_seg.nii.gz").dataobj)).tolist() == [label]


def test_a_mask_of_the_cases_own_is_not_read(checkpoint, tmp_path, write_case):
    odd = write_case(tmp_path / "odd", "c", seg=np.full((30, 34, 28), 77))
    (row,) = predict_cases(plan_predictions(checkpoint, [odd], tmp_path / "out"))
    assert row.error == ""
    assert np.asarray(nib.load(odd / "c_seg.nii.gz").dataobj).max() == 77


def oblique_affine():
    angle = np.radians(12.0)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, -1.0, 1.0])
    affine[:3, 3] = (31.0, 12.5, -70.0)
    return affine


def swapped_affine():
    """First axis to the head, second to the right, third to the front."""
    return np.array([[0, 1.0, 0, -9], [0, 0, 1.0, 4], [1.0, 0, 0, -30], [0, 0, 0, 1]])


GRIDS = {
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "RAS": np.eye(4),
    "flipped": np.diag([1.0, -1.0, -1.0, 1.0]),
    "swapped": swapped_affine(),
    "oblique": oblique_affine(),
}


def asymmetric_lesion(shape, spacing_mm):
    """Off-centre ellipsoids, so that no flip or transposition of the grid goes unnoticed."""
    places = [(np.arange(size) + 0.5) * step for size, step in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*places, indexing="ij")
    extent = [size * step for size, step in zip(shape, spacing_mm, strict=True)]
    centre = [0.4 * extent[0], 0.45 * extent[1], 0.56 * extent[2]]
    seg = np.zeros(shape, dtype=np.uint8)
    for label, radii in ((2, (13, 10, 11)), (1, (9, 7, 8)), (4, (6, 5, 7))):
        shift = label - 1
        distance = [
            (axis - middle - shift) / radius for axis, middle, radius in zip((x, y, z), centre, radii, strict=True)
        ]
        seg[sum(part**2 for part in distance) <= 1] = label
    return seg


def prepare_and_restore(folder, out):
    """A ground-truth mask before, and after preparation and writing."""
    case = case_from_folder(folder, "brats", ("flair",))
    prepared = prepare_case(case, ("flair",), PrepareSettings())
    path = out / f"{case.case_id}_written.nii.gz"
    write_segmentation(path, prepared.seg, prepared.geometry, "brats")
    return nib.load(folder / f"{case.case_id}_seg.nii.gz"), nib.load(path)


def dice(truth, written):
    first, second = (torch.from_numpy(np.asarray(image.dataobj).astype(np.uint8)) for image in (truth, written))
    return dict(score_dice(torch.where(second == 4, 3, second), torch.where(first == 4, 3, first)))


@pytest.mark.parametrize("grid", list(GRIDS))
def test_ground_truth_returns_exactly_on_1_mm_grids(grid, tmp_path, write_case):
    shape = (40, 44, 50)
    seg = asymmetric_lesion(shape, np.ones(3))
    folder = write_case(tmp_path, "truth", shape, GRIDS[grid], seg, modalities=("flair",))
    truth, written = prepare_and_restore(folder, tmp_path)
    assert set(np.unique(np.asarray(truth.dataobj))) == {0, 1, 2, 4}
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(truth.dataobj))
    assert dice(truth, written) == {"wt": 1.0, "tc": 1.0, "et": 1.0}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ground_truth_returns_nearly_on_thick_slices(axis, tmp_path, write_case):
    spacing = np.ones(3)
    spacing[axis] = 3.0
    shape = tuple(round(54 / step) for step in spacing)
    affine = oblique_affine() @ np.diag([*spacing, 1.0])
    seg = asymmetric_lesion(shape, spacing)
    truth, written = prepare_and_restore(
        write_case(tmp_path, "thick", shape, affine, seg, modalities=("flair",)), tmp_path
    )
    assert written.shape == truth.shape
    assert min(dice(truth, written).values()) >= 0.9


@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2), (3, 4)])
def test_the_header_keeps_both_forms_and_their_codes(qform, sform, tmp_path, write_case):
    folder = write_case(tmp_path, "coded", (24, 26, 28), oblique_affine(), modalities=("flair",))
    path = folder / "coded_flair.nii.gz"
    image = nib.load(path)
    voxels = np.asarray(image.dataobj)
    image.set_qform(oblique_affine(), code=qform)
    image.set_sform(oblique_affine(), code=sform)
    nib.save(nib.Nifti1Image(voxels, None, image.header), path)
    source = nib.load(path)
    prepared = prepare_case(case_from_folder(folder, "brats", ("flair",)), ("flair",), PrepareSettings())
    written_path = tmp_path / "written.nii.gz"
    write_segmentation(written_path, np.ones(prepared.geometry.crop_shape, np.uint8), prepared.geometry, "brats")
    written = nib.load(written_path)
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    for name in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "pixdim"):
        assert np.array_equal(written.header[name], source.header[name]), name
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (qform, sform)
    assert written.get_data_dtype() == np.uint8


@pytest.mark.real
@pytest.mark.parametrize("case_id", ["TCGA-DU-7294", "TCGA-FG-6692"])
def test_the_mask_of_a_real_patient_returns_exactly(case_id, tmp_path):
    folder = REAL / "tcga_lgg" / case_id
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set MTTU_REAL_DATA")
    truth, written = prepare_and_restore(folder, tmp_path)
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(truth.dataobj))
    assert np.array_equal(written.affine, truth.affine)


def test_a_head_that_never_saw_a_label_gives_no_probability_and_says_why(checkpoint, cases, tmp_path, monkeypatch):
    network, config = read_checkpoint(checkpoint)
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {}, learned_tasks=["segmentation"])
    remarks = []
    draw = predicting.draw_overlay
    monkeypatch.setattr(
        predicting, "draw_overlay", lambda *said, **more: (remarks.extend(said[-1]), draw(*said, **more))[1]
    )
    told = []
    monkeypatch.setattr("mttu.cli.tell", told.append)
    predict(tmp_path / "best", [cases / "a"], tmp_path / "out")
    reason = "no IDH probability: no training case had a known IDH status"
    assert told == [reason, "the checkpoint does not say whom it learned from"]
    assert remarks[-1] == reason
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    (row,) = table.to_pylist()
    assert (row["idh_mutant_probability"], row["idh_undecided"], row["missing"]) == (None, None, reason)
    assert row["wt_ml"] is not None
    assert json.loads(table.schema.metadata[b"missing"]) == {"idh": reason}
    write_checkpoint(tmp_path / "none", network.state_dict(), config, {}, learned_tasks=[])
    with pytest.raises(InputError, match="nothing to predict: no segmentation: no training case had a tumour mask; no"):
        plan_predictions(tmp_path / "none", [cases / "a"], tmp_path / "other")
