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


def follow_paper(
    training: Sequence[Case], test: Sequence[Case], row_of: Mapping[str, int], with_crosswalk: bool = False
) -> PaperCohort:
    """Labelled, unlabelled and test cases as the paper has them.

    Of the training folder every case is used: labelled where its IDH status is known, else unlabelled. Of the second
    folder, which is BraTS 2020's validation set or BraTS 2021, only the cases with a clinical row are used, as test; of
    BraTS 2021, which contains BraTS 2020, not those whose row is that of a training case: they are the same patients.

    Args:
        training: Cases of the first folder, with clinical facts.
        test: Cases of the second folder, with clinical facts.
        row_of: Case id to the number of its clinical row, of the cases that have one.
        with_crosswalk: Whether a crosswalk was given, for the advice.
    """
    rows = {row_of[case.case_id] for case in training if case.case_id in row_of}
    known = [case for case in test if case.case_id in row_of]
    kept = [case for case in known if row_of[case.case_id] not in rows]
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
        advice = "; give both complete folders and both tables, or leave out --recipe"
        if not kept and with_crosswalk:
            advice = (
                "; no case of the second folder has a clinical row of its own: the crosswalk needs the names of its "
                "cases and those of the test table, one patient in each row"
            )
        elif not kept:
            advice = "; BraTS 2021 has other case names: pass --crosswalk with a table of the BraTS 2020 and 2021 names"
        problems.append(f"this is not the cohort of the paper ({'; '.join(wrong)}){advice}")
    if len(known) < len(test):
        notes.append(f"{_count(len(test) - len(known), 'has', 'have')} no clinical row: left out")
    if len(kept) < len(known):
        notes.append(
            f"{_count(len(known) - len(kept), 'is', 'are')} in the training folder under another name: left out"
        )
    for name, cases in (("training folder", training), ("test", kept)):
        without = [case.case_id for case in cases if case.seg is None]
        if without:
            listed = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
            notes.append(f"{len(without)} of {len(cases)} cases of the {name} have no tumour mask ({listed})")
    split = [(case, None if case.idh != IDH_UNKNOWN else "unlabelled") for case in training]
    findings = (*to_findings("error", problems), *to_findings("note", notes))
    return PaperCohort((*split, *((case, "test") for case in kept)), findings)


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {'case' if number == 1 else 'cases'} of the second folder {one if number == 1 else several}"
