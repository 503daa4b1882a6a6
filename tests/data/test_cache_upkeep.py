import fcntl
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_cases import MODALITIES, draw_volumes

from mttu.config import PrepareSettings
from mttu.data.cache import cache_case, open_cached
from mttu.data.cache_upkeep import CacheFinding, list_cases, prune_cache, verify_cache
from mttu.data.manifest import Manifest
from mttu.errors import InputError
from mttu.files import hash_file

SETTINGS = PrepareSettings()
MEND = "run `mttu prepare` on the manifest again"


@pytest.fixture
def cohort(make_case, tmp_path):
    """Manifest of three cases, prepared in tmp_path / "cache"."""
    cases = tuple(make_case(name, draw_volumes(seed=seed)) for seed, name in enumerate("ABC"))
    for case in cases:
        cache_case(case, tmp_path / "cache", MODALITIES, SETTINGS)
    return Manifest(tmp_path, cases, MODALITIES, synthetic=False)


@pytest.fixture
def cache(cohort, tmp_path):
    return tmp_path / "cache"


def snapshot(folder):
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


def rewrite_about(folder, **changes):
    about = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps(about | changes))


def rewrite_checksums(folder):
    rewrite_about(folder, checksums={name: hash_file(folder / name) for name in ("image.npy", "seg.npy")})


def test_a_sound_cache_has_no_findings(cohort, cache):
    seen = []
    result = verify_cache(cache, cohort, lambda done, name: seen.append((done, name)))
    assert (result.cases, result.findings) == (3, ())
    assert seen == [(1, "A"), (2, "B"), (3, "C")]
    words = "flair,t1ce,t1,t2; spacing_mm=1.0, field_of_view=brain, margin_voxels=4"
    assert dict(result.settings) == {words: 3}
    assert verify_cache(cache).findings == ()


def flip_a_byte(folder):
    content = bytearray((folder / "image.npy").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "image.npy").write_bytes(bytes(content))


def write_nan(folder):
    image = np.load(folder / "image.npy")
    image[1, 2, 3, 0] = np.nan
    np.save(folder / "image.npy", image)
    rewrite_checksums(folder)


def write_class(folder):
    seg = np.load(folder / "seg.npy")
    seg[0, 0, 0] = 7
    np.save(folder / "seg.npy", seg)
    rewrite_checksums(folder)


