import datetime
import gzip
import zipfile

import openpyxl
import pytest
from clinical_examples import write_rows, write_text, write_workbook
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mttu.cohort import table_files
from mttu.cohort.clinical import read_clinical_tables
from mttu.cohort.leakage import read_crosswalk
from mttu.cohort.path_table import read_path_table
from mttu.cohort.table_files import read_text_table
from mttu.data.manifest import read_manifest
from mttu.errors import InputError
from mttu.pseudo_labels.score_table import read_scores
from mttu.report.predictions import read_predictions

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ROWS = (("case_id", "idh", "age"), ("A", "NA", "53"), ("B", "1", ""))


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_clinical_tables(path)
    (problem,) = caught.value.problems
    return problem.removeprefix(f"clinical table {path}: ")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_of_any_separator_and_line_end(tmp_path, separator, encoding, end):
    text = end.join(separator.join(row) for row in ROWS) + end
    table = read_text_table(write_text(tmp_path / "t.csv", text, encoding))
    assert table.header == ROWS[0]
    assert table.rows == ((2, ROWS[1]), (3, ROWS[2]))


def test_a_tsv_may_hold_commas(tmp_path):
    text = "case_id\tidh\ta,b,c\nA\tWT\t1,2\n"
    assert read_text_table(write_text(tmp_path / "t.tsv", text)).rows == ((2, ("A", "WT", "1,2")),)


def test_quoted_commas_of_the_header_do_not_count(tmp_path):
    text = 'case_id;idh;"a,b,c,d"\nA;WT;"x;y"\n'
    assert read_text_table(write_text(tmp_path / "t.csv", text)).rows == ((2, ("A", "WT", "x;y")),)


def test_what_spreadsheets_add_is_left_out(tmp_path):
    text = "\ncase_id,idh,,\nA,WT,,\n,,,\n\n B ,1,,\n"
    table = read_text_table(write_text(tmp_path / "t.csv", text))
    assert table.header == ("case_id", "idh")
    assert table.rows == ((3, ("A", "WT")), (6, ("B", "1")))


def test_the_first_sheet_of_a_workbook(tmp_path):
    rows = [("case_id", "idh", "age", None), ("A", 1, 53), ("B", -1.0), (), (7, "WT", 53.5, None), (None, None, None)]
    table = read_text_table(write_workbook(tmp_path / "t.XLSX", rows))
    assert table.header == ("case_id", "idh", "age")
    assert table.rows == ((2, ("A", "1", "53")), (3, ("B", "-1", "")), (5, ("7", "WT", "53.5")))


def test_a_workbook_row_without_a_column_is_named(tmp_path):
    path = write_workbook(tmp_path / "t.xlsx", [("case_id", "idh"), ("A", 1), ("B", 1, "what?")])
    assert refusal(path) == "line 3 has not 2 values as the header"


def test_values_of_a_workbook_are_checked_too(tmp_path):
    path = write_workbook(tmp_path / "t.xlsx", [("case_id", "IDH status"), ("A", True)])
    assert refusal(path).startswith("line 2: IDH status is 'True'; expected Mutant")


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("t.csv", "case_id,idh\nM\u00fcller,1\n".encode("latin-1"), "cannot be read: byte 0xfc in line 2 is not UTF-8"),
        ("t.csv", b'case_id,idh\n"A,1\n', "line 2: cannot be read (unexpected end of data); mend the quotes"),
        ("t.csv", b"case_id,idh\n" + b"A" * 200_000 + b",1\n", "line 2: cannot be read (field larger than"),
        ("t.xls", b"", ".xls cannot be read; save it as .csv (UTF-8) or .xlsx"),
        ("t.xlsx", b"no workbook", "cannot be read as .xlsx (it is a text); name it .csv if it is a table"),
        (
            "t.csv",
            b"PK\x03\x04" + bytes(99),
            "is a workbook or an archive by its content; if it is a workbook, name it",
        ),
        (
            "t.xlsx",
            b"\xd0\xcf\x11\xe0" + bytes(99),
            "is a workbook of the old kind (.xls), or one with a password; save",
        ),
        ("t.csv", b"\x1f\x8b\x08" + bytes(99), "is compressed by gzip; unpack it"),
        ("t.csv", b"<!DOCTYPE html><html>", "is a web page, as a failed download leaves; fetch it again"),
        (
            "t.csv",
            "case_id,idh".encode("utf-16-le"),
            "holds zero bytes, as UTF-16 without its mark does; save it as CSV",
        ),
        ("t.xlsx", b"", "cannot be read as .xlsx (File is not a zip file); save it again"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, data, problem):
    path = tmp_path / name
    path.write_bytes(data)
    assert refusal(path).startswith(problem)


