"""One file, or one volume, in two cases: said of both, whatever it is a volume of, and the others go on."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_cases import LPS, MODALITIES, SHAPE, draw_brain, draw_volumes, write_case

from mttu.cohort.build import Cohort, build_cohort
from mttu.cohort.copies import find_copies, find_shared_files, find_twins
from mttu.cohort.found_cases import CohortRequest
from mttu.data.manifest import Case


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cases A, B and C, each with a brain mask of its own."""
    for number, name in enumerate("ABC", start=1):
        brain = draw_brain(SHAPE).astype(np.uint8)
        brain.flat[np.flatnonzero(brain)[:number]] = 0
        write_case(tmp_path / "data", name, {**draw_volumes(seed=number), "brainmask": brain})
    return tmp_path / "data"


def build(*places: Path, **named: object) -> Cohort:
    return build_cohort(CohortRequest(places, **named))


def told(cohort: Cohort, severity: str) -> list[tuple[str, str]]:
    found = [(finding.case_id, finding.text) for finding in cohort.findings if finding.severity == severity]
    return [(case_id, text) for case_id, text in found if not text.startswith("the brain has")]


def left(cohort: Cohort) -> list[str]:
    assert cohort.manifest is not None, cohort.errors
    return [case.case_id for case in cohort.manifest.cases]


