"""The paper's cohort from its own tables, on a tree of tiny volumes with the 439 real ids."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mttu.cohort.build import build_cohort
from mttu.cohort.clinical_rows import ClinicalRow
from mttu.cohort.found_cases import CohortRequest
from mttu.cohort.id_matching import join_clinical
from mttu.cohort.leakage import CrosswalkRow, find_leaks, link_patients
from mttu.cohort.splits import follow_paper
from mttu.data.manifest import Case
from mttu.errors import InputError

SHAPE = (8, 8, 8)
AFFINE = np.diag([-1.0, -1, 1, 1])
MODALITIES = ("flair", "t1ce", "t1", "t2")


def write_tree(root: Path, names: list[str], with_masks: bool, first: int) -> None:
    """A folder per case; every volume has voxels of its own, since one under two names is refused."""
    generator = np.random.default_rng(first)
    for name in names:
        (root / name).mkdir(parents=True)
        for modality in MODALITIES:
            voxels = np.zeros(SHAPE, np.int16)
            voxels[1:7, 1:7, 1:7] = generator.integers(1, 30_000, (6, 6, 6))
            nib.save(nib.Nifti1Image(voxels, AFFINE), root / name / f"{name}_{modality}.nii")
        if with_masks:
            seg = np.zeros(SHAPE, np.uint8)
            seg[2:5, 2:5, 2:5] = 4 * generator.integers(0, 2, (3, 3, 3))
            nib.save(nib.Nifti1Image(seg, AFFINE), root / name / f"{name}_seg.nii")


@pytest.fixture(scope="module")
def tables(real_data):
    folder = real_data / "brats2020_idh_tables"
    return folder / "IDH_train_data.csv", folder / "IDH_test_data.csv"


@pytest.fixture(scope="module")
def tree(tables, tmp_path_factory):
    root = tmp_path_factory.mktemp("brats2020")
    for number, (name, table) in enumerate(zip(("MICCAI_BraTS2020_TrainingData", "Validation"), tables, strict=True)):
        with table.open(encoding="utf-8-sig", newline="") as file:
            names = [row["BraTS_2020_ID"] for row in csv.DictReader(file)]
        if number == 1:
            names.append("BraTS20_Validation_999")  # not every case of the validation set has an IDH status
        write_tree(root / name, names, with_masks=number == 0, first=number)
    return root / "MICCAI_BraTS2020_TrainingData", root / "Validation"


def notes(cohort):
    return [finding.text for finding in cohort.findings if finding.severity == "note"]


@pytest.mark.real
def test_the_recipe_gives_the_papers_counts(tree, tables):
    cohort = build_cohort(CohortRequest(tree, tables, recipe="paper"))
    manifest = cohort.manifest
    assert manifest is not None, cohort.errors
    labelled = (*manifest.split("train"), *manifest.split("val"))
    unlabelled, test = manifest.split("unlabelled"), manifest.split("test")
    assert (len(labelled), len(unlabelled), len(test)) == (148, 221, 70)
    assert [sum(case.idh == idh for case in labelled) for idh in (1, 0)] == [57, 91]
    assert [sum(case.idh == idh for case in test) for idh in (1, 0)] == [32, 38]
    assert len(manifest.split("val")) == pytest.approx(0.2 * 148, abs=1)
    found = notes(cohort)
    assert "1 case of the second folder has no clinical row: left out" in found
    assert any(text.startswith("70 of 70 cases of the test have no tumour mask (") for text in found)


def bare_case(name, idh):
    return Case(name, name, "", {}, None, None, idh, None, None, None, "brats")


def errors(findings):
    return [finding.text for finding in findings if finding.severity == "error"]


@pytest.mark.parametrize(
    ("missing", "wrong", "advice"),
    [
        (("mutant_0",), "labelled, mutant: 56 instead of 57", "give both complete folders and both tables"),
        (("unlabelled_0", "unlabelled_1"), "unlabelled: 219 instead of 221", "or leave out --recipe"),
        (
            tuple(f"test_{number}" for number in range(70)),
            "test, mutant: 0 instead of 32; test, wild type: 0 instead of 38",
            "BraTS 2021 has other case names: pass --crosswalk with a table of the BraTS 2020 and 2021 names",
        ),
    ],
)
def test_another_cohort_is_refused_with_the_counts(missing, wrong, advice):
    groups = {"mutant": (57, 1), "wild": (91, 0), "unlabelled": (221, -1)}
    training = [bare_case(f"{name}_{index}", idh) for name, (count, idh) in groups.items() for index in range(count)]
    test = [bare_case(f"test_{index}", int(index < 32)) for index in range(70)]
    every = {case.case_id: number for number, case in enumerate((*training, *test))}
    assert errors(follow_paper(training, test, every)[1]) == []
    rows = {name: number for name, number in every.items() if name not in missing}
    _, findings = follow_paper([case for case in training if case.case_id in rows], test, rows)
    (error,) = errors(findings)
    assert error.startswith(f"this is not the cohort of the paper ({wrong})")
    assert advice in error


def paper_rows():
    """The rows of the paper's tables: 148 labelled, 221 unlabelled, 70 test."""
    kinds = [1] * 57 + [0] * 91 + [-1] * 221 + [1] * 32 + [0] * 38
    names = [f"BraTS20_Training_{number:03d}" for number in range(369)]
    names += [f"BraTS20_Validation_{number:03d}" for number in range(70)]
    return [
        ClinicalRow(line, frozenset({name}), None, idh, None, None, None, None, None, frozenset(), "t.csv")
        for line, (name, idh) in enumerate(zip(names, kinds, strict=True), start=2)
    ]


def test_brats_2021_with_the_full_mapping_gives_the_paper_without_the_training_patients():
    rows = paper_rows()
    old = [min(row.ids) for row in rows]
    new = [f"BraTS2021_{number:05d}" for number in range(len(old))]
    crosswalk = [CrosswalkRow(line, names) for line, names in enumerate(zip(old, new, strict=True), start=2)]
    training = [bare_case(name, -1) for name in old[:369]]
    second = [bare_case(name, -1) for name in (*new, "BraTS2021_09999")]
    cases = [*training, *second]
    joined = join_clinical(cases, rows, crosswalk, [case.case_id for case in cases])
    paper, findings = follow_paper(joined.cases[:369], joined.cases[369:], joined.row_of, with_crosswalk=True)
    assert errors(findings) == []
    test = [case for case in paper if case.split == "test"]
    assert [case.case_id for case in test] == new[369:]
    assert [sum(case.idh == idh for case in test) for idh in (1, 0)] == [32, 38]
    assert [finding.text for finding in findings][:2] == [
        "1 case of the second folder has no clinical row: left out",
        "369 cases of the second folder are in the training folder under another name: left out",
    ]
    linked = link_patients(paper, (), crosswalk)
    assert find_leaks(linked.cases, linked.links).problems == []


def test_a_crosswalk_without_the_names_of_the_second_folder_is_not_asked_for_again():
    (error,) = errors(follow_paper([], [bare_case("X", -1)], {}, True)[1])
    assert "the crosswalk needs the names of its cases and those of the test table" in error
    assert "pass --crosswalk" not in error


def test_the_recipe_needs_two_folders_and_tables(tmp_path):
    with pytest.raises(InputError, match="recipe paper: 1 folders and 0 tables given; expected the training folder"):
        build_cohort(CohortRequest((tmp_path,), recipe="paper"))
