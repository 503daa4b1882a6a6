import shutil
from collections import namedtuple
from dataclasses import replace

import pytest

from mttu.data.manifest import write_manifest


@pytest.fixture
def prepared(phantom_manifest, phantom_cache, tmp_path):
    """(cache, manifest) of three phantom cases."""
    cases = phantom_manifest.cases[:3]
    for case in cases:
        shutil.copytree(phantom_cache / case.case_id, tmp_path / "cache" / case.case_id)
    write_manifest(replace(phantom_manifest, cases=cases), tmp_path / "cohort.parquet")
    return tmp_path / "cache", tmp_path / "cohort.parquet"


def test_verify_says_what_is_sound(run, prepared):
    code, out, err = run("cache", "verify", *prepared)
    assert (code, err) == (0, "")
    assert "verify 3/3 phantom_002" in out
    assert "3 cases: flair,t1ce,t1,t2; spacing_mm=1.0, field_of_view=brain, margin_voxels=4" in out
    assert out.endswith("3 of 3 cases are sound\n")


def test_verify_exits_with_one_and_a_table_of_what_is_not(run, prepared):
    cache, manifest = prepared
    image = cache / "phantom_001" / "image.npy"
    image.write_bytes(image.read_bytes()[:-2])
    shutil.rmtree(cache / "phantom_002")
    code, out, err = run("cache", "verify", cache, manifest)
    shown = "".join(character for character in out if character not in " \n│┃")
    assert (code, err) == (1, "")
    for words in ("whatmendsit", "phantom_001", "phantom_002", "isdamaged", "notpreparedin", "run`mttuprepare`"):
        assert words in shown
    assert out.endswith("1 of 3 cases are sound\n")


def test_brackets_in_a_problem_are_no_markup(run, prepared):
    about = prepared[0] / "phantom_001" / "case.json"
    about.write_text(about.read_text().replace('"spacing_mm": 1.0', '"spacing_mm": "[red]"'))
    code, out, _ = run("cache", "verify", prepared[0])
    assert code == 1
    assert "[red]" in out


def test_prune_lists_and_removes_only_with_yes(run, prepared, phantom_manifest, tmp_path):
    cache, manifest = prepared
    write_manifest(replace(phantom_manifest, cases=phantom_manifest.cases[:2]), manifest)
    code, out, _ = run("cache", "prune", cache, manifest)
    assert code == 0
    assert out.startswith("phantom_002: in no manifest, ")
    assert "1 would be removed, " in out
    assert "add --yes to remove them" in out
    assert (cache / "phantom_002").is_dir()
    code, out, _ = run("cache", "prune", cache, manifest, "--yes")
    assert code == 0
    assert "1 removed, " in out
    assert not (cache / "phantom_002").exists()
    assert "nothing to remove" in run("cache", "prune", cache, manifest)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "missing"], "missing: not found or no folder"),
        (["verify", "missing", "missing.parquet"], "missing.parquet: not found"),
        (["verify", "."], "holds no prepared case"),
        (["prune", "missing", "missing.parquet"], "missing.parquet: not found"),
    ],
)
def test_wrong_input_exits_with_two(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("cache", *words)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")


def test_prepare_refuses_a_full_disk_and_a_place_that_cannot_be_written(run, prepared, tmp_path, monkeypatch):
    _, manifest = prepared
    (tmp_path / "file").write_text("")
    code, _, err = run("prepare", manifest, "--cache", tmp_path / "file")
    assert code == 2
    assert "the cache cannot be written there" in err
    usage = namedtuple("Usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    code, out, err = run("prepare", manifest, "--cache", tmp_path / "new")
    needed = 3 * (32**3 * 9 + 16384)
    assert code == 2
    assert f"cases to prepare: 3, taking at most {needed / 1e3:.1f} kB; free: 1.0 kB" in out
    assert f"({needed} and 1000 bytes)" in err
    assert not (tmp_path / "new").exists()
