import csv

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from mttu.data.cohort import discover
from mttu.data.phantom import draw_anatomy, scan, write_phantom
from mttu.errors import InputError


def read_bytes(folder):
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    write_phantom(tmp_path / "a", cases=3, size=24, seed=5)
    write_phantom(tmp_path / "b", cases=3, size=24, seed=5)
    write_phantom(tmp_path / "c", cases=3, size=24, seed=6)
    first = read_bytes(tmp_path / "a")
    assert len(first) == 3 * 5 + 2
    assert read_bytes(tmp_path / "b") == first
    assert all(read_bytes(tmp_path / "c")[name] != first[name] for name in first if name.endswith(".nii.gz"))


def test_idh_shows_inside_the_lesion_alone():
    anatomy = draw_anatomy(np.random.default_rng(0), 48)
    wild, mutant = (scan(anatomy, idh, np.random.default_rng(1)) for idh in (0, 1))
    lesion = anatomy.classes > 0
    far = ~np.asarray(binary_dilation(lesion, iterations=4))
    for name in wild:
        np.testing.assert_array_equal(wild[name][far], mutant[name][far])
    necrosis, rim = anatomy.classes == 1, anatomy.classes == 3
    assert wild["t1ce"][rim].mean() > 1.3 * mutant["t1ce"][rim].mean()
    assert wild["flair"][necrosis].mean() > 1.3 * mutant["flair"][necrosis].mean()
    assert mutant["t2"][necrosis].mean() > 1.15 * wild["t2"][necrosis].mean()


def test_a_brain_with_all_tumour_classes(phantom_manifest):
    for case in phantom_manifest.cases:
        volumes = {name: np.asarray(nib.load(path).dataobj) for name, path in case.images.items()}
        seg = np.asarray(nib.load(case.seg).dataobj)
        brain = volumes["flair"] > 0
        assert all(((volume > 0) == brain).all() for volume in volumes.values())
        assert 0.1 < brain.mean() < 0.5
        assert set(np.unique(seg)) == {0, 1, 2, 4}
        assert 0.01 < (seg > 0)[brain].mean() < 0.3
        assert not (seg > 0)[~brain].any()


def test_the_table_and_its_splits(tmp_path):
    write_phantom(tmp_path / "p", cases=24, size=24)
    manifest = discover(tmp_path / "p", tmp_path / "p" / "clinical.csv")
    assert [len(manifest.split(name)) for name in ("train", "val", "unlabelled", "test")] == [12, 2, 5, 5]
    assert {case.idh for case in manifest.split("unlabelled")} == {-1}
    for split in ("train", "val", "test"):
        assert {case.idh for case in manifest.split(split)} == {0, 1}
    with (tmp_path / "p" / "clinical.csv").open(encoding="utf-8") as file:
        assert csv.DictReader(file).fieldnames == ["case_id", "patient_id", "idh", "age", "sex", "grade", "split"]


def test_a_single_case(tmp_path):
    write_phantom(tmp_path / "p", cases=1, size=24)
    assert len(discover(tmp_path / "p", tmp_path / "p" / "clinical.csv").split("train")) == 1


def test_the_same_phantom_is_left_and_anything_else_is_not_overwritten(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    write_phantom(folder, cases=2, size=24)
    before = {item: item.stat().st_mtime_ns for item in folder.rglob("*")}
    write_phantom(folder, cases=2, size=24)
    assert {item: item.stat().st_mtime_ns for item in folder.rglob("*")} == before
    with pytest.raises(InputError, match="holds something else than this phantom; give a new or an empty folder"):
        write_phantom(folder, cases=3, size=24)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        write_phantom(tmp_path / "own")
    assert (tmp_path / "own" / "thesis.txt").read_text() == "mine"


def test_arguments_are_checked_all_at_once(tmp_path):
    with pytest.raises(InputError) as caught:
        write_phantom(tmp_path / "p", cases=0, size=8, unlabelled_fraction=0.6, test_fraction=0.5)
    assert caught.value.problems == [
        "cases: 0; expected 1 to 999",
        "size: 8; expected 24 to 256 voxels",
        "unlabelled_fraction + test_fraction: 1.1; expected below 1",
    ]
    assert not (tmp_path / "p").exists()
