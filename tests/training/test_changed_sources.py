"""Files that were changed after they were prepared are noticed at every start; those only touched are not."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mttu.cli import main
from mttu.config import PrepareSettings, override
from mttu.data.cache import cache_case
from mttu.data.cache_upkeep import verify_cache
from mttu.data.manifest import read_manifest
from mttu.errors import InputError
from mttu.self_training import check_self_training
from mttu.training.folds import cross_validate
from mttu.training.inputs import check_inputs


@pytest.fixture
def config(tiny, place):
    changes = {"data.manifest": str(place / "cohort.parquet"), "data.cache_dir": None}
    return override(tiny, changes | {"selection.method": "none"})


@pytest.fixture
def case(place):
    return read_manifest(place / "cohort.parquet").split("train")[0]


def rewrite_mask(case):
    """Moves the tumour; the new file has another size."""
    image = nib.load(case.seg)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 5, axis=0), image.affine), case.seg)


def flip_in_place(path):
    """Another content of the same size, as an uncompressed mask has after an edit."""
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))


def test_every_start_refuses_a_case_whose_mask_was_edited(config, case, place):
    was = case.seg.stat().st_size
    rewrite_mask(case)
    said = (
        f"case {case.case_id}: seg {case.seg} is not the file that was prepared ({was:,} bytes then, "
        f"{case.seg.stat().st_size:,} now); run `mttu prepare` on the manifest again (to go on with a run that has "
        "begun, restore the files as they were)"
    )
    starts = (
        check_inputs,
        check_self_training,
        lambda config: cross_validate(override(config, {"data.folds": 2}), None),
    )
    for start in starts:
        with pytest.raises(InputError) as caught:
            start(config)
        assert caught.value.problems == [said]
    manifest = read_manifest(config.data.manifest)
    assert cache_case(case, place / "cache", manifest.modalities, PrepareSettings()) is True
    assert check_inputs(config).notes == ()


def test_an_edit_that_keeps_the_size_is_found_by_content(config, case, place):
    flip_in_place(case.images["t1"])
    with pytest.raises(InputError, match=r"t1 .* is not the file that was prepared \([\d,]+ bytes as then, but others"):
        check_inputs(config)
    [finding] = verify_cache(place / "cache", read_manifest(place / "cohort.parquet")).findings
    assert finding.case_id == case.case_id
    assert "t1" in finding.problem
    assert "bytes as then, but others" in finding.problem


def test_an_old_time_given_back_deceives_a_start_but_no_verification(config, case, place):
    times = case.seg.stat()
    flip_in_place(case.seg)
    os.utime(case.seg, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert check_inputs(config).notes == ()
    [finding] = verify_cache(place / "cache", read_manifest(place / "cohort.parquet")).findings
    assert finding.problem.startswith(f"seg {case.seg} is not the file that was prepared")


def test_other_times_of_the_same_content_are_no_change_and_prepare_records_them(config, case, place):
    before = check_inputs(config)
    case.seg.touch()
    after = check_inputs(config)
    assert after.fingerprint == before.fingerprint
    assert before.notes == ()
    [note] = after.notes
    assert note.startswith(f"1 case ({case.case_id}): the source files have another time than when they were prepared")
    voxels = (place / "cache" / case.case_id / "image.npy").stat().st_mtime_ns
    manifest = read_manifest(place / "cohort.parquet")
    assert cache_case(case, place / "cache", manifest.modalities, PrepareSettings()) is False
    assert check_inputs(config).notes == ()
    assert (place / "cache" / case.case_id / "image.npy").stat().st_mtime_ns == voxels


def test_a_start_looks_at_every_source_file_once(config, case, monkeypatch):
    looked, stat = [], Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: (looked.append(path), stat(path, **how))[1])
    check_inputs(config)
    assert [looked.count(path) for path in (*case.images.values(), case.seg)] == [1] * (len(case.images) + 1)


def test_archived_scans_and_caches_without_a_record_are_fine(config, place):
    before = check_inputs(config).fingerprint
    shutil.rmtree(place / "data")
    assert check_inputs(config).fingerprint == before
    for path in (place / "cache").glob("*/case.json"):
        about = json.loads(path.read_text())
        del about["sources"]
        path.write_text(json.dumps(about))
    inputs = check_inputs(config)
    assert inputs.fingerprint == before
    [note] = inputs.notes
    assert "prepared by a version that did not record the source files" in note
    assert "`mttu prepare` adds the record" in note


def test_the_command_line_says_it_and_starts_nothing(config, case, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    case.images["flair"].touch()
    rewrite_mask(case)
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main(["train", "-p", "demo", "data.manifest=cohort.parquet"])
    assert caught.value.code == 2
    assert f"case {case.case_id}: seg {case.seg} is not the file that was prepared" in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before
