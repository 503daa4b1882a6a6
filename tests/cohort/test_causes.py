"""What is refused, or looks wrong, is named by its own cause; and the cure that the sentence gives is one."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from openpyxl import Workbook
from small_cases import LPS, MODALITIES, SHAPE, case_from_folder, draw_brain, draw_volumes, write_case

from mttu.cohort.build import Cohort, build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.config import PrepareSettings
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError

VOLUMES = draw_volumes()
T2 = "B_t2.nii.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Case B, beside a sound case A."""
    write_case(tmp_path / "data", "A")
    return write_case(tmp_path / "data", "B", VOLUMES)


def save(path: Path, voxels: Any) -> None:
    nib.save(nib.Nifti1Image(voxels, LPS), path)


def set_header(path: Path, offset: int, values: Any) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    written = np.asarray(values).tobytes()
    content[offset : offset + len(written)] = written
    path.write_bytes(gzip.compress(bytes(content)))


def build(folder: Path, **choices: Any) -> Cohort:
    return build_cohort(CohortRequest((folder.parent,), **choices))


def say(cohort: Cohort, severity: str = "error") -> list[str]:
    """What was found about case B but for its size, for it is no person's."""
    texts = [found.text for found in cohort.findings if found.severity == severity and found.case_id == "B"]
    return [text for text in texts if "expected at least 0.7 l" not in text]


def check_refusal(folder: Path, expected: str) -> None:
    """The one error, and that the case can be skipped."""
    assert say(build(folder)) == [expected]
    skipped = build(folder, skip_bad=True)
    assert skipped.manifest is not None
    assert [case.case_id for case in skipped.manifest.cases] == ["A"]


def check_cured(folder: Path, **choices: Any) -> None:
    cohort = build(folder, **choices)
    assert cohort.manifest is not None, cohort.errors
    assert say(cohort, "warning") == []


def test_a_mask_that_its_header_scales(folder: Path) -> None:
    set_header(folder / "B_seg.nii.gz", 112, np.array([0.25, 0], "<f4"))
    check_refusal(
        folder,
        "seg has values {0.25, 0.5} that are not whole numbers; its header scales the voxels (scl_slope 0.25, "
        "scl_inter 0), and stored are {0, 1, 2, 4}; set scl_slope to 1 and scl_inter to 0",
    )
    set_header(folder / "B_seg.nii.gz", 112, np.array([1, 0], "<f4"))
    check_cured(folder)


def test_a_mask_stretched_to_a_picture_s_values(folder: Path) -> None:
    scaled = (VOLUMES["seg"] * 63.75).astype(np.uint8)
    save(folder / "B_seg.nii.gz", scaled)
    check_refusal(
        folder,
        "seg has labels {0, 63, 127, 255}; expected a subset of {0, 1, 2, 4} (BraTS to 2021); they are 63.75 times "
        "{0, 1, 2, 4}; divide by 63.75 and round",
    )
    save(folder / "B_seg.nii.gz", np.rint(scaled / 63.75).astype(np.uint8))
    check_cured(folder)


def test_a_file_whose_name_says_otherwise_of_its_compression(folder: Path) -> None:
    (folder / T2).rename(folder / "B_t2.nii")
    check_refusal(
        folder,
        "B_t2.nii: no readable NIfTI file (it is compressed by gzip, though its name does not say so); rename it to "
        "B_t2.nii.gz",
    )
    (folder / "B_t2.nii").rename(folder / T2)
    check_cured(folder)
    (folder / T2).write_bytes(gzip.decompress((folder / T2).read_bytes()))
    check_refusal(
        folder, f"{T2}: no readable NIfTI file (it is not compressed, though its name says so); rename it to B_t2.nii"
    )
    (folder / T2).rename(folder / "B_t2.nii")
    check_cured(folder)


def prepare(folder: Path) -> Any:
    return prepare_case(case_from_folder(folder, "brats", MODALITIES), MODALITIES, PrepareSettings())


def write_images(folder: Path, change: Callable[[Any], Any]) -> None:
    for name in MODALITIES:
        save(folder / f"B_{name}.nii.gz", change(VOLUMES[name].astype(np.float32)).astype(np.float32))


def test_what_interpolation_leaves_around_a_brain_is_background(folder: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1e-4, 1e-4, SHAPE)
    write_images(folder, lambda image: image / 1000 + np.where(draw_brain(SHAPE), 0, noise))
    (found,) = say(build(folder), "warning")
    voxels = np.count_nonzero(~draw_brain(SHAPE))
    assert found == (
        f"{voxels} voxels around the brain are nearly 0 (at most 0.0001, less than 0.005 of the bright ones), as "
        "interpolation leaves them; they count as background"
    )
    ringing = prepare(folder)
    write_images(folder, lambda image: image / 1000)
    check_cured(folder)
    np.testing.assert_array_equal(ringing.image, prepare(folder).image)


