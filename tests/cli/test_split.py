import pytest

from mttu.data.manifest import read_manifest, write_manifest


@pytest.fixture
def manifest(phantom_manifest, tmp_path):
    path = tmp_path / "cohort.parquet"
    write_manifest(phantom_manifest, path)
    return path


def test_split_writes_folds_that_can_be_read_and_says_what_is_in_them(run, manifest, tmp_path):
    code, out, err = run("split", manifest, "-o", tmp_path / "folds", "--folds", 3)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert rows == [[str(number), "4", "2", "2", "1", "1", "1", "0", "2"] for number in (1, 2, 3)]
    assert "in each fold: 1 unlabelled, 1 test" in out
    first = read_manifest(tmp_path / "folds" / "fold_1.parquet")
    assert all(path.exists() for case in first.cases for path in (*case.images.values(), case.seg))
    assert first.synthetic


def test_split_can_leave_the_test_cases_out(run, manifest, tmp_path):
    code, out, _ = run("split", manifest, "-o", tmp_path / "folds", "--folds", 2, "--exclude-test")
    assert code == 0
    assert "in each fold: 1 unlabelled, without the 1 test cases" in out
    assert read_manifest(tmp_path / "folds" / "fold_2.parquet").split("test") == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "1"], "folds: 1; expected 2 or more"),
        (["--folds", "9"], "3 IDH mutant patients in train and val for 9 folds; take at most 3 folds"),
        (["--folds", "2", "--group", "site"], "1 separate sites (site_01) for 2 folds; take at most 1 folds"),
        (["--group", "town"], "group 'town': unknown; choose one of patient, site"),
    ],
)
def test_split_refuses_with_two_and_writes_nothing(run, manifest, tmp_path, words, message):
    code, out, err = run("split", manifest, "-o", tmp_path / "folds", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert list(tmp_path.iterdir()) == [manifest]


def test_describe_shows_table_one(run, manifest):
    code, out, err = run("describe", manifest)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "Training data Additional data Testing data" in lines
    assert {"Subject n 6 1 1", "With mask 6 [100.00%] 1 [100.00%] 1 [100.00%]"} <= set(lines)
    assert any(line.startswith("mutant 3 [50.00%] 0 ") for line in lines)