NIFTI = (348).to_bytes(4, "little") + bytes(340) + b"n+1\0" + bytes(99)
GIVE = "give a .csv, .tsv or .xlsx file"
LFS = b"version https://git-lfs.github.com/spec/v1\n"
NO_TABLES = [
    (NIFTI, "is a NIfTI image", GIVE),
    (gzip.compress(NIFTI), "is a NIfTI image", GIVE),
    (b"NRRD0005\n# x\n", "is NRRD", GIVE),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG picture", GIVE),
    (b"\xff\xd8\xff\xe0" + bytes(20), "is a JPEG picture", GIVE),
    (b"%PDF-1.4", "is a PDF", GIVE),
    (b"\x89HDF\r\n\x1a\n", "is HDF5", GIVE),
    (b"\0\0\0\1\0\0" + bytes(30), "is a FreeSurfer volume (.mgh, .mgz)", GIVE),
    (bytes(128) + b"DICM", "is DICOM", GIVE),
    (bytes(99), "holds nothing but zeros, as an interrupted copy leaves", "copy it again"),
    (LFS, "is a pointer of Git LFS to the file", "run `git lfs pull` in its repository"),
    (
        b"../.git/annex/objects/x/y/MD5E-s1--0",
        "is a pointer of git-annex to the file",
        "run `git annex get` or `datalad get` there",
    ),
    (b"BZh91AY", "is compressed by bzip2", "unpack it"),
    (
        b'<?xml version="1.0"?>\n<!DOCTYPE html>\n<html>',
        "is a web page, as a failed download leaves",
        "fetch it again, logged in if need be",
    ),
]


@pytest.mark.parametrize(("data", "cause", "cure"), NO_TABLES, ids=[f"{kind[1][:25]}" for kind in NO_TABLES])
def test_a_table_that_is_none_gets_the_cure_of_a_table(tmp_path, data, cause, cure):
    for name in ("t.csv", "t.tsv", "t.xlsx"):
        (tmp_path / name).write_bytes(data)
        assert refusal(tmp_path / name) == f"{cause}; {cure}"
    path = tmp_path / "t.csv"
    with pytest.raises(InputError) as caught:
        read_path_table(path, ("flair",), [])
    assert str(caught.value) == f"table of paths {path}: {cause}; {cure}"
    with pytest.raises(InputError) as caught:
        read_crosswalk(path)
    assert str(caught.value) == f"crosswalk {path}: {cause}; {cure.replace(GIVE, 'give a CSV file in UTF-8')}"


@pytest.mark.parametrize(
    ("read", "what", "mend"),
    [
        (read_manifest, "manifest", "write it again with `mttu cohort`"),
        (read_scores, "scores", "write it again with `mttu score`"),
        (read_predictions, "predictions", "write it again with `mttu predict`"),
    ],
)
def test_a_table_of_mttu_s_own_that_is_none_names_what_it_is(tmp_path, read, what, mend):
    path = tmp_path / "predictions.parquet"
    for data, cause, cure in (
        (NIFTI, "it is a NIfTI image", mend),
        (LFS, "it is a pointer of Git LFS to the file", "run `git lfs pull` in its repository"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read(tmp_path if read is read_predictions else path)
        assert str(caught.value) == f"{what} {path}: no readable Parquet file ({cause}); {cure}"


def test_what_is_no_file_is_refused(tmp_path):
    assert refusal(tmp_path / "absent.csv").startswith("cannot be read ([Errno 2]")
    assert refusal(tmp_path).startswith("cannot be read (no file)")


def test_files_too_large_for_a_table_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "LARGEST_BYTES", 2**20)
    assert refusal(write_text(tmp_path / "t.csv", "x" * (2**20 + 1))) == "larger than 1 MiB; give a clinical table"
    bomb = tmp_path / "t.xlsx"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "x" * (2**20 + 1))
    assert refusal(bomb) == "unpacks to more than 1 MiB; give a clinical table"


