from pathlib import Path

from mttu.data.layouts import list_volumes, match_files, walk_folders

FOUR = ("flair", "t1ce", "t1", "t2")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def match(folder: Path, modalities=FOUR):
    return match_files(folder.name, list_volumes(folder), modalities)


def test_brats_names_with_both_endings(tmp_path):
    names = ("A_flair.nii", "A_t1.nii.gz", "A_t1ce.nii.gz", "A_t2.nii", "A_seg.nii.gz", "A_brainmask.nii.gz")
    files = match(touch(tmp_path / "A", *names, "A_notes.txt", "A_t1_old.nii.gz"))
    assert files.problems == ()
    assert {name: path.name for name, path in files.images.items()} == {
        "flair": "A_flair.nii",
        "t1ce": "A_t1ce.nii.gz",
        "t1": "A_t1.nii.gz",
        "t2": "A_t2.nii",
    }
    assert files.seg == tmp_path / "A" / "A_seg.nii.gz"
    assert files.brain_mask == tmp_path / "A" / "A_brainmask.nii.gz"


def test_mask_and_brain_mask_are_optional_and_only_the_asked_modalities_are_needed(tmp_path):
    files = match(touch(tmp_path / "A", "A_flair.nii.gz", "A_t1ce.nii.gz"), ("t1ce", "flair"))
    assert files.problems == ()
    assert list(files.images) == ["t1ce", "flair"]
    assert files.seg is None
    assert files.brain_mask is None


def test_missing_and_doubled_modalities_are_both_named(tmp_path):
    files = match(touch(tmp_path / "A", "A_flair.nii", "A_flair.nii.gz", "A_t1ce.nii.gz", "A_t2.nii.gz"))
    assert files.problems == (
        "case A: flair is there 2 times (A_flair.nii and A_flair.nii.gz); keep one of them",
        "case A: no t1; expected <case>_t1.nii.gz or <case>_t1.nii",
    )


def test_files_that_are_not_named_after_the_folder_are_shown(tmp_path):
    (problem,) = match(touch(tmp_path / "A", "A-t1n.nii.gz", "A-t2w.nii.gz")).problems
    assert "case A: the folder holds 2 NIfTI files (A-t1n.nii.gz, A-t2w.nii.gz)" in problem
    assert "expected A/A_{flair,t1ce,t1,t2,seg}.nii[.gz] (BraTS to 2021)" in problem


def test_the_misnamed_mask_of_brats_2020_is_found(tmp_path):
    name = "BraTS20_Training_355"
    files = match(touch(tmp_path / name, f"{name}_flair.nii", "W39_1998.09.19_Segm.nii"), ("flair",))
    assert files.seg is not None
    assert files.seg.name == "W39_1998.09.19_Segm.nii"


def test_walking_finds_nested_cases_once_and_skips_hidden_folders(tmp_path):
    touch(tmp_path / "HGG" / "A", "A_flair.nii.gz")
    touch(tmp_path / "LGG" / "B", "B_flair.nii.gz")
    touch(tmp_path / "LGG" / "B" / "below", "x.nii.gz")
    touch(tmp_path / "LGG" / ".partial-C", "C_flair.nii.gz")
    touch(tmp_path / "notes", "readme.txt")
    (tmp_path / "LGG" / "loop").symlink_to(tmp_path)
    assert [folder.name for folder, _ in walk_folders(tmp_path)] == ["A", "B"]