DAMAGE = {
    "an empty image": (lambda folder: (folder / "image.npy").write_bytes(b""), "is damaged (", False),
    "an empty mask": (lambda folder: (folder / "seg.npy").write_bytes(b""), "is damaged (", False),
    "JSON without an end": (lambda folder: (folder / "case.json").write_text("[" * 100_000), "is damaged (", False),
    "of another case": (
        lambda folder: rewrite_about(folder, case_id="C"),
        "is damaged (its case.json is of case C)",
        False,
    ),
    "a flipped bit": (flip_a_byte, "image.npy is not as it was written", True),
    "not a number": (write_nan, "image.npy has 1 voxel that is NaN or infinite", True),
    "an impossible class": (write_class, "seg.npy has class 7; the largest is 4", True),
    "other settings": (
        lambda folder: rewrite_about(folder, settings=PrepareSettings(spacing_mm=2).model_dump()),
        "its settings are not those that its settings hash stands for",
        True,
    ),
    "a truncated file": (
        lambda folder: (folder / "image.npy").write_bytes((folder / "image.npy").read_bytes()[:-9]),
        "is damaged",
        False,
    ),
    "no description": (lambda folder: (folder / "case.json").unlink(), "not prepared in", False),
    "an older format": (lambda folder: rewrite_about(folder, format_version=1), "has format_version 1, not 2", False),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_mended_as_told(cohort, cache, name):
    damage, problem, by_hand = DAMAGE[name]
    whole = snapshot(cache / "B")
    damage(cache / "B")
    [finding] = verify_cache(cache).findings
    assert finding.case_id == "B"
    assert problem in finding.problem
    assert "case B" not in finding.problem
    assert finding.mend == (f"remove {cache / 'B'} and " if by_hand else "") + MEND
    if by_hand:
        shutil.rmtree(cache / "B")
    cache_case(cohort.cases[1], cache, MODALITIES, SETTINGS)
    assert snapshot(cache / "B") == whole
    assert verify_cache(cache, cohort).findings == ()


def test_with_a_manifest_sources_count_too(cohort, cache):
    then = cohort.cases[0].images["t1"].stat().st_size
    cohort.cases[0].images["t1"].write_bytes(cohort.cases[1].images["t1"].read_bytes() + b"0")
    now = cohort.cases[0].images["t1"].stat().st_size
    cohort.cases[1].images["t2"].unlink()
    shutil.rmtree(cache / "C")
    changed, gone, missing = verify_cache(cache, cohort).findings
    difference = f"({then:,} bytes then, {now:,} now)"
    problem = f"t1 {cohort.cases[0].images['t1']} is not the file that was prepared {difference}"
    assert changed == CacheFinding("A", problem, MEND)
    assert gone.case_id == "B"
    assert gone.problem.startswith(f"{cohort.cases[1].images['t2']} cannot be read")
    assert missing == CacheFinding("C", f"not prepared in {cache}", MEND)
    assert verify_cache(cache).findings == ()
    relabelled = replace(cohort, cases=(replace(cohort.cases[2], labels="brats2013"),))
    cache_case(cohort.cases[2], cache, MODALITIES, SETTINGS)
    said = "its mask was prepared with labels brats, the manifest says brats2013"
    assert verify_cache(cache, relabelled).findings == (CacheFinding("C", said, MEND),)


def test_a_cache_without_a_record_of_its_sources_is_still_compared(cohort, cache):
    about = json.loads((cache / "A" / "case.json").read_text())
    del about["sources"]
    (cache / "A" / "case.json").write_text(json.dumps(about))
    assert verify_cache(cache, cohort).findings == ()
    cohort.cases[0].images["t1"].write_bytes(cohort.cases[1].images["t1"].read_bytes())
    [changed] = verify_cache(cache, cohort).findings
    assert changed.problem == "its sources or labels are not those that it was prepared from"


def test_cases_prepared_otherwise_are_told_apart(cohort, cache):
    cache_case(cohort.cases[0], cache, ("flair",), PrepareSettings(margin_voxels=1))
    assert sorted(verify_cache(cache).settings.values()) == [1, 2]


def test_a_folder_that_is_no_cache_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: not found or no folder; give the folder that `mttu prepare`"):
        verify_cache(tmp_path / "nowhere")
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    with pytest.raises(InputError, match="empty: holds no prepared case"):
        list_cases(tmp_path / "empty")
    assert not (tmp_path / "nowhere").exists()


def test_pruning_refuses_a_folder_that_is_no_cache(cohort, cache, tmp_path):
    (tmp_path / "images" / "A").mkdir(parents=True)
    with pytest.raises(InputError, match="images: holds no prepared case; give the folder that `mttu prepare` filled"):
        prune_cache(tmp_path / "images", [cohort], remove=True)
    for name in "ABC":
        (cache / name / "case.json").unlink()
    assert prune_cache(cache, [cohort], remove=True) == []  # a damaged cache is one


def test_pruning_lists_first_and_removes_only_what_is_ours(cohort, cache):
    (cache / "notes").mkdir()
    (cache / "notes" / "read.me").write_text("mine")
    shutil.copytree(cache / "C", cache / "D")  # its description names C: not a case of the cache's
    shutil.copytree(cache / "C", cache / "E")
    rewrite_about(cache / "E", case_id="E")
    (cache / "E" / "extra.txt").write_text("mine")  # a case with a foreign file
    shutil.copytree(cache / "C", cache.parent / "elsewhere" / "F")
    rewrite_about(cache.parent / "elsewhere" / "F", case_id="F")
    (cache / "F").symlink_to(cache.parent / "elsewhere" / "F")
    shutil.copytree(cache / "C", cache / ".partial-G")
    (cache / ".partial-file").write_text("mine")
    (cache / ".partial-mine").mkdir()
    (cache / ".partial-mine" / "read.me").write_text("mine")
    (cache / ".lock").touch()
    before = snapshot(cache)
    manifests = [replace(cohort, cases=(case,)) for case in cohort.cases[:2]]

    listed = prune_cache(cache, manifests, remove=False)
    assert [(removal.name, removal.reason) for removal in listed] == [
        ("C", "in no manifest"),
        (".partial-G", "leftover of an interrupted preparation"),
    ]
    assert listed[0].size_bytes == sum(len(content) for name, content in before.items() if name.startswith("C/"))
    assert snapshot(cache) == before

    assert prune_cache(cache, manifests, remove=True) == listed
    kept = {name: content for name, content in before.items() if not name.startswith(("C/", ".partial-G/"))}
    assert snapshot(cache) == kept
    assert (cache / "F").is_symlink()
    assert len(snapshot(cache / "F")) == 3
    assert prune_cache(cache, manifests, remove=True) == []


def test_a_case_and_its_own_leftover_go_together(cohort, cache):
    shutil.copytree(cache / "C", cache / ".partial-C")
    (cache / "C" / ".partial-case.json").write_text("{")  # a kill while the record of its sources was renewed
    removed = prune_cache(cache, [replace(cohort, cases=cohort.cases[:2])], remove=True)
    assert sorted(removal.name for removal in removed) == [".partial-C", "C"]
    assert sorted(item.name for item in cache.iterdir() if item.name != ".lock") == ["A", "B"]


def test_the_only_copy_of_a_case_is_never_a_leftover(cohort, cache):
    (cache / "A").rename(cache / ".partial-old-A")  # a kill between two renames
    shutil.copytree(cache / "B", cache / ".partial-old-B")
    (cache / "C").rename(cache / ".partial-old-C")
    removed = prune_cache(cache, [replace(cohort, cases=cohort.cases[:2])], remove=True)
    assert [removal.name for removal in removed] == [".partial-old-B", ".partial-old-C"]
    assert cache_case(cohort.cases[0], cache, MODALITIES, SETTINGS) is True
    assert open_cached(cache, "A").case_id == "A"


def test_manifests_of_another_cache_are_refused(cohort, cache):
    other = replace(cohort, cases=(replace(cohort.cases[0], case_id="Z"),))
    for manifests in ([other], [replace(cohort, cases=())]):
        with pytest.raises(InputError, match="name none of its 3 prepared cases; are they of this cache"):
            prune_cache(cache, manifests, remove=True)
    assert list_cases(cache) == ["A", "B", "C"]


def test_upkeep_and_preparation_keep_out_of_each_other_s_way(cohort, cache):
    with (cache / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another mttu is working in this folder"):
            prune_cache(cache, [cohort], remove=True)
        with pytest.raises(InputError, match="another mttu is working in this folder"):
            verify_cache(cache)