def test_a_workbook_is_as_large_as_its_cells_not_as_it_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "MOST_CELLS", 1000)
    path = write_workbook(tmp_path / "t.xlsx", ROWS)
    alter_sheet(path, lambda text: text.replace('ref="A1:C3"', 'ref="A1:XFD1048576"'))
    assert len(read_text_table(path).rows) == 2
    alter_sheet(path, lambda text: text.replace('<row r="3"', '<row r="99999999999"'))
    assert refusal(path) == "more than 1000 cells; give a clinical table with one row per case"


def test_what_is_merged_again_and_again_or_hidden_far_away_takes_no_room(tmp_path, monkeypatch):
    def read_with(before, added):
        path = write_workbook(tmp_path / "t.xlsx", ROWS)
        alter_sheet(path, lambda text: text.replace(before, added))
        return path

    end = "</sheetData>"
    tall = read_with(end, f'{end}<mergeCells><mergeCell ref="B2:XFD1048576"/></mergeCells>')
    assert set(read_text_table(tall).sheet.flaws) == {(2, 3), (3, 2), (3, 3)}
    monkeypatch.setattr(table_files, "MOST_MERGED", 17)
    again = '<mergeCell ref="A1:A1048576"/>' * 3 + '<mergeCell ref="A1:XFD1048576"/>'
    assert refusal(read_with(end, f"{end}<mergeCells>{again}</mergeCells>")) == (
        "merges more than 17 cells; unmerge them, or save it as .csv (UTF-8)"
    )
    start = "<sheetData>"
    hidden = read_with(start, f'<cols><col min="9" max="16384" hidden="1"/></cols>{start}')
    assert read_text_table(hidden).sheet.hidden_columns == set(range(9, 16385))
    for cols in (
        '<col min="9" max="16385" hidden="1"/>',
        '<col max="16384" hidden="1"/><col min="16384" max="1" hidden="1"/>',
    ):
        path = read_with(start, f"<cols>{cols}</cols>{start}")
        assert refusal(path).endswith("; a sheet has 16384; save it again, or as .csv (UTF-8)")


def write_odd_workbook(path, change):
    """Three columns, two cases, and what `change` does to the workbook."""
    book = openpyxl.Workbook()
    for row in ROWS:
        book.active.append(row)
    book.active.title = "IDH"
    change(book)
    book.save(path)
    return path


def put(cell, value, number_format="General"):
    def change(book):
        book.active[cell] = value
        book.active[cell].number_format = number_format

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            put("B3", "=1+0"),
            "line 3: idh holds a formula whose value is not in the file; open it and save it again; cell IDH!B3",
        ),
        (
            put("A2", '="A"'),
            "line 2: case_id holds a formula whose value is not in the file; open it and save it again; cell IDH!A2",
        ),
        (put("B1", '="idh"'), "cell IDH!B1 holds a formula whose value is not in the file"),
        (put("B2", "#REF!"), "line 2: idh holds the error #REF!; mend it; cell IDH!B2"),
        (put("C2", 0.53, "0%"), "line 2: age is '53%'; expected years"),
        (put("C2", datetime.datetime(1968, 3, 1), "yyyy-mm-dd"), "line 2: age is '1968-03-01'; expected years"),
        (put("C2", 1050, "#,##0"), "line 2: age is '1050'; expected years"),
        (put("C2", "1.050"), "line 2: age is '1.050'; expected years"),
        (
            lambda book: book.active.merge_cells("B2:B3"),
            "line 3: idh holds nothing of its own: it is merged with others (B2:B3); unmerge them; cell IDH!B3",
        ),
    ],
)
def test_a_cell_that_does_not_hold_what_it_shows_is_refused_by_its_name(tmp_path, change, problem):
    with pytest.raises(InputError) as caught:
        read_clinical_tables(write_odd_workbook(tmp_path / "t.xlsx", change))
    found = [one.partition("t.xlsx: ")[2] for one in caught.value.problems]
    assert found[0].startswith(problem)
    if problem.startswith("line"):
        assert f"; cell IDH!{'ABC'[['case_id', 'idh', 'age'].index(problem.split()[2])]}{problem[5]}" in found[0]


