"""The cohort of the paper (section V-A, Table I): BraTS 2020 with the IDH status of its TCGA patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mttu.data.findings import Finding, to_findings
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import Case

EXPECTED: Mapping[str, int] = {
    "labelled, mutant": 57,
    "labelled, wild type": 91,
    "unlabelled": 221,
    "test, mutant": 32,
    "test, wild type": 38,
}
"""Cases of each kind (Table I)."""


@dataclass(frozen=True)
class PaperCohort:
    """Cases with the split the recipe gives them; None is drawn into train or val later."""

    cases: tuple[tuple[Case, str | None], ...]
    findings: tuple[Finding, ...]


def follow_paper(training: Sequence[Case], test: Sequence[Case], with_row: frozenset[str]) -> PaperCohort:
    """Labelled, unlabelled and test cases as the paper has them.

    Of the training folder every case is used: labelled where its IDH status is known, else unlabelled. Of the second
    folder, which is BraTS 2020's validation set or BraTS 2021, only the cases with a clinical row are used, as test.

    Args:
        training: Cases of the first folder, with clinical facts.
        test: Cases of the second folder, with clinical facts.
        with_row: Ids of the cases that have a clinical row.
    """
    kept = [case for case in test if case.case_id in with_row]
    counts = {
        "labelled, mutant": sum(case.idh == IDH_MUTANT for case in training),
        "labelled, wild type": sum(case.idh == IDH_WILD for case in training),
        "unlabelled": sum(case.idh == IDH_UNKNOWN for case in training),
        "test, mutant": sum(case.idh == IDH_MUTANT for case in kept),
        "test, wild type": sum(case.idh == IDH_WILD for case in kept),
    }
    wrong = [f"{name}: {counts[name]} instead of {want}" for name, want in EXPECTED.items() if counts[name] != want]
    problems, notes = [], []
    if wrong:
        advice = (
            "; BraTS 2021 has other case names: pass --crosswalk with a table of the BraTS 2020 and 2021 names"
            if not kept
            else "; give both complete folders and both tables, or leave out --recipe"
        )
        problems.append(f"this is not the cohort of the paper ({'; '.join(wrong)}){advice}")
    if len(kept) < len(test):
        notes.append(f"{len(test) - len(kept)} cases of the second folder have no clinical row and are left out")
    for name, cases in (("training folder", training), ("test", kept)):
        without = [case.case_id for case in cases if case.seg is None]
        if without:
            listed = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
            notes.append(f"{len(without)} of {len(cases)} cases of the {name} have no tumour mask ({listed})")
    split = [(case, None if case.idh != IDH_UNKNOWN else "unlabelled") for case in training]
    findings = (*to_findings("error", problems), *to_findings("note", notes))
    return PaperCohort((*split, *((case, "test") for case in kept)), findings)