def test_a_skull_is_found_with_noise_around_it_and_without(folder: Path) -> None:
    head = draw_brain((26, 30, 24))[3:-3, 3:-3, 3:-3]
    noise = np.abs(np.random.default_rng(0).normal(0, 10, SHAPE))
    for air in (noise, 0 * noise):
        write_images(folder, lambda image, air=air: np.where(image > 0, image, np.where(head, 900, air)))
        (found,) = say(build(folder), "warning")
        assert found.startswith("looks not skull-stripped: ")
        assert found.endswith("expected at most 5% around a brain; strip the skull first, or give a brain mask")
        with pytest.raises(InputError, match="case B: looks not skull-stripped"):
            prepare(folder)


def test_a_background_that_is_not_0_is_no_skull(folder: Path) -> None:
    write_images(folder, lambda image: (image - image.mean()) / image.std())
    (found,) = say(build(folder), "warning")
    assert found.startswith("the brain does not stand out from the background, which is -0.5")
    assert found.endswith("and not 0, as z-scores over the whole grid leave it; set it to 0, or give a brain mask")
    save(folder / "B_brainmask.nii.gz", draw_brain(SHAPE).astype(np.uint8))
    check_cured(folder)


def test_images_clipped_at_0_are_not_called_shifted(folder: Path) -> None:
    brain = draw_brain(SHAPE)
    save(folder / "B_brainmask.nii.gz", brain.astype(np.uint8))
    write_images(folder, lambda image: np.where(brain, (image - image[brain].mean()) / image[brain].std(), 0).clip(0))
    found = [text for text in say(build(folder), "warning") if "brain mask" not in text]
    assert found[0].startswith(
        "looks clipped at 0, as z-scores that lost their lower values: of what lies within their"
    )
    assert found[0].endswith(
        "give the images as they were before (whether they are registered cannot be told from these)"
    )
    assert len(found) == 1
    write_images(folder, lambda image: image)
    check_cured(folder)
    save(folder / "B_t1.nii.gz", np.roll(VOLUMES["t1"], 3, axis=0))
    assert [text[:23] for text in say(build(folder), "warning")] == ["looks not co-registered"] * 2


def test_a_zeroed_sform_gives_way_to_a_good_qform(folder: Path) -> None:
    sound = prepare(folder)
    for name in (*MODALITIES, "seg"):
        path = folder / f"B_{name}.nii.gz"
        image = nib.load(path)
        image.set_qform(LPS, 1)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
        set_header(path, 280, np.zeros(12, "<f4"))
    text = "its sform (code 2) is no placement in space; the qform is used; mend the header"
    assert say(build(folder), "warning") == [f"B_{name}.nii.gz: {text}" for name in (*MODALITIES, "seg")]
    found = prepare(folder)
    np.testing.assert_array_equal(found.image, sound.image)
    np.testing.assert_array_equal(found.geometry.affine, sound.geometry.affine)
    set_header(folder / T2, 252, np.array([0], "<i2"))  # without a qform there is nothing to use
    assert say(build(folder)) == [
        f"{T2}: has voxel spacing [0.0, 0.0, 0.0] mm; expected 0.1 to 20",
    ]


def test_a_folder_named_like_a_file_counts_as_the_one_volume_in_it(folder: Path) -> None:
    kept = (folder / T2).rename(folder.parent.parent / "kept.nii.gz")
    inner = folder / "B_t2.nii"
    inner.mkdir()
    check_refusal(
        folder, "t2 B_t2.nii is a folder without a NIfTI file in it; put the file in its place, or take it away"
    )
    shutil.copy(kept, inner / "0007_brain_t2.nii.gz")
    check_cured(folder)
    notes = [found.text for found in build(folder).findings if found.severity == "note"]
    assert notes == [
        f"{folder.parent}: 1 file was taken from folders that are named like a file (case B), e.g. "
        "B/B_t2.nii/0007_brain_t2.nii.gz"
    ]
    shutil.copy(kept, inner / "other.nii.gz")
    check_refusal(
        folder,
        "t2 B_t2.nii is a folder that holds 0007_brain_t2.nii.gz, other.nii.gz; leave one of them in it, or put that "
        "one in its place",
    )


