import shutil

import nibabel as nib
import numpy as np
import pytest

from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.cohort.label_checks import look_at_mask
from mttu.data.labels import from_classes, to_classes
from mttu.data.volumes import read_volume


@pytest.fixture
def rewrite(phantom_folder, tmp_path):
    """Copies four cases of the phantom with their masks changed: `rewrite(convention or function of classes, ...)`."""

    def copy(change, names=("phantom_000", "phantom_001", "phantom_002", "phantom_003"), root="data"):
        for name in names:
            folder = shutil.copytree(phantom_folder / name, tmp_path / root / name)
            path = folder / f"{name}_seg.nii.gz"
            mask = nib.load(path)
            classes = to_classes(np.asarray(mask.dataobj), "brats", name)
            voxels = from_classes(classes, change) if isinstance(change, str) else change(classes)
            nib.save(nib.Nifti1Image(voxels.astype(np.uint8), mask.affine), path)
        return tmp_path / root

    return copy


def told(folder, labels=None):
    cohort = build_cohort(CohortRequest((folder,), labels=labels))
    assert cohort.manifest is not None, cohort.errors
    texts = [finding.text for finding in cohort.findings if finding.case_id == "" and "label" in finding.text]
    return texts, cohort.manifest


def test_masks_of_the_whole_tumour_are_not_taken_for_one_part_without_a_word(rewrite):
    folder = rewrite("whole-tumour")
    assert told(folder)[0] == [
        "4 of 4 masks (phantom_000, phantom_001, phantom_002, phantom_003) hold no label but 1, which --labels brats "
        "reads as NCR/NET; if it is the whole tumour, pass --labels whole-tumour"
    ]
    assert told(folder, "whole-tumour")[0] == []


def test_the_order_of_msd_is_seen_by_what_surrounds_what(rewrite):
    folder = rewrite("msd")
    (text,), _ = told(folder, "brats2023")
    assert text == (
        "in 4 of 4 masks (phantom_000, phantom_001, phantom_002, phantom_003) what --labels brats2023 reads as NCR/NET "
        "(label 1) surrounds what it reads as edema (label 2), but edema surrounds the core; the order is likely that "
        "of MSD and nnU-Net: pass --labels msd"
    )
    texts, manifest = told(folder, "msd")
    assert texts == []
    case = manifest.cases[0]
    assert case.labels == "msd"
    right = read_volume(case.seg, case.case_id).get_fdata()
    assert set(np.unique(to_classes(right, "msd", "A"))) <= {0, 1, 2, 3}


def test_the_order_of_brats_is_seen_under_the_name_of_msd(rewrite):
    (text,), _ = told(rewrite("brats2023"), "msd")
    assert text.endswith("the order is likely that of BraTS: pass --labels brats2023")
    assert "(label 2) surrounds what it reads as edema (label 1)" in text


def test_one_swapped_source_of_two_is_seen(rewrite):
    rewrite("brats2023", ("phantom_000", "phantom_001", "phantom_002"), "data/one")
    folder = rewrite("msd", ("phantom_003", "phantom_004"), "data/two").parent
    (text,), _ = told(folder, "brats2023")
    assert text.startswith("in 2 of 2 masks (phantom_003, phantom_004) what")


def test_one_odd_mask_of_four_is_no_finding(rewrite):
    rewrite("whole-tumour", ("phantom_000",))
    assert told(rewrite("brats", ("phantom_001", "phantom_002", "phantom_003")))[0] == []


def test_a_class_that_no_mask_has_is_noted(rewrite):
    folder = rewrite(lambda classes: np.where(classes == 3, 0, classes))
    assert told(folder)[0] == [
        "none of 4 masks read with --labels brats holds enhancing (label 4); is this what its labels mean?"
    ]


def test_too_small_a_part_says_nothing_of_its_surroundings():
    seg = np.zeros((9, 9, 9), np.uint8)
    seg[2:7, 2:7, 2:7] = 1
    seg[4, 4, 4] = 2
    look = look_at_mask(seg)
    assert (look.classes, look.core_outside) == ({1, 2}, None)
    seg[3:6, 3:6, 3:6] = 2
    assert look_at_mask(seg).core_outside == pytest.approx(150 / (150 + 54))


@pytest.mark.real
def test_edema_surrounds_the_core_of_real_patients(real_data):
    for labels, folder in (("brats", "tcga_lgg"), ("brats2013", "brats2013_flair_t1c")):
        for path in sorted((real_data / folder).glob("*/*_seg.nii.gz")):
            seg = to_classes(read_volume(path, "A").get_fdata(dtype=np.float32), labels, "A")
            assert look_at_mask(seg).core_outside < -0.5, path.name
            swapped = np.array([0, 2, 1, 3], np.uint8)[seg]
            assert look_at_mask(swapped).core_outside > 0.5, path.name
