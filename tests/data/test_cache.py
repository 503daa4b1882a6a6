import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_cases import MODALITIES, draw_volumes

from mttu.config import PrepareSettings
from mttu.data.cache import cache_case, content_hash, open_cached, settings_hash
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError

SETTINGS = PrepareSettings()
PAGE = 4096


def snapshot(folder):
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


def rewrite_about(folder, **changes):
    about = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps(about | changes))


@pytest.fixture
def cached_case(make_case, tmp_path):
    """A case, prepared in the cache that is returned with it."""
    case, cache = make_case("A"), tmp_path / "cache"
    assert cache_case(case, cache, MODALITIES, SETTINGS) is True
    return case, cache


def test_what_is_cached_is_what_was_prepared(cached_case):
    case, cache = cached_case
    cached = open_cached(cache, "A")
    prepared = prepare_case(case, MODALITIES, SETTINGS)
    assert isinstance(cached.image, np.memmap)
    assert isinstance(cached.seg, np.memmap)
    assert (cached.image.dtype, cached.seg.dtype) == (np.float16, np.uint8)
    np.testing.assert_array_equal(cached.image, prepared.image)
    np.testing.assert_array_equal(cached.seg, prepared.seg)
    assert cached.geometry == prepared.geometry
    assert cached.modalities == MODALITIES
    assert cached.labels == "brats"
    assert cached.settings_hash == settings_hash(MODALITIES, SETTINGS)
    assert cached.settings_hash != settings_hash(MODALITIES, PrepareSettings(spacing_mm=2))
    assert cached.settings_hash != settings_hash(MODALITIES[:2], SETTINGS)
    assert set(cached.checksums) == {"image.npy", "seg.npy"}
    assert not cached.image.flags.writeable


def test_a_case_without_a_mask(make_case, tmp_path):
    volumes = draw_volumes()
    del volumes["seg"]
    cache_case(make_case("A", volumes), tmp_path / "cache", MODALITIES, SETTINGS)
    cached = open_cached(tmp_path / "cache", "A")
    assert cached.seg is None
    cached.will_need()


def test_a_second_time_nothing_is_written(cached_case):
    case, cache = cached_case
    before = {item: item.stat().st_mtime_ns for item in cache.rglob("*")}
    assert cache_case(case, cache, MODALITIES, SETTINGS) is False
    assert {item: item.stat().st_mtime_ns for item in cache.rglob("*")} == before


def test_the_record_of_the_sources_is_renewed_without_the_voxels(cached_case):
    case, cache = cached_case
    whole, voxels = snapshot(cache), (cache / "A" / "image.npy").stat().st_mtime_ns
    about = json.loads((cache / "A" / "case.json").read_text())
    status = case.seg.stat()
    assert about["sources"]["seg"]["size_bytes"] == status.st_size
    assert about["sources"]["seg"]["modified_ns"] == status.st_mtime_ns
    assert set(about.pop("sources")) == {*MODALITIES, "seg"}
    (cache / "A" / "case.json").write_text(json.dumps(about))  # as a version without such a record left it
    assert open_cached(cache, "A").sources is None
    assert cache_case(case, cache, MODALITIES, SETTINGS) is False
    assert snapshot(cache) == whole
    assert (cache / "A" / "image.npy").stat().st_mtime_ns == voxels
    for damaged in ([], {"seg": 1}, {"seg": {"size_bytes": "1", "modified_ns": 1, "sha256": ""}}):
        rewrite_about(cache / "A", sources=damaged)
        with pytest.raises(InputError, match=r"case A: .* is damaged"):
            open_cached(cache, "A")