def test_a_workbook_may_be_a_table_of_paths(folder: Path) -> None:
    book = Workbook()
    book.active.append(["case_id", *MODALITIES, "seg"])
    for name in "AB":
        book.active.append([name, *(f"{name}/{name}_{part}.nii.gz" for part in (*MODALITIES, "seg"))])
    table = folder.parent / "paths.xlsx"
    book.save(table)
    cohort = build_cohort(CohortRequest((table,), labels="brats"))
    assert [case.case_id for case in cohort.manifest.cases] == ["A", "B"]
    book.active["E3"] = "=A1"
    book.save(table)
    cohort = build_cohort(CohortRequest((table,), labels="brats"))
    assert say(cohort) == [
        "t2 holds a formula whose value is not in the file; open it and save it again; cell Sheet!E3"
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("C:\\data\\t2.nii.gz", "no such file; it is written with \\, as on Windows; write /"),
        ("https://host/t2.nii.gz", "no such file; an address is not read; download the file, and give its path"),
        ("~/t2.nii.gz", "no such file; write the home folder in full, not as ~"),
        ("B", "expected a file ending in .nii or .nii.gz"),
    ],
)
def test_a_path_as_another_system_writes_it(folder: Path, path: str, said: str) -> None:
    table = folder.parent / "paths.csv"
    cells = {name: f"B/B_{name}.nii.gz" for name in MODALITIES} | {"t2": path}
    table.write_text(f"case_id,{','.join(cells)}\nB,{','.join(cells.values())}\n", encoding="utf-8")
    assert say(build_cohort(CohortRequest((table,)))) == [f"t2 {path}: {said}"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.nii.gz", "is a single volume; give the folder that holds the case folders"),
        ("x.zip", "is an archive; unpack it, then give the folder that holds the case folders"),
        ("x.parquet", "is a file that ends in .parquet; give the folder"),
        ("loop", "is a link that leads back to itself"),
    ],
)
def test_what_is_no_place_of_cases_is_named(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / name
    path.symlink_to(path) if name == "loop" else path.touch()
    with pytest.raises(InputError) as caught:
        build_cohort(CohortRequest((path,)))
    assert caught.value.problems[0].startswith(f"{path}: {said}")


DENIED = "cannot be read (Permission denied); allow it (chmod a+r, and a+x for the folders above it)"
FOLDER_DENIED = "the folder cannot be read (Permission denied); allow it, or move it away"


def link_out_of_reach(folder: Path) -> None:
    away = folder.parent / "away"
    away.mkdir()
    (folder / T2).rename(away / "t2.nii.gz")
    (folder / T2).symlink_to(away / "t2.nii.gz")
    away.chmod(0)


@pytest.mark.parametrize(
    ("close", "said"),
    [
        (lambda folder: (folder / T2).chmod(0), [f"{T2}: {DENIED}"]),
        (lambda folder: folder.chmod(0o644), [f"{r} B_{r}.nii.gz {DENIED}" for r in (*MODALITIES, "seg")]),
        (lambda folder: folder.chmod(0), [f"{{folder}}: {FOLDER_DENIED}"]),
        (link_out_of_reach, [f"t2 {T2} {DENIED}"]),
        (lambda folder: [(folder / "more").mkdir(), (folder / "more").chmod(0)], [f"{{folder}}/more: {FOLDER_DENIED}"]),
    ],
    ids=["file", "folder without x", "folder", "link", "folder in it"],
)
def test_what_may_not_be_read_is_said_and_can_be_skipped(folder, without_privileges, close, said):
    close(folder)
    without_privileges()
    try:
        assert say(build(folder)) == [text.format(folder=folder) for text in said]
        skipped = build(folder, skip_bad=True)
        assert [case.case_id for case in skipped.manifest.cases] == ["A"]
    finally:
        for place in (folder, folder / "more", folder.parent / "away"):
            if os.path.isdir(place):
                place.chmod(0o755)


def test_links_to_nowhere_are_said_and_stop_nothing(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "C").symlink_to(tmp_path / "not mounted")
    (folder.parent / "D").symlink_to(folder.parent / "D")
    cohort = build(folder)
    assert len(cohort.manifest.cases) == 2
    (found,) = [found.text for found in cohort.findings if found.severity == "warning" and not found.case_id]
    assert found == (
        f"{folder.parent}: 2 links lead to nothing that is there (C to {tmp_path / 'not mounted'}, D to "
        f"{folder.parent / 'D'}); mount or restore it, or take the links away"
    )
    (folder / T2).unlink()
    (folder / T2).symlink_to(folder / T2)
    check_refusal(folder, f"t2 {T2} is a link that leads back to itself; put the file there")


def test_a_marker_that_may_not_be_read_stops_nothing(folder: Path, without_privileges: Callable[[], None]) -> None:
    marker = folder.parent / "phantom.json"
    marker.write_text('{"synthetic": true, "cases": ["A", "B"]}')
    marker.chmod(0)
    without_privileges()
    cohort = build(folder)
    assert cohort.manifest is not None
    assert not cohort.manifest.synthetic
    assert f"{marker}: {DENIED}; its cases count as patients'" in [found.text for found in cohort.findings]


def test_voxels_within_the_header_are_refused(folder: Path) -> None:
    set_header(folder / T2, 108, np.array([0], "<f4"))
    check_refusal(folder, f"{T2}: voxels start at byte 0, within the header; set vox_offset to 352")
