"""What a hospital's folder can have wrong with it: each case is named, with the value, what is allowed, what to do."""

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_cases import LPS, SHAPE, draw_brain, draw_volumes, write_case

from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.data.findings import Finding

Break = Callable[[Path], object]


def save(path: Path, voxels: Any, affine: Any = LPS) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), path)


def voxels(name: str = "flair") -> Any:
    return draw_volumes()[name]


def with_value(name: str, value: float, dtype: Any = np.float32) -> Any:
    changed = voxels(name).astype(dtype)
    changed[10, 12, 9] = value
    return changed


def moved(axis: int, millimetres: float) -> Any:
    affine = LPS.copy()
    affine[axis, 3] += millimetres
    return affine


def damage_header(path: Path, offset: int, value: bytes) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[offset : offset + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content)))


ERRORS: list[tuple[str, Break, str]] = [
    ("missing", lambda f: (f / "B_t1.nii.gz").unlink(), "no t1; expected <case>_t1.nii.gz or <case>_t1.nii"),
    (
        "doubled",
        lambda f: save(f / "B_t1.nii", voxels("t1")),
        "t1 is there 2 times (B_t1.nii.gz and B_t1.nii); keep one of them",
    ),
    (
        "two masks",
        lambda f: save(f / "B_seg.nii", voxels("seg")),
        "seg is there 2 times (B_seg.nii.gz and B_seg.nii); keep one of them",
    ),
    (
        "zero bytes",
        lambda f: (f / "B_t2.nii.gz").write_bytes(b""),
        "B_t2.nii.gz: is empty (0 bytes); restore it from its source",
    ),
    (
        "truncated",
        lambda f: (f / "B_t2.nii.gz").write_bytes((f / "B_t2.nii.gz").read_bytes()[:-900]),
        "B_t2.nii.gz: voxels cannot be read (Compressed file ended before",
    ),
    (
        "cut in the header",
        lambda f: (f / "B_t2.nii.gz").write_bytes((f / "B_t2.nii.gz").read_bytes()[:60]),
        "B_t2.nii.gz: no readable NIfTI file (",
    ),
    (
        "checksum",
        lambda f: (f / "B_t2.nii.gz").write_bytes((f / "B_t2.nii.gz").read_bytes()[:-8] + b"\0" * 8),
        "B_t2.nii.gz: voxels cannot be read (CRC check failed",
    ),
    (
        "a web page",
        lambda f: (f / "B_t2.nii.gz").write_bytes(b"<html>404</html>" * 40),
        "B_t2.nii.gz: no readable NIfTI file (",
    ),
    (
        "not packed",
        lambda f: (f / "B_t2.nii.gz").write_bytes(gzip.decompress((f / "B_t2.nii.gz").read_bytes())),
        "B_t2.nii.gz: no readable NIfTI file (",
    ),
    (
        "another format",
        lambda f: (
            nib.save(nib.freesurfer.MGHImage(voxels().astype(np.float32), LPS), f / "x.mgz")
            or (f / "x.mgz").rename(f / "B_t2.nii.gz")
        ),
        "B_t2.nii.gz: no readable NIfTI file (",
    ),
    (
        "two-dimensional",
        lambda f: save(f / "B_t1.nii.gz", voxels("t1")[:, :, 9]),
        "B_t1.nii.gz: has shape (20, 24); expected three axes of 2 to 1024 voxels",
    ),
    (
        "four-dimensional",
        lambda f: save(f / "B_t1.nii.gz", np.stack([voxels("t1")] * 2, axis=3)),
        "B_t1.nii.gz: has shape (20, 24, 18, 2), 2 volumes in one file; expected one volume, three axes of 2 to 1024 "
        "voxels; keep the one that is meant, or give each modality a file of its own",
    ),
    (
        "one slice",
        lambda f: save(f / "B_t1.nii.gz", voxels("t1")[:, :, 9:10]),
        "B_t1.nii.gz: has shape (20, 24, 1); expected three axes of 2 to 1024 voxels",
    ),
    (
        "colours",
        lambda f: save(f / "B_t1.nii.gz", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "B_t1.nii.gz: has voxels of type [('R', 'u1'), ('G', 'u1'), ('B', 'u1')]; expected integers or floats",
    ),
    (
        "complex numbers",
        lambda f: save(f / "B_t1.nii.gz", voxels("t1").astype(np.complex64)),
        "B_t1.nii.gz: has voxels of type complex64; expected integers or floats",
    ),
    (
        "another shape",
        lambda f: save(f / "B_t1.nii.gz", voxels("t1")[:, :, :-1]),
        "flair and t1 have different grids: shape (20, 24, 18) and (20, 24, 17); register all volumes",
    ),
    (
        "another place",
        lambda f: save(f / "B_t1.nii.gz", voxels("t1"), moved(2, 1.5)),
        "flair and t1 have different grids: affine (row 2, column 3: 0 and 1.5); register all volumes",
    ),
    (
        "another handedness",
        lambda f: save(f / "B_t1.nii.gz", voxels("t1"), np.diag([1.0, -1, 1, 1]) @ LPS),
        "flair and t1 have different grids: affine (row 1, column 3: 23 and -23)",
    ),
    (
        "mask on another grid",
        lambda f: save(f / "B_seg.nii.gz", voxels("seg"), moved(0, 0.01)),
        "flair and seg have different grids: affine (row 0, column 3: 0 and 0.01)",
    ),
    (
        "NaN",
        lambda f: save(f / "B_t1ce.nii.gz", with_value("t1ce", np.nan)),
        "B_t1ce.nii.gz: 1 voxel is NaN or infinite; put another value there",
    ),
    (
        "infinite",
        lambda f: save(f / "B_t1ce.nii.gz", with_value("t1ce", -np.inf)),
        "B_t1ce.nii.gz: 1 voxel is NaN or infinite; put another value there",
    ),
    (
        "overflow",
        lambda f: save(f / "B_t1ce.nii.gz", with_value("t1ce", 1e300, np.float64)),
        "B_t1ce.nii.gz: 1 voxel is NaN or infinite; put another value there",
    ),
    (
        "constant",
        lambda f: save(f / "B_t1ce.nii.gz", np.where(voxels("t1ce") != 0, 7, 0).astype(np.int16)),
        "t1ce is 7 everywhere in the brain; replace the file",
    ),
    (
        "no brain",
        lambda f: [save(f / f"B_{n}.nii.gz", np.zeros(SHAPE, np.int16)) for n in ("flair", "t1ce", "t1", "t2")],
        "no brain: all modalities are 0 everywhere; replace the files",
    ),
    (
        "empty brain mask",
        lambda f: save(f / "B_brainmask.nii.gz", np.zeros(SHAPE, np.uint8)),
        "no brain: the brain mask has no voxel above 0.5; replace the files",
    ),
    (
        "brain mask of ones",
        lambda f: save(f / "B_brainmask.nii.gz", np.ones(SHAPE, np.uint8)),
        "100% of the voxels on the grid's faces lie in the brain mask; expected at most 5%; is it the brain mask of",
    ),
    (
        "inverted brain mask",
        lambda f: save(f / "B_brainmask.nii.gz", (~draw_brain(SHAPE)).astype(np.uint8)),
        "100% of the voxels on the grid's faces lie in the brain mask; expected at most 5%; is it the brain mask of",
    ),
    (
        "tumour as brain mask",
        lambda f: save(f / "B_brainmask.nii.gz", voxels("seg")),
        "brain mask and skull-stripped images overlap with a Dice of 0.15 (100% of the mask lie on what they show)",
    ),
    (
        "brain as tumour mask",
        lambda f: save(f / "B_seg.nii.gz", draw_brain(SHAPE).astype(np.uint8)),
        "the tumour mask has 100% of the brain's voxels; expected at most 40%; is one mask given as the other?",
    ),
    (
        "tumour beside the brain",
        lambda f: save(f / "B_seg.nii.gz", np.roll(voxels("seg"), 10, axis=0)),
        "64% of the 210 tumour voxels lie outside of the brain, where no image is other than 0; expected at most 2%; ",
    ),
    (
        "spacing in metres",
        lambda f: save(f / "B_flair.nii.gz", voxels(), np.diag([0.001, 0.001, 0.001, 1])),
        "B_flair.nii.gz: has voxel spacing [0.001, 0.001, 0.001] mm; expected 0.1 to 20",
    ),
    (
        "spacing in micrometres",
        lambda f: save(f / "B_flair.nii.gz", voxels(), np.diag([1000.0, 1000, 1000, 1])),
        "B_flair.nii.gz: has voxel spacing [1000.0, 1000.0, 1000.0] mm; expected 0.1 to 20",
    ),
    (
        "flat grid",
        lambda f: save(f / "B_flair.nii.gz", voxels(), [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]),
        "B_flair.nii.gz: two axes of its affine are parallel; repair the header",
    ),
    (
        "foreign labels",
        lambda f: save(f / "B_seg.nii.gz", with_value("seg", 3, np.uint8)),
        "seg has labels {0, 1, 2, 3, 4}; expected a subset of {0, 1, 2, 4} (BraTS to 2021); pass --labels NAME",
    ),
    (
        "labels between labels",
        lambda f: save(f / "B_seg.nii.gz", with_value("seg", 1.5)),
        "seg has values {1.5} that are not whole numbers; expected labels; resample masks by nearest neighbour",
    ),
    (
        "negative labels",
        lambda f: save(f / "B_seg.nii.gz", with_value("seg", -1, np.int16)),
        "seg has labels {-1, 0, 1, 2, 4}; expected a subset of {0, 1, 2, 4}",
    ),
    (
        "empty mask",
        lambda f: save(f / "B_seg.nii.gz", np.zeros(SHAPE, np.uint8)),
        "seg has no tumour voxel; leave the file away if there is no mask",
    ),
    (
        "names of another layout",
        lambda f: [path.rename(path.with_name(path.name.replace("B_", "scan_"))) for path in list(f.iterdir())],
        "the folder holds 5 NIfTI files (scan_flair.nii.gz, scan_seg.nii.gz, scan_t1.nii.gz, ...) but no image that",
    ),
    (
        "a header that promises too much",
        lambda f: damage_header(f / "B_t2.nii.gz", 42, np.array([1000, 1000, 1000], "<i2").tobytes()),
        "B_t2.nii.gz: has shape (1000, 1000, 1000); expected at most 134217728 voxels",
    ),
    (
        "more voxels than the header says",
        lambda f: (f / "B_t2.nii.gz").write_bytes(
            gzip.compress(gzip.decompress((f / "B_t2.nii.gz").read_bytes()) + b"\0" * 2**21)
        ),
        "B_t2.nii.gz: holds more than the",
    ),
    (
        "voxels that start nowhere",
        lambda f: damage_header(f / "B_t2.nii.gz", 108, np.array([1e9], "<f4").tobytes()),
        "B_t2.nii.gz: voxels start at byte 1000000000; expected at most 16777216; repair the header",
    ),
]


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "data"
    for name in ("A", "B"):
        write_case(root, name)
    return root


@pytest.mark.parametrize(("break_it", "expected"), [error[1:] for error in ERRORS], ids=[error[0] for error in ERRORS])
def test_each_bad_case_is_named_with_its_value_and_can_be_skipped(good_folder, tmp_path, break_it, expected):
    root = tmp_path / "data"
    shutil.copytree(good_folder, root)
    break_it(root / "B")
    cohort = build_cohort(CohortRequest((root,)))
    assert cohort.manifest is None
    errors = [finding for finding in cohort.findings if finding.severity == "error"]
    assert {finding.case_id for finding in errors} == {"B"}
    assert any(finding.text.startswith(expected) for finding in errors), [finding.text for finding in errors]
    assert cohort.errors == [f"case B: {finding.text}" for finding in errors]
    skipped = build_cohort(CohortRequest((root,), skip_bad=True))
    assert skipped.manifest is not None
    assert [case.case_id for case in skipped.manifest.cases] == ["A"]
    assert [finding for finding in skipped.findings if finding.severity == "error"] == errors
    assert Finding("note", "", "1 case with errors is left out") in skipped.findings


SHIFTED = np.array([[-1.0, 0, 0, 9], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1]])
MIRRORED = np.array([[1.0, 0, 0, -19], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1]])