def test_the_hash_follows_content_and_settings_but_not_the_place(make_case, tmp_path):
    case = make_case("A")
    first = content_hash(case, MODALITIES, SETTINGS)
    moved = tmp_path / "elsewhere.nii.gz"
    moved.write_bytes(case.images["t1"].read_bytes())
    assert content_hash(replace(case, images={**case.images, "t1": moved}), MODALITIES, SETTINGS) == first
    others = [
        content_hash(case, ("t1", "flair", "t1ce", "t2"), SETTINGS),
        content_hash(case, MODALITIES, PrepareSettings(margin_voxels=5)),
        content_hash(replace(case, seg=None), MODALITIES, SETTINGS),
        content_hash(replace(case, brain_mask=case.seg), MODALITIES, SETTINGS),
        content_hash(replace(case, labels="brats2013"), MODALITIES, SETTINGS),
        content_hash(replace(case, images={**case.images, "t1": case.images["t2"]}), MODALITIES, SETTINGS),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_changed_source_or_setting_is_prepared_again(cached_case):
    case, cache = cached_case
    assert cache_case(case, cache, MODALITIES, PrepareSettings(field_of_view="full")) is True
    assert open_cached(cache, "A").image.shape == (4, 20, 24, 18)
    case.images["t2"].write_bytes(case.images["t1"].read_bytes())
    assert cache_case(case, cache, MODALITIES, PrepareSettings(field_of_view="full")) is True
    cached = open_cached(cache, "A").image
    np.testing.assert_array_equal(cached[2], cached[3])


def test_missing_sources_are_all_named(make_case, tmp_path):
    case = make_case("A")
    case.images["t1"].unlink()
    case.seg.unlink()
    with pytest.raises(InputError) as caught:
        cache_case(case, tmp_path / "cache", MODALITIES, SETTINGS)
    assert [problem.partition(" cannot")[0] for problem in caught.value.problems] == [
        f"case A: {case.images['t1']}",
        f"case A: {case.seg}",
    ]


def test_a_case_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"case A: not prepared in .*; run `mttu prepare` on the manifest again"):
        open_cached(tmp_path, "A")


@pytest.mark.parametrize(
    "damage", ["truncated image", "other dtype", "no mask", "no JSON", "old format", "no geometry"]
)
def test_damage_is_refused_and_mended_by_preparing_again(cached_case, damage):
    case, cache = cached_case
    whole = snapshot(cache)
    folder = cache / "A"
    if damage == "truncated image":
        (folder / "image.npy").write_bytes((folder / "image.npy").read_bytes()[:-100])
    elif damage == "other dtype":
        np.save(folder / "seg.npy", np.load(folder / "seg.npy").astype(np.int16))
    elif damage == "no mask":
        (folder / "seg.npy").unlink()
    elif damage == "no JSON":
        (folder / "case.json").write_text("{")
    elif damage == "old format":
        rewrite_about(folder, format_version=0)
    else:
        rewrite_about(folder, geometry={"shape": [1, 2, 3]})
    with pytest.raises(InputError, match=r"case A: .*`mttu prepare`"):
        open_cached(cache, "A")
    assert cache_case(case, cache, MODALITIES, SETTINGS) is True
    assert snapshot(cache) == whole


def test_pickled_arrays_are_refused(cached_case):
    _, cache = cached_case
    np.save(cache / "A" / "seg.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"case A: .* is damaged"):
        open_cached(cache, "A")


class Killed(BaseException):
    """Stands for a kill: only the test catches it."""


KILLS = [(np, "save", 0), (np, "save", 1), (os, "replace", 0), (os, "replace", 1), (shutil, "rmtree", 0)]


@pytest.mark.parametrize(("module", "name", "count"), KILLS)
@pytest.mark.parametrize("had_older", [False, True])
def test_killed_at_any_boundary_the_next_run_makes_it_whole(
    make_case, tmp_path, monkeypatch, module, name, count, had_older
):
    case, cache = make_case("A"), tmp_path / "cache"
    cache_case(case, tmp_path / "unbroken", MODALITIES, SETTINGS)
    whole = {"old": None, "new": open_cached(tmp_path / "unbroken", "A").image.shape}
    if had_older:
        cache_case(case, cache, MODALITIES, PrepareSettings(margin_voxels=0))
        whole["old"] = open_cached(cache, "A").image.shape
        assert whole["old"] != whole["new"]
    real = getattr(module, name)
    calls = []

    def die(*arguments, **named):
        calls.append(arguments)
        if len(calls) > count:
            raise Killed
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, die)
        try:
            cache_case(case, cache, MODALITIES, SETTINGS)
            died = False
        except Killed:
            died = True
    assert died or not had_older  # a first write neither renames twice nor removes anything
    if (cache / "A").exists():
        assert open_cached(cache, "A").image.shape in whole.values()  # one or the other, never half of it
    cache_case(case, cache, MODALITIES, SETTINGS)
    assert snapshot(cache / "A") == snapshot(tmp_path / "unbroken" / "A")
    assert all(item.name == "A" or item.name.startswith(".partial-") for item in cache.iterdir())


