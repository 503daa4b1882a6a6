from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import rotate, zoom

from mttu.cohort.copies import POINTS, SAME_BRAIN, SameBrain, choose_modality, find_same_brains, fingerprint
from mttu.data.sources import read_sources

LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture(scope="module")
def phantoms(phantom_manifest):
    """Case id to FLAIR, affine and brain."""
    found = {case.case_id: read_sources(case, ["flair"]) for case in phantom_manifest.cases}
    return {name: (sources.images[0], sources.reference.affine, sources.brain) for name, sources in found.items()}


def crop_to_brain(voxels, affine, brain):
    box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(brain))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [axis.start for axis in box]
    return voxels[box], moved, brain[box]


def save_as_another(path: Path, voxels, affine, brain) -> tuple:
    """Re-saves an image as a stranger would: cropped and padded, RAS, scaled integers, packed; and reads it again."""
    cropped, moved, inside = crop_to_brain(voxels, affine, brain)
    padded = np.pad(np.where(inside, cropped, 0), ((0, 0), (0, 5), (3, 0)))
    moved[:3, 3] -= 3 * affine[:3, 2]
    turned = nib.as_closest_canonical(nib.Nifti1Image(padded, moved))
    image = nib.Nifti1Image(np.rint(2.5 * turned.get_fdata(dtype=np.float32)).astype(np.int16), turned.affine)
    image.header.set_slope_inter(0.37, 0)
    nib.save(image, path)
    again = nib.load(path)
    read = again.get_fdata(dtype=np.float32)
    return read, again.affine, read != 0


def test_a_fingerprint_is_small_and_of_length_one(phantoms):
    print_ = fingerprint(*next(iter(phantoms.values())))
    assert print_.shape == (np.prod(POINTS),)
    assert print_.dtype == np.float32
    assert print_.nbytes <= 64 * 1024
    assert np.linalg.norm(print_) == pytest.approx(1)


def test_a_copy_under_another_name_is_found_among_all_others(phantoms, tmp_path):
    prints = {name: fingerprint(*case) for name, case in phantoms.items()}
    assert find_same_brains(prints) == []
    stranger = save_as_another(tmp_path / "stranger.nii.gz", *phantoms["phantom_003"])
    (pair,) = find_same_brains({**prints, "stranger": fingerprint(*stranger)})
    assert (pair.first, pair.second) == ("phantom_003", "stranger")
    assert 0.98 < pair.similarity <= 1


def scale(voxels, affine, brain):
    return np.where(brain, 3 * voxels + 500, 0), affine, brain


def standardise(voxels, affine, brain):
    """z-scores whose background is far from 0, as some public copies have it."""
    return (voxels - voxels[brain].mean()) / voxels[brain].std(), affine, brain


def permute(voxels, affine, brain):
    return voxels.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]], brain.transpose(2, 0, 1)


def shade(voxels, affine, brain):
    return voxels * np.linspace(0.9, 1.1, len(voxels), dtype=np.float32)[:, None, None], affine, brain


def coarsen(voxels, affine, brain):
    def shrink(volume):
        return zoom(volume, 0.8, order=1, grid_mode=True, mode="nearest")

    return shrink(voxels), affine @ np.diag([1.25, 1.25, 1.25, 1]), shrink(brain.astype(np.float32)) > 0.5


EXACT = (scale, standardise, permute, crop_to_brain)


@pytest.mark.parametrize("change", [*EXACT, shade], ids=lambda change: change.__name__)
def test_what_is_no_anatomy_leaves_a_fingerprint_alone(phantoms, change):
    case = phantoms["phantom_000"]
    assert fingerprint(*case) @ fingerprint(*change(*case)) > 0.99


def test_a_mirrored_brain_is_another_brain(phantoms):
    voxels, affine, brain = phantoms["phantom_000"]
    assert fingerprint(voxels, affine, brain) @ fingerprint(voxels[::-1], affine, brain[::-1]) < SAME_BRAIN


def test_an_image_without_contrast_is_like_nothing():
    brain = np.zeros((20, 20, 20), bool)
    brain[4:15, 3:16, 5:17] = True
    flat = fingerprint(np.full(brain.shape, 7.0, np.float32), LPS, brain)
    assert not flat.any()
    assert find_same_brains({"a": flat, "b": flat}) == []


