"""Names of public data sets that are known to name one patient, whatever else is given."""

import re
from collections.abc import Iterable, Mapping, Sequence

RULES: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])", re.IGNORECASE), "patient of a TCGA barcode"),
    (re.compile(r"BraTS1[789]_(.+)", re.IGNORECASE), "BraTS 2017 to 2019 name a patient alike"),
)
"""Patterns whose first group is the same for all names of a patient, and why.

TCGA barcodes: the first three parts name the participant, what follows the sample (Genomic Data Commons, TCGA Barcode).
BraTS: `name_mapping.csv` of BraTS 2019 and 2020 has Brats17_X, Brats18_X and BraTS19_X in one row.
"""

BRATS_NUMBER = re.compile(r"(BraTS2021_|BraTS-GLI-)(\d{5})(?!\d)", re.IGNORECASE)
"""BraTS 2021 and, from 2023 on, BraTS-GLI give a subject the same number: `BraTS2023_2017_GLI_Mapping.xlsx`, a part of
BraTS 2023, has BraTS-GLI-00006-000 and BraTS2021_00006 in one row. A rule that can be switched off, for later editions
add subjects and may number them anew."""
UCSF_PDGM = re.compile(r"UCSF-PDGM-0*(\d+)(?!\d)", re.IGNORECASE)
LATER_EXAMINATIONS: Mapping[str, str] = {
    "315": "433",  # now UCSF-PDGM-0433_FU007d
    "278": "431",  # now UCSF-PDGM-0431_FU001d
    "175": "396",  # now UCSF-PDGM-0396_FU175d
    "138": "429",  # now UCSF-PDGM-0429_FU003d
    "181": "409",  # now UCSF-PDGM-0409_FU001d
    "289": "391",  # now UCSF-PDGM-0391_FU016d
}
"""Numbers that UCSF-PDGM gave, up to its second version, to a later examination of another number's patient; its third
version renamed them (version notes of the collection at The Cancer Imaging Archive, doi:10.7937/tcia.bdgf-8v37)."""


def known_patients(names: Iterable[str], brats_numbers: bool = True) -> Mapping[str, str]:
    """Patients that the names tell, each with why.

    Args:
        names: Of one case or row.
        brats_numbers: Whether the number of BraTS 2021 carries over to BraTS-GLI.
    """
    found = {}
    for name in names:
        for pattern, reason in RULES:
            if match := pattern.match(name):
                found[f"{pattern.pattern} {match[1].casefold()}"] = f"{reason}: {match[1]}"
        if brats_numbers and (match := BRATS_NUMBER.match(name)):
            found[f"BraTS 2021 {match[2]}"] = f"BraTS 2021 and BraTS-GLI number a subject alike: {match[2]}"
        if match := UCSF_PDGM.match(name):
            patient = LATER_EXAMINATIONS.get(match[1], match[1])
            found[f"UCSF-PDGM {patient}"] = f"UCSF-PDGM's own list of later examinations: UCSF-PDGM-{patient:0>4}"
    return found


def name_carried_numbers(names: Sequence[Sequence[str]]) -> list[str]:
    """Names of BraTS-GLI that are taken as those of BraTS 2021 with the same number: `X as Y`, sorted.

    Args:
        names: Of each case: its own first, then what it is called besides.
    """
    old: dict[str, str] = {}
    new: dict[str, str] = {}  # name to number
    for own in names:
        for name in own:
            match = BRATS_NUMBER.match(name)
            if match and match[1].endswith("_"):
                old.setdefault(match[2], name)
            elif match and name == own[0]:
                new[name] = match[2]
    return [f"{name} as {old[number]}" for name, number in sorted(new.items()) if number in old]