def save_two_forms(path: Path, qform: Any) -> None:
    image = nib.load(path)
    image.set_qform(qform, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)


WARNINGS: list[tuple[str, Break, str]] = [
    (
        "shifted brain mask",
        lambda f: save(f / "B_brainmask.nii.gz", np.roll(draw_brain(SHAPE), 1, axis=0).astype(np.uint8)),
        "brain mask and skull-stripped images overlap with a Dice of 0.91 (91% of the mask lie on what they show); "
        "expected at least 0.95; is it the brain mask of this case, on its grid and not inverted?",
    ),
    (
        "some tumour beside the brain",
        lambda f: save(f / "B_seg.nii.gz", np.roll(voxels("seg"), 5, axis=0)),
        "3.3% of the 210 tumour voxels lie outside of the brain, where no image is other than 0; expected at most 2%; "
        "is the mask of this case, and not shifted or mirrored?",
    ),
    (
        "two placements of an image",
        lambda f: save_two_forms(f / "B_t2.nii.gz", SHIFTED),
        "B_t2.nii.gz: sform (code 2) and qform (code 1) disagree by 9 mm at a corner of the grid; the sform is used, "
        "other programs may use the qform; mend the header",
    ),
    (
        "two placements of a mask",
        lambda f: save_two_forms(f / "B_seg.nii.gz", MIRRORED),
        "B_seg.nii.gz: sform (code 2) and qform (code 1) disagree by 19 mm at a corner of the grid and left and right "
        "are opposite; the sform is used, other programs may use the qform; mend the header",
    ),
    (
        "a small brain",
        lambda f: None,
        "the brain has 0.0026 litres; expected at least 0.7 l but for infants and parts of a brain; check voxel "
        "spacing and brain mask",
    ),
]