def open_sparse(make_case, tmp_path, modalities, shape):
    """A cached case of any size, whose voxels take no space on disk, in the layout of preparation."""
    cache_case(make_case("A"), tmp_path / "cache", modalities, SETTINGS)
    folder = tmp_path / "cache" / "A"
    about = json.loads((folder / "case.json").read_text())
    about["geometry"]["crop_shape"] = about["geometry"]["grid_shape"] = list(shape)
    (folder / "case.json").write_text(json.dumps(about))
    for name, channels in (("image.npy", (len(modalities),)), ("seg.npy", ())):
        stored = np.load(folder / name)
        layout = np.lib.format.open_memmap(folder / name, "w+", stored.dtype, (*shape, *channels))
        layout.flush()
    return open_cached(tmp_path / "cache", "A")


def count_pages(volume, start, size=(128, 128, 128)):
    """Pages that a crop of a memory-mapped (..., H, W, D) touches."""
    crop = volume[(..., *(slice(first, first + side) for first, side in zip(start, size, strict=True)))]
    planes = crop.reshape(1, *crop.shape) if crop.ndim == 3 else crop
    pages = set()
    base = volume.__array_interface__["data"][0] % PAGE
    offset = crop.__array_interface__["data"][0] - volume.__array_interface__["data"][0]
    channel, plane, row, voxel = planes.strides
    steps = np.arange(planes.shape[0])[:, None, None] * channel + np.arange(size[0])[:, None] * plane
    rows = base + offset + steps + np.arange(size[1]) * row
    first, last = rows // PAGE, (rows + (size[2] - 1) * voxel + volume.itemsize - 1) // PAGE
    for step in range(int((last - first).max()) + 1):
        pages.update(np.unique(np.minimum(first + step, last)).tolist())
    return len(pages), crop.size * volume.itemsize


@pytest.mark.parametrize("modalities", [MODALITIES, ("flair", "t1ce")])
@pytest.mark.parametrize("shape", [(240, 240, 240), (240, 240, 155), (155, 240, 240), (170, 190, 150)])
def test_a_crop_touches_at_most_twice_its_bytes(make_case, tmp_path, modalities, shape):
    cached = open_sparse(make_case, tmp_path, modalities, shape)
    generator = np.random.default_rng(0)
    for _ in range(5):
        start = [int(generator.integers(0, extent - 128, endpoint=True)) for extent in shape]
        image_pages, image_bytes = count_pages(cached.image, start)
        seg_pages, seg_bytes = count_pages(cached.seg, start)
        assert image_pages * PAGE <= 2 * image_bytes
        assert (image_pages + seg_pages) * PAGE <= 2 * (image_bytes + seg_bytes)
        assert image_pages * PAGE >= image_bytes  # the count itself is sane


def test_reading_ahead_covers_the_crop_and_no_more_than_its_planes(make_case, tmp_path, monkeypatch):
    cached = open_sparse(make_case, tmp_path, MODALITIES, (40, 48, 36))
    asked = []
    monkeypatch.setattr(
        "mttu.data.cache._advise", lambda volume, advice, *place: asked.append((volume, advice, *place))
    )
    cached.will_need((-3, 5, 30), (10, 16, 16))
    images = [(begin, length) for volume, _, begin, length in asked if volume.itemsize == 2]
    assert len(images) == 7  # planes 0 to 6
    assert {advice for _, advice, *_ in asked} == {"MADV_WILLNEED"}
    for plane, (begin, length) in enumerate(images):
        first = 128 + ((plane * 48 + 5) * 36 + 30) * 4 * 2
        stop = 128 + ((plane * 48 + 20) * 36 + 36) * 4 * 2
        assert begin == first - first % PAGE
        assert begin + length == stop
    asked.clear()
    cached.will_need((50, 0, 0), (8, 8, 8))
    assert asked == []
