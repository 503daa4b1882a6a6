import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mttu.errors import InputError
from mttu.pseudo_labels.score_table import SCHEMA, ScoreRow, ScoreTable, read_scores, summarise_passes, write_scores

MUTANT = summarise_passes("a", [0.9, 0.7, 0.8], 0.85, seconds=1.5)
WILD = summarise_passes("b", [0.2, 0.4], 0.1, seconds=0.5)
FAILED = ScoreRow("c", 0.1, "case c: c_t1.nii.gz: voxels cannot be read")
TABLE = ScoreTable((MUTANT, WILD, FAILED), {"split": "val", "labelled": {"mutant": 5, "wild": 8}})


def test_a_row_by_hand():
    assert MUTANT.mean_probability == pytest.approx(0.8)
    assert (MUTANT.predicted_class, MUTANT.confidence) == (1, MUTANT.mean_probability)
    assert MUTANT.uncertainty == pytest.approx(0.1)  # sqrt((0.1^2 + 0.1^2) / (3 - 1))
    assert MUTANT.deterministic_probability == 0.85
    assert WILD.predicted_class == 0
    assert WILD.confidence == pytest.approx(0.7)
    assert WILD.uncertainty == pytest.approx(math.sqrt(0.02))  # of 0.8 and 0.6, and of 0.2 and 0.4
    assert summarise_passes("d", [0.25, 0.75], 0.5, 0.0).predicted_class == 1  # exactly one half, as in all metrics


def test_a_table_is_read_back(tmp_path):
    path = tmp_path / "mc.parquet"
    write_scores(ScoreTable((FAILED, WILD, MUTANT), TABLE.about), path)
    assert read_scores(path) == TABLE
    stored = pq.read_schema(path)
    assert stored.remove_metadata().equals(SCHEMA)
    assert stored.metadata[b"format_version"] == b"1"
    write_scores(ScoreTable((WILD,)), path)  # scores may replace scores
    assert read_scores(path).rows == (WILD,)


def test_the_digest_is_of_the_scores_alone():
    same = ScoreTable(tuple(replace(row, seconds=9.0) for row in reversed(TABLE.rows)), {"split": "test"})
    assert same.digest == TABLE.digest
    bit = math.nextafter(0.9, 1)
    for changed in (
        replace(MUTANT, mutant_probabilities=(bit, 0.7, 0.8)),
        replace(MUTANT, deterministic_probability=math.nextafter(0.85, 1)),
        replace(MUTANT, error="x"),
    ):
        assert ScoreTable((changed, WILD, FAILED)).digest != TABLE.digest
    assert ScoreTable((MUTANT, WILD)).digest != TABLE.digest


def test_nothing_else_is_overwritten(tmp_path):
    other = tmp_path / "cohort.parquet"
    pq.write_table(pa.table({"case_id": ["a"]}), other)
    text = tmp_path / "notes.parquet"
    text.write_text("mine")
    for path, reason in ((other, "no table of scores"), (text, "no table of scores"), (tmp_path / "x.csv", ".parquet")):
        with pytest.raises(InputError, match=reason):
            write_scores(TABLE, path)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_scores(TABLE, tmp_path / "folder.parquet")
    assert text.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": "2"}, "format_version is 2; expected 1; write it again with `mttu score`"),
        ({"kind": "other"}, "is other; expected mttu scores"),
    ],
)
def test_refused_tables_say_why(tmp_path, change, message):
    path = tmp_path / "mc.parquet"
    write_scores(TABLE, path)
    table = pq.read_table(path)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata({**metadata, **change}), path)
    with pytest.raises(InputError, match=message):
        read_scores(path)


def test_missing_damaged_and_doubled_tables(tmp_path):
    with pytest.raises(InputError, match="not found; write them with `mttu score`"):
        read_scores(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="no readable Parquet file"):
        read_scores(tmp_path / "text.parquet")
    write_scores(ScoreTable((WILD, WILD)), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="case b has 2 rows"):
        read_scores(tmp_path / "twice.parquet")
    path = tmp_path / "columns.parquet"
    write_scores(TABLE, path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["confidence"]), path)
    with pytest.raises(InputError, match="are not those of format 1"):
        read_scores(path)