@pytest.mark.parametrize(("break_it", "expected"), [kind[1:] for kind in WARNINGS], ids=[kind[0] for kind in WARNINGS])
def test_what_may_be_right_is_a_warning_that_stops_nothing(good_folder, tmp_path, break_it, expected):
    root = tmp_path / "data"
    shutil.copytree(good_folder, root)
    break_it(root / "B")
    cohort = build_cohort(CohortRequest((root,)))
    assert cohort.manifest is not None, cohort.errors
    assert Finding("warning", "B", expected) in cohort.findings


def test_there_are_at_least_thirty_kinds_of_bad_cases():
    assert len({error[0] for error in ERRORS}) == len(ERRORS) >= 30


def test_what_cannot_be_skipped_refuses_even_so(good_folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("name,idh\nA,perhaps\n")
    cohort = build_cohort(CohortRequest((good_folder,), (table,), skip_bad=True))
    assert cohort.manifest is None
    assert cohort.errors[0].startswith(f"clinical table {table}: no column with ids")


def test_a_refused_row_is_an_error_of_its_case(good_folder, tmp_path):
    table, other = tmp_path / "t.csv", tmp_path / "u.csv"
    table.write_text("case_id,idh,age\nA,perhaps,30\nB,1,30\n,1,30\nC,0,1.050\n")
    request = CohortRequest((good_folder,), (table,))
    assert [problem.partition(": ")[2][:7] for problem in build_cohort(request).errors] == [
        "line 2:",
        "line 4:",
        "line 5:",
    ]
    cohort = build_cohort(replace(request, skip_bad=True))
    assert [case.case_id for case in cohort.manifest.cases] == ["B"]
    (error,) = cohort.errors
    assert error.startswith(f"case A: {table} line 2: idh is 'perhaps'; expected Mutant")
    warnings = [finding.text for finding in cohort.findings if finding.severity == "warning" and not finding.case_id]
    assert warnings[0] == f"clinical table {table}: line 4: names no case; fill in an id or take the line out"
    assert warnings[1].startswith(f"clinical table {table} line 5: age is '1.050'; expected years")
    assert warnings[1].endswith("(no case here)")
    other.write_text("case_id,split\nA,test\nB,test\n")
    table.write_text("case_id,idh,split\nA,1\nB,1,train\n")
    cohort = build_cohort(replace(request, clinical=(table, other), skip_bad=True))
    assert cohort.manifest is None
    assert cohort.errors == [
        f"case A: {table} line 2: has not 3 values as the header",
        f"case B: split is 'train' ({table} line 3) and 'test' ({other} line 3); correct one of the tables",
        "no case is left",
    ]


def test_if_every_case_is_bad_nothing_is_left(good_folder, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(good_folder, root)
    for name in "AB":
        (root / name / f"{name}_t1.nii.gz").write_bytes(b"")
    cohort = build_cohort(CohortRequest((root,), skip_bad=True))
    assert cohort.manifest is None
    assert "no case is left" in cohort.errors[-1]