def test_a_brain_of_a_single_slice_or_voxel_is_like_nothing():
    voxels = np.random.default_rng(0).random((20, 20, 20), np.float32)
    for place in ((9, 9, 9), (slice(None), slice(None), 9)):
        brain = np.zeros(voxels.shape, bool)
        brain[place] = True
        assert not fingerprint(voxels, LPS, brain).any()


def test_pairs_are_found_in_every_block_of_a_large_cohort():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((600, 64)).astype(np.float32)
    for first, second in ((3, 400), (255, 256), (0, 599)):
        vectors[second] = vectors[first]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prints = {f"{index:03d}": vector for index, vector in enumerate(vectors)}
    expected = [
        (f"{row:03d}", f"{column:03d}")
        for row, column in combinations(range(600), 2)
        if vectors[row] @ vectors[column] >= SAME_BRAIN
    ]
    found = find_same_brains(dict(reversed(prints.items())))
    assert [(pair.first, pair.second) for pair in found] == expected
    assert {("003", "400"), ("255", "256"), ("000", "599")} == set(expected)
    assert find_same_brains({}) == find_same_brains({"a": vectors[0]}) == []


def test_the_threshold_is_met_by_what_equals_it():
    prints = {"b": np.array([1, 0], np.float32), "a": np.array([0.5, 0], np.float32)}
    assert find_same_brains(prints, 0.5) == [SameBrain("a", "b", 0.5)]
    assert find_same_brains(prints, 0.51) == []


def test_flair_is_compared_where_there_is_one():
    assert choose_modality(["t1", "t2", "flair"]) == "flair"
    assert choose_modality(["t1", "t2"]) == "t2"
    assert choose_modality(["dwi"]) == "dwi"


def read_real(real_data: Path, modalities=("flair",)) -> dict:
    """Patient and modality to image, affine and brain; BraTS 2013 has a brain mask, TCGA is 0 around the brain."""
    found = {}
    for folder in sorted([*real_data.glob("tcga_lgg/TCGA-*"), *real_data.glob("brats2013_flair_t1c/*_1")]):
        name = folder.name
        mask = folder / f"{name}_brainmask.nii.gz"
        for modality in modalities:
            image = nib.load(folder / f"{name}_{modality}.nii.gz")
            voxels = image.get_fdata(dtype=np.float32)
            brain = nib.load(mask).get_fdata(dtype=np.float32) > 0.5 if mask.exists() else voxels != 0
            found[name, modality] = crop_to_brain(voxels, image.affine, brain)
    return found


@pytest.mark.real
def test_a_real_patient_renamed_and_saved_again_is_found(real_data, tmp_path):
    cases = read_real(real_data)
    prints = {name: fingerprint(*case) for (name, _), case in cases.items()}
    assert len(prints) == 5
    assert find_same_brains(prints) == []
    copy = save_as_another(tmp_path / "BraTS2021_00001_flair.nii.gz", *cases["TCGA-DU-7294", "flair"])
    (pair,) = find_same_brains({**prints, "BraTS2021_00001": fingerprint(*copy)})
    assert (pair.first, pair.second) == ("BraTS2021_00001", "TCGA-DU-7294")
    assert pair.similarity > 0.99


def turn(voxels, affine, brain):
    """By 3 degrees, as another registration to the atlas would."""
    return rotate(voxels, 3, (1, 2), order=1), affine, rotate(brain.astype(np.float32), 3, (1, 2), order=1) > 0.5


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("modality", ["flair", "t1ce"])
def test_copies_and_patients_lie_on_the_two_sides_of_the_threshold(real_data, modality):
    cases = read_real(real_data, (modality,))
    prints = {name: fingerprint(*case) for name, case in cases.items()}
    patients = [float(prints[a] @ prints[b]) for a, b in combinations(prints, 2)]
    assert len(patients) == 10
    assert max(patients) < 0.6
    for change, least in ((standardise, 0.99), (permute, 0.99), (coarsen, 0.98), (turn, 0.9)):
        assert min(float(prints[name] @ fingerprint(*change(*case))) for name, case in cases.items()) > least