def test_what_a_workbook_hides_is_said(tmp_path):
    def hide(book):
        book.active.row_dimensions[3].hidden = True
        book.active.column_dimensions["B"].hidden = True
        book.create_sheet("old", 0).append(["case_id"])
        book["old"].sheet_state = "hidden"
        book.create_sheet("EGD").append(["case_id"])
        book.create_sheet("empty")

    path = write_odd_workbook(tmp_path / "t.xlsx", hide)
    tables = read_clinical_tables(path)
    assert [row.line for row in tables.rows] == [2, 3]
    assert [(found.severity, found.text.removeprefix(f"clinical table {path}: ")) for found in tables.findings] == [
        ("warning", "1 row is hidden and counts like the others: 3; delete what should not count"),
        ("note", "only sheet IDH is read, not old (hidden), EGD"),
        ("note", "column idh is hidden and counts like the others"),
    ]


def test_a_workbook_of_hidden_sheets_is_refused(tmp_path):
    path = write_workbook(tmp_path / "t.xlsx", ROWS)
    alter_sheet(path, lambda text: text.replace('state="visible"', 'state="hidden"'), "xl/workbook.xml")
    assert refusal(path) == "all its sheets are hidden; unhide the one that counts"


def test_leading_zeros_that_a_format_shows_are_part_of_an_id(tmp_path):
    path = write_odd_workbook(tmp_path / "t.xlsx", put("A2", 7, "00000"))
    assert read_text_table(path).rows[0][1][0] == "00007"


def test_a_formula_in_a_column_that_is_not_used_does_no_harm(tmp_path):
    def add(book):
        book.active["D1"], book.active["D2"] = "days", "=C2*365"

    assert len(read_clinical_tables(write_odd_workbook(tmp_path / "u.xlsx", add)).rows) == 2


def alter_sheet(path, change, sheet="xl/worksheets/sheet1.xml"):
    """Rewrites the XML of the first sheet, so that checksums stay right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    before = members[sheet].decode()
    members[sheet] = change(before).encode("utf-8", "replace")
    assert members[sheet] != before.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def check(path):
    """Reads, or refuses in words that name the file."""
    try:
        rows, problems = read_clinical_tables(path).rows, []
    except InputError as error:
        rows, problems = None, error.problems
    assert problems or rows is not None
    assert all(problem.startswith(f"clinical table {path}: ") for problem in problems)
    return rows


@QUICK
@given(data=st.binary(max_size=300), name=st.sampled_from(["t.csv", "t.tsv", "t.xlsx", "t"]))
def test_any_bytes_are_read_or_refused(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(data)
    check(path)


@QUICK
@given(
    cells=st.lists(
        st.tuples(st.text(max_size=12), st.text(max_size=12), st.text("0123456789.,>+-eE ", max_size=6)), max_size=5
    )
)
def test_any_cells_are_read_or_refused(tmp_path, cells):
    path = write_rows(tmp_path / "t.csv", [ROWS[0], *((a.replace("\r", ""), b, c) for a, b, c in cells)])
    rows = check(path)
    assert rows is None or all(row.idh in (-1, 0, 1) and row.ids for row in rows)


@pytest.fixture(scope="module")
def whole_workbook(tmp_path_factory):
    path = write_workbook(tmp_path_factory.mktemp("workbook") / "t.xlsx", ROWS)
    with zipfile.ZipFile(path) as archive:
        return path.read_bytes(), archive.read("xl/worksheets/sheet1.xml").decode()


@QUICK
@given(place=st.floats(0, 1), cut=st.integers(0, 40), put=st.text(max_size=8), anywhere=st.booleans())
def test_a_damaged_workbook_is_read_or_refused(tmp_path, whole_workbook, place, cut, put, anywhere):
    data, sheet = whole_workbook
    path = tmp_path / "t.xlsx"
    if anywhere:
        start = int(place * len(data))
        path.write_bytes(data[:start] + put.encode("utf-8", "replace") + data[start + cut :])
    else:
        path.write_bytes(data)
        start = int(place * len(sheet))
        changed = sheet[:start] + put + sheet[start + cut :]
        if changed != sheet:
            alter_sheet(path, lambda _: changed)
    check(path)


CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.text("AZaz019 -/", max_size=8))


@QUICK
@given(rows=st.lists(st.lists(CELLS, max_size=4), max_size=4))
def test_any_workbook_cells_are_read_or_refused(tmp_path, rows):
    check(write_workbook(tmp_path / "t.xlsx", [ROWS[0], *rows]))
