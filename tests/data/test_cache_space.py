import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from small_cases import MODALITIES, SHAPE, draw_volumes

from mttu.config import PrepareSettings
from mttu.data.cache import cache_case
from mttu.data.cache_space import ABOUT_BYTES, check_room, check_writable, estimate_bytes, measure_room
from mttu.errors import InputError

SETTINGS = PrepareSettings()
VOXELS = int(np.prod(SHAPE))
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch):
    """Sets the free bytes; returns the list of places that are asked for them."""
    asked = []

    def set_free(count):
        def usage(path):
            asked.append(path)
            return Usage(10**12, 0, count)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        return asked

    return set_free


def test_the_estimate_is_the_whole_grid_at_the_spacing_wanted(make_case):
    case = make_case("A")
    assert estimate_bytes(case, MODALITIES, SETTINGS) == VOXELS * (4 * 2 + 1) + ABOUT_BYTES
    assert estimate_bytes(replace(case, seg=None), ("flair",), SETTINGS) == VOXELS * 2 + ABOUT_BYTES
    assert estimate_bytes(case, MODALITIES, PrepareSettings(spacing_mm=2)) == VOXELS // 8 * 9 + ABOUT_BYTES
    thick = make_case("B", affine=np.diag([-1.0, -1, 5, 1]))
    assert estimate_bytes(thick, MODALITIES, SETTINGS) == 5 * VOXELS * 9 + ABOUT_BYTES


@pytest.mark.parametrize("field_of_view", ["full", "brain"])
def test_a_prepared_case_takes_no_more_than_was_estimated(make_case, tmp_path, field_of_view):
    case, settings = make_case("A", affine=np.diag([-1.0, -1, 2, 1])), PrepareSettings(field_of_view=field_of_view)
    cache_case(case, tmp_path / "cache", MODALITIES, settings)
    taken = sum(item.stat().st_size for item in (tmp_path / "cache").rglob("*") if item.is_file())
    assert 0.2 * estimate_bytes(case, MODALITIES, settings) < taken <= estimate_bytes(case, MODALITIES, settings)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b broken"])
def test_a_header_that_cannot_be_read_is_left_to_the_preparation(make_case, content):
    case = make_case("A")
    case.images["flair"].write_bytes(content)
    assert estimate_bytes(case, MODALITIES, SETTINGS) == 0
    case.images["flair"].unlink()
    assert estimate_bytes(case, MODALITIES, SETTINGS) == 0


def test_what_is_prepared_alike_needs_no_room(make_case, tmp_path, free):
    cases, cache = [make_case("A"), make_case("B", draw_volumes(seed=1))], tmp_path / "not" / "yet"
    asked = free(10**6)
    one = estimate_bytes(cases[0], MODALITIES, SETTINGS)
    room = measure_room(cases, cache, MODALITIES, SETTINGS)
    assert (room.cases, room.needed_bytes, room.free_bytes) == (2, 2 * one, 10**6)
    assert asked == [tmp_path]  # the folder that the cache will be made in
    assert not cache.exists()
    cache_case(cases[0], cache, MODALITIES, SETTINGS)
    assert measure_room(cases, cache, MODALITIES, SETTINGS).needed_bytes == one
    assert measure_room(cases, cache, MODALITIES, PrepareSettings(margin_voxels=9)).cases == 2


def test_a_disk_that_is_too_small_is_refused_with_both_values(make_case, tmp_path, free):
    case = make_case("A")
    needed = estimate_bytes(case, MODALITIES, SETTINGS)
    free(needed - 1)
    with pytest.raises(InputError) as caught:
        check_room(measure_room([case], tmp_path / "cache", MODALITIES, SETTINGS), tmp_path / "cache")
    [problem] = caught.value.problems
    assert problem.startswith(f"{tmp_path / 'cache'}: the disk may be too small for the cache: cases to prepare: 1, ")
    assert f"at most {needed / 1000:.1f} kB; free: {(needed - 1) / 1000:.1f} kB ({needed} and {needed - 1} bytes)" in (
        problem
    )
    assert "--cache FOLDER" in problem
    assert "--no-space-check" in problem
    free(needed)
    check_room(measure_room([case], tmp_path / "cache", MODALITIES, SETTINGS), tmp_path / "cache")


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "cache")
    assert list((tmp_path / "new" / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(InputError, match=r"file.*: the cache cannot be written there \(.+\); choose .*--cache"):
            check_writable(place)

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot be written there \(Permission denied\)"):
        check_writable(tmp_path)
