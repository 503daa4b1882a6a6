import pytest
from small_cases import write_case

from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest
from mttu.cohort.leakage import known_patients


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("TCGA-DU-7294", "tcga-du-7294_1998.03.01", True),
        ("TCGA-DU-7294", "TCGA-DU-7294-01A", True),
        ("TCGA-DU-7294", "TCGA-DU-7295", False),
        ("Brats18_CBICA_AAB_1", "BraTS19_CBICA_AAB_1", True),
        ("Brats17_2013_1_1", "BraTS19_2013_10_1", False),
        ("BraTS20_Training_001", "BraTS21_Training_001", False),
        ("UCSF-PDGM-0315", "UCSF-PDGM-0433", True),
        ("UCSF-PDGM-0315", "UCSF-PDGM-0433_FU007d", True),
        ("UCSF-PDGM-289", "UCSF-PDGM-0391", True),
        ("UCSF-PDGM-0031", "UCSF-PDGM-0315", False),
        ("A", "B", False),
    ],
)
def test_names_of_one_patient(one, other, same):
    assert bool(known_patients([one]).keys() & known_patients([other]).keys()) is same


def test_one_patient_under_two_public_names_is_on_one_side(tmp_path):
    names = ("Brats18_CBICA_AAB_1", "BraTS19_CBICA_AAB_1", "TCGA-DU-7294", "TCGA-DU-7294_1998.03.01")
    for name in names:
        write_case(tmp_path / "data", name)
    table = tmp_path / "t.csv"
    table.write_text("case_id,idh\n" + "".join(f"{name},1\n" for name in names))
    cases = build_cohort(CohortRequest((tmp_path / "data",), (table,), val_fraction=0.5)).manifest.cases
    assert [case.patient_id for case in cases] == [names[1], names[1], names[2], names[2]]
    assert len({case.split for case in cases[:2]}) == len({case.split for case in cases[2:]}) == 1
    table.write_text(f"case_id,idh,split\n{names[2]},1,train\n{names[3]},1,val\n")
    (error,) = build_cohort(CohortRequest((tmp_path / "data",), (table,))).errors
    assert error == (
        "cases TCGA-DU-7294 (train) and TCGA-DU-7294_1998.03.01 (val): are one patient on two sides: "
        "patient of a TCGA barcode: TCGA-DU-7294; put both into one split, or leave one out"
    )
