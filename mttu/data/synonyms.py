"""Names of public data sets that are known to name one patient, whatever else is given."""

import re
from collections.abc import Mapping, Sequence

RULES: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])", re.IGNORECASE), "patient of a TCGA barcode"),
    (re.compile(r"BraTS1[789]_(.+)", re.IGNORECASE), "BraTS 2017 to 2019 name a patient alike"),
)
"""Patterns whose first group is the same for all names of a patient, and why.

TCGA barcodes: the first three parts name the participant, what follows the sample (Genomic Data Commons, TCGA Barcode).
BraTS: `name_mapping.csv` of BraTS 2019 and 2020 has Brats17_X, Brats18_X and BraTS19_X in one row.
"""

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


def known_patients(names: Sequence[str]) -> Mapping[str, str]:
    """Patients that the names tell, each with why."""
    found = {}
    for name in names:
        for pattern, reason in RULES:
            if match := pattern.match(name):
                found[f"{pattern.pattern} {match[1].casefold()}"] = f"{reason}: {match[1]}"
        if match := UCSF_PDGM.match(name):
            patient = LATER_EXAMINATIONS.get(match[1], match[1])
            found[f"UCSF-PDGM {patient}"] = f"UCSF-PDGM's own list of later examinations: UCSF-PDGM-{patient:0>4}"
    return found
