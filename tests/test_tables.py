"""Tables on disk: the size of a Parquet file is known before it is unpacked, and no CSV cell is a formula."""

import csv
import re
import resource

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mttu.cohort.truth import read_truth
from mttu.data.findings import Finding, write_findings
from mttu.data.manifest import read_manifest
from mttu.errors import InputError
from mttu.files import MOST_VALUES, neutralise, read_parquet, restore, write_csv, write_csv_rows
from mttu.predict.results import check_output
from mttu.pseudo_labels.score_table import read_scores
from mttu.report.predictions import read_predictions

SHEET = ["=1+1", "+1+1", "-1|x", "-a", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''-", "＝1"]  # noqa: RUF001
SHEET += [f"{sign}=1" for sign in " \x0b\x00\xa0\ufeff\u200b"]
SHEET += [f"{sign}x" for sign in "\u2212\ufe62\ufe63\ufe66\ufe6b"]
INSIDE = ["a;=1+1", "a; =1+1;b", "a\t@x", "a\n=1", "a\r+x", ";'=1", "a;b;-x", "=1;=1", "x;\ufeff=1"]
HARMLESS = ["", "-1", "+1.5", "-0.173440", "-2e-05", "a=1", "TCGA-02", " -1", "a; -5; +2", "a;b", "a - b"]
HARMLESS += ["'quoted'", "1", "ä"]


@pytest.mark.parametrize("text", [*SHEET, *HARMLESS, *INSIDE])
def test_a_cell_is_no_formula_and_is_read_back_equal(text):
    cell = neutralise(text)
    assert (cell == text) is (text in HARMLESS)
    assert cell[:1] not in set("=+-@\t\r\n＝") or float(cell)  # noqa: RUF001
    assert all(
        part.lstrip("\x0b\xa0\ufeff ")[:1] not in set("=+-@") or float(part) for part in re.split("[;\t\r\n]", cell)
    )
    assert restore(cell) == text


@given(st.text(alphabet="'=+-@\t\ra1; ", max_size=7))
def test_any_text_is_read_back_equal(text):
    assert restore(neutralise(text)) == text


def test_both_writers_neutralise_texts_and_leave_numbers(tmp_path):
    texts = [*SHEET, *HARMLESS, *INSIDE]
    numbers = [-float(place) for place in range(len(texts))]
    write_csv_rows(tmp_path / "rows.csv", ("text", "number", "=1"), zip(texts, numbers, texts, strict=True))
    large = pa.array(texts, pa.large_string())
    write_csv(pa.table({"text": texts, "number": numbers, "=1": large}), tmp_path / "arrow.csv")
    for name in ("rows.csv", "arrow.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["text"] for row in rows] == [neutralise(text) for text in texts]
        assert [row["'=1"] for row in rows] == [neutralise(text) for text in texts]
        assert [restore(row["text"]) for row in rows] == texts
        assert [float(row["number"]) for row in rows] == numbers


def test_a_finding_that_begins_like_a_formula_is_none_in_the_table(tmp_path):
    write_findings(tmp_path / "findings.csv", [Finding("note", "=HYPERLINK(1)", "@x")])
    assert "'=HYPERLINK(1),'@x" in (tmp_path / "findings.csv").read_text()


def test_truth_is_read_by_the_ids_that_were_written(tmp_path):
    path = tmp_path / "truth.csv"
    write_csv_rows(path, ("case_id", "true_idh"), [("-a", 1), ("b", 0)])
    assert read_truth(path) == {"-a": 1, "b": 0}


def test_no_other_module_writes_csv_or_reads_parquet(request):
    words = ("csv.write_csv", "csv.writer", "DictWriter", "pq.read_table", "ParquetFile(")
    modules = (request.config.rootpath / "mttu").rglob("*.py")
    assert [path.name for path in modules if any(word in path.read_text() for word in words)] == ["files.py"]


def write_long(path):
    """A kilobyte that repeats one text many million times."""
    write_repeated(path, np.zeros(2 * MOST_VALUES, np.int8), "x")


def write_repeated(path, indices, value):
    column = pa.DictionaryArray.from_arrays(pa.array(indices), pa.array([value]))
    pq.write_table(pa.table({"case_id": column}), path, store_schema=False)


def write_wide(path):
    """One long text, and a reference to it in each row."""
    write_repeated(path, np.zeros(2**13, np.int16), "x" * 2**17)


def write_squeezed(path):
    pq.write_table(pa.table({"case_id": ["x" * 2**24]}), path, compression="zstd", use_dictionary=False)


def write_nested(path):
    pq.write_table(pa.table({"case_id": [["x"]]}), path)


def write_bytes(path):
    """One long value that is no text, and a reference to it in each row."""
    write_repeated(path, np.zeros(2**13, np.int16), b"x" * 2**17)


def write_shared(path):
    """Long texts, each encoded by the prefix it shares with the one before."""
    column = ["x" * 2**17 + str(number) for number in range(2**4)]
    pq.write_table(
        pa.table({"case_id": column}),
        path,
        use_dictionary=False,
        column_encoding={"case_id": "DELTA_BYTE_ARRAY"},
        write_statistics=False,
    )


def write_list(path):
    """A row with the maximum of numbers, in a hundred bytes; its footer can be forged to count few."""
    column = pa.ListArray.from_arrays(pa.array([0, MOST_VALUES], pa.int32()), np.zeros(MOST_VALUES, np.int8))
    pq.write_table(pa.table({"case_id": column}), path, write_statistics=False, store_schema=False)


def encode(count):
    """A whole number of 64 bits as a Parquet footer holds it: zigzag, seven bits a byte."""
    left, written = ((count << 1) ^ (count >> 63)) & (2**64 - 1), b""
    while left >= 128:
        written, left = written + bytes([left & 127 | 128]), left >> 7
    return written + bytes([left])


def write_negative(path, changed):
    """Two columns whose footer counts values below 0 for some, so that they add up to few."""
    rows = 2 * MOST_VALUES
    table = pa.table(
        {"case_id": np.zeros(rows, np.int8), "b": np.zeros(rows, np.int8)},
        pa.schema([pa.field(name, pa.int8(), nullable=False) for name in ("case_id", "b")]),
    )
    pq.write_table(table, path, store_schema=False, row_group_size=rows, write_statistics=False)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    parts = data[start:].split(encode(rows))
    assert len(parts) == 5  # rows of the file, values of each column, rows of the group
    footer = parts[0] + b"".join(
        encode(-rows if place in changed else rows) + part for place, part in enumerate(parts[1:])
    )
    path.write_bytes(data[:start] + footer)


def write_fewer_rows(path):
    """One of the two columns offsets the count of the other."""
    write_negative(path, (0, 1, 3))


def write_fewer_values(path):
    write_negative(path, (1,))


BOMBS = {
    write_fewer_rows: "its footer counts -16777216 of something; restore the file from a copy",
    write_fewer_values: "its footer counts -16777216 of something; restore the file from a copy",
    write_bytes: "column case_id is neither text nor numbers, but binary",
    write_shared: "encoded with DELTA_BYTE_ARRAY, which mttu neither writes nor reads",
    write_list: "column case_id holds lists",
    write_long: r"unpacks to \d+ values; at most 8388608 are read",
    write_wide: r"holds 1073741824 bytes of text; at most 268435456 are read",
    write_squeezed: "compressed with ZSTD; mttu writes and reads SNAPPY",
    write_nested: "column case_id holds lists",
}


@pytest.mark.parametrize("write", BOMBS)
def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path, write):
    path = tmp_path / "predictions.parquet"
    write(path)
    assert path.stat().st_size < 2**18
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(pa.ArrowInvalid, match=BOMBS[write]):
        read_parquet(path)
    for read in (read_manifest, read_scores, lambda path: read_predictions(path.parent)):
        with pytest.raises(InputError, match=rf"no readable Parquet file \({BOMBS[write]}\)"):
            read(path)
    assert "not of an earlier prediction" in check_output(tmp_path, ["a"], [])[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_what_we_write_is_read_as_it_was(tmp_path):
    table = pa.table(
        {
            "case_id": ["a", "b", "a"],
            "value": [1.0, None, 3.0],
            "flag": [True, None, False],
            "passes": pa.array([[0.5, 0.25], None, []], pa.list_(pa.float64())),
            "note": pa.array([None, None, None], pa.string()),
        }
    ).replace_schema_metadata({"kind": "x"})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_parquet(tmp_path / "a.parquet", lists=("passes",))
    assert found.equals(table)
    assert found.schema.equals(table.schema)
    assert found.schema.metadata == table.schema.metadata


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([["x"]], "list<"),
        ([b"x"], "binary"),
        ([{"a": 1}], "struct<"),
        ([None], "decimal128"),
        (pa.array(["x"], pa.string_view()), "string_view"),
        (pa.array([[1.0]], pa.list_(pa.float64(), 1)), "fixed_size_list"),
    ],
)
def test_what_is_no_plain_column_is_refused_where_lists_are_read_too(tmp_path, values, kind):
    column = pa.array(values, pa.decimal128(5)) if kind == "decimal128" else pa.array(values)
    pq.write_table(pa.table({"passes": column}), tmp_path / "a.parquet")
    with pytest.raises(pa.ArrowInvalid, match=f"column passes is neither text nor numbers, but {kind}"):
        read_parquet(tmp_path / "a.parquet", lists=("passes",))
