import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mttu.data.manifest import Manifest, check_target, is_safe_name, read_manifest, write_manifest
from mttu.errors import InputError


def rewrite(path, metadata=None, **columns):
    """Changes the metadata or whole columns of a manifest on disk."""
    table = pq.read_table(path)
    rows = [{**row, **columns} for row in table.to_pylist()]
    encoded = {name.encode(): value for name, value in (metadata or {}).items()}
    changed = table.schema.with_metadata({**table.schema.metadata, **encoded})
    pq.write_table(type(table).from_pylist(rows, schema=changed), path)


@pytest.fixture
def written(phantom_manifest, tmp_path):
    """`phantom_manifest` as a file, alone in its folder."""
    write_manifest(phantom_manifest, tmp_path / "cohort.parquet")
    return tmp_path / "cohort.parquet"


def test_written_and_read_it_is_the_same(phantom_manifest, written):
    again = read_manifest(written)
    assert again == phantom_manifest
    assert again.fingerprint == phantom_manifest.fingerprint
    assert list(written.parent.iterdir()) == [written]


def test_optional_values_survive(phantom_manifest, tmp_path):
    first, *others = phantom_manifest.cases
    bare = replace(
        first, seg=None, grade=None, age=None, sex=None, brain_mask=phantom_manifest.root / "x_brainmask.nii"
    )
    manifest = replace(phantom_manifest, cases=(bare, *others), synthetic=False)
    write_manifest(manifest, tmp_path / "cohort.parquet")
    assert read_manifest(tmp_path / "cohort.parquet") == manifest


def test_splits_partition_the_cases(phantom_manifest):
    parts = [phantom_manifest.split(name) for name in ("train", "val", "unlabelled", "test")]
    assert [len(part) for part in parts] == [4, 2, 1, 1]
    with pytest.raises(InputError, match="split 'holdout': unknown; choose one of train, val"):
        phantom_manifest.split("holdout")


def test_manifest_and_data_move_together(phantom_manifest, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    root = old / "data"
    moved = replace(
        phantom_manifest,
        root=root,
        cases=tuple(
            replace(
                case,
                images={name: root / path.relative_to(phantom_manifest.root) for name, path in case.images.items()},
                seg=root / case.seg.relative_to(phantom_manifest.root),
            )
            for case in phantom_manifest.cases
        ),
    )
    assert moved.fingerprint == phantom_manifest.fingerprint
    write_manifest(moved, old / "lists" / "cohort.parquet")
    old.rename(new)
    found = read_manifest(new / "lists" / "cohort.parquet")
    assert found.root == new / "data"
    assert found.cases[0].images["t2"] == new / "data" / "phantom_000" / "phantom_000_t2.nii.gz"
    assert found.fingerprint == moved.fingerprint


def test_a_column_that_an_earlier_manifest_lacks_has_the_value_of_then(phantom_manifest, tmp_path, monkeypatch):
    """As if `sex` were a new column, unknown for all cases before."""
    monkeypatch.setattr("mttu.data.manifest.NEWER_COLUMNS", {"sex": None})
    unknown = replace(phantom_manifest, cases=tuple(replace(case, sex=None) for case in phantom_manifest.cases))
    path = tmp_path / "cohort.parquet"
    write_manifest(unknown, path)
    pq.write_table(pq.read_table(path).drop_columns("sex"), path)
    assert read_manifest(path) == unknown
    assert read_manifest(path).fingerprint == unknown.fingerprint != phantom_manifest.fingerprint
    content = [unknown.synthetic, unknown.modalities, pq.read_table(path).to_pylist()]  # without the column
    assert unknown.fingerprint == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    monkeypatch.setattr("mttu.data.manifest.NEWER_COLUMNS", {})
    with pytest.raises(InputError, match="are not those of format 3"):
        read_manifest(path)


def test_the_fingerprint_changes_with_a_row(phantom_manifest):
    first, *others = phantom_manifest.cases
    changed = replace(phantom_manifest, cases=(replace(first, idh=1 - first.idh), *others))
    assert changed.fingerprint != phantom_manifest.fingerprint


def test_a_root_far_away_is_stored_absolute(phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")
    path = tmp_path / "cohort.parquet"
    write_manifest(phantom_manifest, path)
    assert pq.read_schema(path).metadata[b"root"].decode() == str(phantom_manifest.root)
    assert read_manifest(path) == phantom_manifest


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"seg": "../../etc/passwd"}, "seg '../../etc/passwd' leaves the root folder"),
        ({"image_t1": "/etc/passwd"}, "image_t1 '/etc/passwd' leaves the root folder"),
        ({"case_id": "../x"}, "case_id '../x' is no safe file name"),
        ({"case_id": "x"}, "case x has two rows"),
        ({"patient_id": "a/b"}, "patient_id 'a/b' is no safe file name"),
        ({"split": "holdout"}, "split is 'holdout'; expected one of train, val, unlabelled, test"),
        ({"idh": 7}, "idh is 7; expected one of -1, 0, 1"),
        ({"labels": "brats99"}, "labels is 'brats99'; expected one of brats, brats2013"),
    ],
)
def test_refused_rows(written, columns, problem):
    rewrite(written, **columns)
    with pytest.raises(InputError) as caught:
        read_manifest(written)
    assert problem in str(caught.value)
    assert "write it again with `mttu cohort`" in caught.value.problems[0]


def test_another_format_is_refused_with_what_mends_it(written):
    rewrite(written, metadata={"format_version": "9"})
    with pytest.raises(InputError, match="format_version is 9; expected 3; write it again with `mttu cohort`"):
        read_manifest(written)


def test_other_files_are_refused(written, tmp_path):
    with pytest.raises(InputError, match=r"absent\.parquet: not found; write it with `mttu cohort"):
        read_manifest(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet at all")
    with pytest.raises(InputError, match="no readable Parquet file"):
        read_manifest(tmp_path / "text.parquet")
    rewrite(written, metadata={"modalities": "flair"})
    with pytest.raises(InputError, match="are not those of format 3"):
        read_manifest(written)
    with pytest.raises(InputError, match="no readable Parquet file"):
        read_manifest(tmp_path)


def test_safe_names():
    assert all(is_safe_name(name) for name in ("BraTS20_Training_001", "TCGA-DU-7294", "W39_1998.09.19", "7"))
    unsafe = ("", ".", "..", "a/b", "a\\b", "a b", "-a", ".a", "a..b", "ä", "a\n", "a" * 129)
    assert not any(is_safe_name(name) for name in unsafe)


def test_an_empty_cohort_has_a_fingerprint_of_its_own(tmp_path, phantom_manifest):
    empty = Manifest(tmp_path, (), ("flair",), False)
    write_manifest(empty, tmp_path / "empty.parquet")
    assert read_manifest(tmp_path / "empty.parquet") == empty
    assert empty.fingerprint != phantom_manifest.fingerprint


@pytest.mark.parametrize(("name", "content"), [("clinical.csv", "case_id,idh"), ("table.parquet", "no manifest")])
def test_a_file_that_is_no_manifest_is_never_replaced(phantom_manifest, tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=r"must end in \.parquet|it would be lost"):
        write_manifest(phantom_manifest, path)
    assert path.read_text() == content


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cohort\.parquet: .*file is a file; give another folder"):
        check_target(tmp_path / "file" / "deeper" / "cohort.parquet")

    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    with pytest.raises(InputError, match="is not writable; allow it, or give another folder"):
        check_target(tmp_path / "new" / "cohort.parquet")
