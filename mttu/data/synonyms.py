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


def known_patients(names: Sequence[str]) -> Mapping[str, str]:
    """Patients that the names tell, each with why."""
    found = {}
    for name in names:
        for pattern, reason in RULES:
            if match := pattern.match(name):
                found[f"{pattern.pattern} {match[1].casefold()}"] = f"{reason}: {match[1]}"
    return found