def write_paths(root: Path, **instead: str) -> Path:
    """A table of paths of the cases; `B_t2="A/A_t2.nii.gz"` names another file."""
    lines = ["case_id,flair,t1ce,t1,t2,seg,brain_mask,labels"]
    for name in "ABC":
        files = (f"{name}/{name}_{role}.nii.gz" for role in (*MODALITIES, "seg", "brainmask"))
        roles = (f"{name}_{role}" for role in (*MODALITIES, "seg", "brainmask"))
        lines.append(
            ",".join([name, *(instead.get(role, file) for role, file in zip(roles, files, strict=True)), "brats"])
        )
    (root / "paths.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "paths.csv"


@pytest.mark.parametrize("role", ["t2", "seg", "brainmask"])
def test_a_table_of_paths_names_one_file_for_two_cases(root, role):
    table = write_paths(root, **{f"B_{role}": f"A/A_{role}.nii.gz"})
    named = "brain mask" if role == "brainmask" else role
    expected = [
        (one, f"{named} A_{role}.nii.gz: is the file of {named} of case {other} too; give each its own")
        for one, other in ("AB", "BA")
    ]
    assert told(build(table), "error") == expected
    skipped = build(table, skip_bad=True)
    assert (told(skipped, "error"), left(skipped)) == (expected, ["C"])


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_are_the_file_they_lead_to(root, link):
    (root / "B" / "B_t1.nii.gz").unlink()
    link(root / "A" / "A_t1.nii.gz", root / "B" / "B_t1.nii.gz")
    (root / "C" / "C_t1.nii.gz").unlink()
    link(root / "C" / "C_t2.nii.gz", root / "C" / "C_t1.nii.gz")
    assert told(build(root), "error") == [
        ("A", "t1 A_t1.nii.gz: is the file of t1 of case B too; give each its own"),
        ("B", "t1 B_t1.nii.gz: is the file of t1 of case A too; give each its own"),
        ("C", "t1 C_t1.nii.gz: is the file of t2 too; give each its own"),
        ("C", "t2 C_t2.nii.gz: is the file of t1 too; give each its own"),
    ]


def test_a_file_that_is_not_there_is_left_to_the_reader(root):
    case = Case("A", "A", "", {"t1": root / "nothing.nii"}, None, None, -1, None, None, None, "brats")
    assert find_shared_files([case, replace(case, case_id="B")]) == []


@pytest.mark.parametrize("role", ["flair", "t2", "seg"])
def test_a_volume_of_another_patient_is_an_error_of_both(root, role):
    image = nib.load(root / "A" / f"A_{role}.nii.gz")
    copy = np.asarray(image.dataobj).astype(np.float32)  # another number type, the same voxels
    nib.save(nib.Nifti1Image(copy, LPS), root / "B" / f"B_{role}.nii.gz")
    expected = [
        (
            one,
            f"{role} ({one}_{role}.nii.gz) has the same voxels as {role} of case {other}, while other images differ; "
            "restore the right file, or leave one of the cases out",
        )
        for one, other in ("AB", "BA")
    ]
    assert told(build(root), "error") == expected
    skipped = build(root, skip_bad=True)
    assert (told(skipped, "error"), left(skipped)) == (expected, ["C"])


def test_another_modality_of_another_patient_counts_too(root):
    shutil.copy(root / "A" / "A_t1.nii.gz", root / "B" / "B_t1ce.nii.gz")
    assert [text.partition(",")[0] for _, text in told(build(root), "error")] == [
        "t1 (A_t1.nii.gz) has the same voxels as t1ce of case B",
        "t1ce (B_t1ce.nii.gz) has the same voxels as t1 of case A",
    ]


def test_a_brain_mask_may_be_an_atlas_s(root):
    for name in "BC":
        shutil.copy(root / "A" / "A_brainmask.nii.gz", root / name / f"{name}_brainmask.nii.gz")
    cohort = build(root)
    assert left(cohort) == ["A", "B", "C"]
    assert told(cohort, "warning")[0] == (
        "A",
        "brain mask (A_brainmask.nii.gz) has the same voxels as brain mask of case B, brain mask of case C, while "
        "other images differ; check that it is right",
    )


def test_two_examinations_of_one_patient_may_share_a_volume(root):
    for role in ("t2", "seg"):
        shutil.copy(root / "A" / f"A_{role}.nii.gz", root / "B" / f"B_{role}.nii.gz")
    table = root.parent / "clinical.csv"
    table.write_text("case_id,patient_id,idh\nA,P,1\nB,P,1\nC,Q,0\n")
    cohort = build(root, clinical=(table,))
    assert (left(cohort), told(cohort, "error")) == (["A", "B", "C"], [])
    assert [case_id for case_id, _ in told(cohort, "warning")] == ["A", "A", "B", "B"]


def test_a_whole_case_under_two_names_is_told_once_and_on_two_sides_leaves_the_rest(root):
    for role in MODALITIES:
        shutil.copy(root / "A" / f"A_{role}.nii.gz", root / "B" / f"B_{role}.nii.gz")
    one_side = build(root)
    assert (left(one_side), told(one_side, "error")) == (["A", "B", "C"], [])
    (warning,) = told(one_side, "warning")
    assert "show one brain under two names" in warning[1]
    (twins,) = told(build(root, same_brain=2), "warning")
    assert twins == ("B", "all images have the same voxels as those of case A; it counts twice")

    write_case(root, "D")
    table = root.parent / "clinical.csv"
    table.write_text("case_id,idh,split\nA,1,train\nB,1,test\nC,0,train\nD,1,val\n")
    assert build(root, clinical=(table,)).manifest is None
    skipped = build(root, clinical=(table,), skip_bad=True)
    assert left(skipped) == ["C", "D"]
    (a, text), (b, other) = told(skipped, "error")
    assert (a, b) == ("A", "B")
    assert text.startswith("is one patient with B on two sides (train, test): same image (similarity ")
    assert other.startswith("is one patient with A on two sides (test, train): same image (similarity ")
    assert text.endswith("; put both into one split, or leave one out")


def test_masks_without_a_voxel_and_cases_that_were_not_read_are_no_copies():
    cases = [Case(name, name, "", {"t1": Path(name)}, Path(name), None, -1, None, None, None, "brats") for name in "AB"]
    digests = {"A": {"t1": "1"}, "B": {"t1": "2"}}
    assert find_copies(cases, cases, digests, "t1") == find_copies(cases, cases, {}, "t1") == []
    assert find_twins(cases, digests) == []


@pytest.mark.parametrize("why", ["a refused cell", "a truncated file", "no t1", "no t1 in the table"])
def test_a_case_that_is_refused_for_something_else_still_owns_its_mask(root, why):
    table = root.parent / "clinical.csv"
    table.write_text("case_id,idh,age\nA,1,50\nB,1,50\nC,0,50\n")
    shutil.copy(root / "A" / "A_seg.nii.gz", root / "B" / "B_seg.nii.gz")
    place, expected = root, "seg (B_seg.nii.gz) has the same voxels as seg of case A, while other images differ"
    file = root / "A" / "A_t1.nii.gz"
    if why == "a refused cell":
        table.write_text(table.read_text().replace("A,1,50", "A,1,1.050"))
    elif why == "a truncated file":
        file.write_bytes(file.read_bytes()[:-99])
    elif why == "no t1":
        file.unlink()
    else:
        place = write_paths(root, A_t1="", B_seg="A/A_seg.nii.gz")
        expected = "seg A_seg.nii.gz: is the file of seg of case A too; give each its own"
    cohort = build(place, clinical=(table,), skip_bad=True)
    assert left(cohort) == ["C"]
    (text,) = [text for name, text in told(cohort, "error") if name == "B"]
    assert text.startswith(expected)


def test_what_an_interrupted_copy_left_does_not_refuse_the_case_that_is_whole(root):
    for role in (*MODALITIES, "seg"):
        shutil.copy(root / "A" / f"A_{role}.nii.gz", root / "B" / f"B_{role}.nii.gz")
    (root / "B" / "B_t2.nii.gz").write_bytes(b"")
    cohort = build(root, skip_bad=True)
    assert left(cohort) == ["A", "C"]
    warnings = [text for name, text in told(cohort, "warning") if name == "A"]
    assert warnings[0] == "flair (A_flair.nii.gz) has the same voxels as flair of case B; check that it is right"


def test_masks_of_a_few_voxels_may_lie_at_one_place_by_chance(root):
    for name in "AB":
        seg = np.zeros(SHAPE, np.uint8)
        seg[10, 12, 9] = 4
        nib.save(nib.Nifti1Image(seg, LPS), root / name / f"{name}_seg.nii.gz")
    assert left(build(root)) == ["A", "B", "C"]
