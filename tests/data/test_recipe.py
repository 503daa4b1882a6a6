"""The paper's cohort from its own tables, on a tree of tiny volumes with the 439 real ids."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mttu.data.cohort import Case, CohortRequest, build_cohort
from mttu.data.recipe import follow_paper
from mttu.errors import InputError

SHAPE = (8, 8, 8)
AFFINE = np.diag([-1.0, -1, 1, 1])
MODALITIES = ("flair", "t1ce", "t1", "t2")


def write_tree(root: Path, names: list[str], with_masks: bool, first: int) -> None:
    """A folder per case; every image has voxels of its own, since one brain under two names is refused."""
    generator = np.random.default_rng(first)
    for name in names:
        (root / name).mkdir(parents=True)
        for modality in MODALITIES:
            voxels = np.zeros(SHAPE, np.int16)
            voxels[1:7, 1:7, 1:7] = generator.integers(1, 30_000, (6, 6, 6))
            nib.save(nib.Nifti1Image(voxels, AFFINE), root / name / f"{name}_{modality}.nii")
        if with_masks:
            seg = np.zeros(SHAPE, np.uint8)
            seg[2, 2, 2] = 4
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
    assert "1 cases of the second folder have no clinical row and are left out" in found
    assert any(text.startswith("70 of 70 cases of the test have no tumour mask (") for text in found)


def bare_case(name, idh):
    return Case(name, name, "", {}, None, None, idh, None, None, None, "brats")


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
    rows = frozenset(case.case_id for case in (*training, *test)) - set(missing)
    assert not [one for one in follow_paper(training, test, rows | set(missing)).findings if one.severity == "error"]
    cohort = follow_paper([case for case in training if case.case_id in rows], test, rows)
    (error,) = [finding.text for finding in cohort.findings if finding.severity == "error"]
    assert error.startswith(f"this is not the cohort of the paper ({wrong})")
    assert advice in error


def test_the_recipe_needs_two_folders_and_tables(tmp_path):
    with pytest.raises(InputError, match="recipe paper: 1 folders and 0 tables given; expected the training folder"):
        build_cohort(CohortRequest((tmp_path,), recipe="paper"))
