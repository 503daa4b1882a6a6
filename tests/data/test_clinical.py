import pytest

from mttu.data.clinical import read_clinical
from mttu.errors import InputError


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, encoding="utf-8"):
        path = tmp_path / "clinical.csv"
        path.write_bytes(text.encode(encoding))
        return read_clinical(path)

    return write_and_read


def refusals(read, text):
    with pytest.raises(InputError) as caught:
        read(text)
    return [problem.partition("clinical.csv: ")[2] for problem in caught.value.problems]


def test_the_tables_of_brats_2020(read):
    mutant, unknown = read(
        "TCIA_Subject_ID,BraTS_2020_ID,Age,Gender,Histology,Grade,IDH_status\n"
        "TCGA-DU-7294,BraTS20_Training_300,53,female,astrocytoma,LGG,Mutant\n"
        "NA,BraTS20_Training_001,NA,NA,NA,HGG,NA\n"
    )
    assert mutant.ids == {"TCGA-DU-7294", "BraTS20_Training_300"}
    assert mutant.patient_id == "TCGA-DU-7294"
    assert (mutant.idh, mutant.grade, mutant.age, mutant.sex, mutant.split) == (1, "LGG", 53.0, "female", None)
    assert unknown.ids == {"BraTS20_Training_001"}
    assert unknown.patient_id is None
    assert (unknown.idh, unknown.grade, unknown.age, unknown.sex) == (-1, "HGG", None, None)


@pytest.mark.parametrize(
    ("text", "idh"),
    [
        *[(text, 1) for text in ("Mutant", "MUTANT", "1", "1.0")],
        *[(text, 0) for text in ("WT", "wildtype", "0")],
        *[(text, -1) for text in ("-1", "NA", "na", "nan", "NOS", "")],
    ],
)
def test_idh_spellings(read, text, idh):
    (row,) = read(f"case_id,idh\nA,{text}\n")
    assert row.idh == idh


def test_separator_byte_order_mark_spaces_and_case_of_names_do_not_matter(read):
    (row,) = read("\ufeffCase_ID; IDH status ;Sex;Split\r\n A ; wt;F;Validation\r\n")
    assert (row.ids, row.idh, row.sex, row.split) == ({"A"}, 0, "female", "val")


def test_a_table_of_splits_alone_is_enough(read):
    (row,) = read("case_id,idh,split\npat0003,,train\n")
    assert (row.idh, row.split, row.patient_id) == (-1, "train", None)


def test_all_refused_values_are_named_with_line_and_value(read):
    found = refusals(read, "case_id,idh,age,sex,split\nA,maybe,31,f,train\nB,1,-3,f,\nC,0,old,x,holdout\n")
    assert found == [
        "line 2: idh is 'maybe'; expected Mutant or 1, WT or 0, NA or -1 or nothing",
        "line 3: age is '-3'; expected years, 0 to 120, or NA or nothing",
        "line 4: age is 'old'; expected years, 0 to 120, or NA or nothing",
        "line 4: sex is 'x'; expected female, male or other, or NA or nothing",
        "line 4: split is 'holdout'; expected train, val, unlabelled or test, or nothing",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,idh\nA,1\n", "no column with ids"),
        ("case_id,idh1\nA,1\n", "no column idh (or IDH_status) and no column split; found case_id, idh1"),
        ("case_id,idh,IDH\nA,1,0\n", "column idh is there twice"),
        ("case_id,idh,idh_status\nA,1,0\n", "columns idh and idh_status say the same"),
        ("case_id,idh\nA,1,0\n", "line 2 has not 2 values as the header"),
        ("case_id,idh\nA\n", "line 2 has not 2 values as the header"),
        ("", "no column with ids; expected one of case_id"),
    ],
)
def test_a_table_of_another_shape_is_refused(read, text, problem):
    assert any(problem in found for found in refusals(read, text))


def test_unreadable_tables_are_refused(read, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read("case_id,idh\nMüller,1\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"absent\.csv: cannot be read"):
        read_clinical(tmp_path / "absent.csv")


@pytest.mark.real
def test_the_whole_tables_of_brats_2020(real_data):
    train, test = (
        read_clinical(real_data / "brats2020_idh_tables" / f"IDH_{part}_data.csv") for part in ("train", "test")
    )
    assert [[row.idh for row in rows].count(1) for rows in (train, test)] == [57, 32]
    assert [[row.idh for row in rows].count(0) for rows in (train, test)] == [91, 38]
    assert [row.idh for row in train].count(-1) == 221
    (patient,) = [row for row in train if "TCGA-DU-7294" in row.ids]
    assert (patient.idh, patient.age, patient.sex, patient.grade) == (1, 53.0, "female", "LGG")
