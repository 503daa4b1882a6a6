"""From folders of cases and clinical tables to a checked manifest; all findings on all cases are named at once."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mttu.cohort.clinical import ClinicalTables, read_clinical_tables
from mttu.cohort.copies import (
    choose_modality,
    find_copies,
    find_same_brains,
    find_twins,
    find_twins_left_out,
    share_volumes,
)
from mttu.cohort.found_cases import (
    CheckedVolumes,
    CohortRequest,
    OnRead,
    check_request,
    check_volumes,
    doubt_patients,
    find_cases,
    name_cases,
)
from mttu.cohort.id_matching import join_clinical
from mttu.cohort.layouts import list_files
from mttu.cohort.leakage import (
    CrosswalkRow,
    OtherNames,
    find_leaks,
    link_patients,
    name_carried_numbers,
    read_crosswalk,
)
from mttu.cohort.splits import assign_splits, follow_paper
from mttu.cohort.synthetic import SyntheticCases
from mttu.data.findings import Finding, merge_findings, to_findings
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import MODALITIES, SPLITS, Case, Manifest
from mttu.errors import InputError, name_some, say_count

_SEVERITIES = ("error", "warning", "note")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Cohort:
    """The answer to a request."""

    manifest: Manifest | None
    """None if it was refused."""
    findings: tuple[Finding, ...] = field(repr=False)
    """In the order of their severity."""

    @property
    def errors(self) -> list[str]:
        """One sentence per error; what several cases share is said once."""
        return merge_findings([finding for finding in self.findings if finding.severity == "error"])


def discover(
    folder: Path,
    clinical: Path | None = None,
    labels: str | None = None,
    modalities: Sequence[str] = MODALITIES,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Manifest:
    """The manifest of one folder with at most one table; see `build_cohort`.

    Raises:
        InputError: Lists all errors; what several cases share is one sentence.
    """
    tables = () if clinical is None else (clinical,)
    request = CohortRequest(
        (folder,), tables, labels=labels, modalities=tuple(modalities), val_fraction=val_fraction, seed=seed
    )
    cohort = build_cohort(request)
    if cohort.manifest is None:
        raise InputError(cohort.errors)
    return cohort.manifest


def build_cohort(request: CohortRequest, on_case: OnRead | None = None) -> Cohort:
    """Finds, reads and checks all cases, joins what the tables say of them, and splits them.

    A split named in a clinical table is kept. Of the other cases, those with a known IDH status are split into train
    and val, by patient and stratified by IDH; those without are unlabelled. If no case has a known IDH status and none
    a named split, the cases with a tumour mask are split into train and val instead, for segmentation alone. A case
    takes the split of another examination of the same patient if that one is settled. A case without a row has unknown
    IDH.

    Args:
        request: Folders, tables and choices.
        on_case: See `mttu.cohort.found_cases.OnRead`.

    Raises:
        InputError: The request itself is wrong: arguments, a folder without cases, a table that cannot be read.
    """
    check_request(request)
    findings: list[Finding] = []
    found = find_cases(request, findings)
    cases, refused = name_cases([case for _, case in found], findings)
    synthetic = SyntheticCases(request.places)
    checked = check_volumes(cases, refused, request.modalities, synthetic, on_case)
    findings += checked.findings
    findings += [
        Finding("warning", "", f"{marker}: {reason}; its cases count as patients'")
        for marker, reason in synthetic.unreadable.items()
    ]
    try:
        tables = ClinicalTables([], [])
        if request.clinical:
            tables = read_clinical_tables(request.clinical, request.clinical_format, request.skip_bad)
        crosswalk = [] if request.crosswalk is None else read_crosswalk(request.crosswalk, findings, request.skip_bad)
    except InputError as error:
        return _answer(None, [*findings, *to_findings("error", error.problems)])
    findings += tables.findings
    counts = Counter(case.case_id for case in cases)
    usable = [case for case in cases if counts[case.case_id] == 1]
    if request.skip_bad:
        usable = _without_errors(usable, findings)
    usable_ids = {case.case_id for case in usable}
    by_id = {case.case_id: case for case in (*cases, *refused)}
    refused = [case for name, case in by_id.items() if name not in usable_ids]
    told = {case.case_id: case.told for _, case in found if case.told}
    present = {case.case_id for _, case in found}
    joined = join_clinical(usable, tables.rows, crosswalk, present, told, request.brats_numbers, tables.unused)
    beside = join_clinical(refused, tables.rows, crosswalk, present, told, request.brats_numbers)  # for patients' names
    findings += joined.findings
    kept: Sequence[Case] = joined.cases
    if request.skip_bad:
        kept = _without_errors(kept, findings)
    kept_ids = {case.case_id for case in kept}
    others = [case for case in (*joined.cases, *beside.cases) if case.case_id not in kept_ids]
    if request.recipe == "paper":  # a case that it leaves out is no other patient: BraTS 2021 contains BraTS 2020
        if any(case.split for case in kept):
            findings.append(Finding("note", "", "splits that tables name do not count with --recipe paper"))
        second = {case.case_id for place, case in found if place == 1}
        training = [case for case in kept if case.case_id not in second]
        test = [case for case in kept if case.case_id in second]
        kept, told_by_recipe = follow_paper(training, test, joined.row_of, request.crosswalk is not None)
        findings += told_by_recipe
    other_names = (*joined.other_names, *beside.other_names)
    if request.brats_numbers:
        findings += _note_numbers(other_names)
    kept = _link(kept, others, checked, crosswalk, other_names, request, findings)
    with_patient = {name for name, number in joined.row_of.items() if tables.rows[number].patient_id}
    findings += doubt_patients([case for _, case in found], kept, with_patient)
    assigned = _assign(kept, request, findings)
    folders = Counter(case.case_id for _, case in found if case.images)
    return _answer(_to_manifest(assigned, request, synthetic), findings, request.skip_bad, folders)


def _note_numbers(other_names: Sequence[OtherNames]) -> list[Finding]:
    taken = name_carried_numbers(
        [(names.case_id, names.file_patient, *sorted(names.row_ids | names.aliases)) for names in other_names]
    )
    if not taken:
        return []
    count = say_count(len(taken), "case counts", "cases count")
    text = f"{count} as the subject that has the same number in BraTS 2021 ({name_some(taken, _MOST_NAMED)}); "
    return [Finding("note", "", f"{text}--no-brats-numbers keeps the two apart")]


def _ids_with_errors(findings: Sequence[Finding]) -> set[str]:
    return {finding.case_id for finding in findings if finding.severity == "error" and finding.case_id}


def _without_errors(cases: Sequence[Case], findings: Sequence[Finding]) -> list[Case]:
    bad = _ids_with_errors(findings)
    return [case for case in cases if case.case_id not in bad]


def _link(
    cases: Sequence[Case],
    others: Sequence[Case],
    checked: CheckedVolumes,
    crosswalk: Sequence[CrosswalkRow],
    other_names: Sequence[OtherNames],
    request: CohortRequest,
    findings: list[Finding],
) -> list[Case]:
    """Gives all cases of a patient one patient id, and looks for volumes that occur twice.

    A patient on two sides of the split is an error of the whole cohort or, if bad cases are skipped, of that patient's
    cases. `others` are left out already, but a case may contain one of their volumes by mistake.
    """
    here = {case.case_id for case in cases}
    images = {name: value for name, value in checked.fingerprints.items() if name in here}
    try:
        linked = link_patients(
            cases, find_same_brains(images, request.same_brain), crosswalk, other_names, request.brats_numbers
        )
    except InputError as error:
        refused = to_findings("error", error.problems)
        findings += refused
        left = _without_errors(cases, refused)
        if not request.skip_bad or len(left) == len(cases):
            return []
        left_ids = {case.case_id for case in left}
        others = [*others, *(case for case in cases if case.case_id not in left_ids)]
        return _link(left, others, checked, crosswalk, other_names, request, findings)
    told = _ids_with_errors(findings)
    digests = {case_id: roles for case_id, roles in checked.digests.items() if case_id not in told}
    findings += _find_copies([*cases, *others], checked, crosswalk, other_names, request)
    findings += find_twins(linked.cases, digests) if request.same_brain > 1 else []
    unlinked = {case.case_id for case in others} | (here - images.keys())
    findings += find_twins_left_out([*cases, *others], unlinked, checked.digests)
    leaks = find_leaks(linked.cases, linked.links)
    findings += to_findings("error", leaks.of_cases if request.skip_bad else leaks.problems)
    findings += to_findings("warning", leaks.warnings)
    if linked.unknown_names:
        count = say_count(linked.unknown_names, "other name of a patient is", "other names of patients are")
        findings.append(Finding("note", "", f"{count} no case here"))
    if request.skip_bad:
        return _without_errors(linked.cases, findings)
    return [] if leaks.problems else linked.cases


def _find_copies(
    everyone: Sequence[Case],
    checked: CheckedVolumes,
    crosswalk: Sequence[CrosswalkRow],
    other_names: Sequence[OtherNames],
    request: CohortRequest,
) -> list[Finding]:
    """Volumes that occur twice, also in cases that are refused for another reason."""
    if not share_volumes(checked.digests):
        return []
    here = {case.case_id for case in everyone}
    images = {name: value for name, value in checked.fingerprints.items() if name in here}
    try:
        named, linked = (
            link_patients(everyone, brains, crosswalk, other_names, request.brats_numbers).cases
            for brains in ((), find_same_brains(images, request.same_brain))
        )
    except InputError:  # about a case that is left out, or reported already: then only the patients' ids count
        named = linked = list(everyone)
    return find_copies(linked, named, checked.digests, choose_modality(request.modalities))


def _assign(cases: Sequence[Case], request: CohortRequest, findings: list[Finding]) -> list[Case]:
    """Cases with their split; where bad cases are skipped, those that cannot have one are left out in turn."""
    while cases:
        try:
            return assign_splits(cases, request.val_fraction, request.seed)
        except InputError as error:
            refused = to_findings("error", error.problems)
            findings += refused
            left = _without_errors(cases, refused)
            if not request.skip_bad or len(left) == len(cases):
                return []
            cases = left
    return []


def _to_manifest(cases: Sequence[Case], request: CohortRequest, synthetic: SyntheticCases) -> Manifest | None:
    if not cases:
        return None
    folders = [Path(os.path.abspath(place)) for place in request.places if place.is_dir()]
    folders += [path.parent for case in cases for path in list_files(case).values()]
    ordered = tuple(sorted(cases, key=lambda case: case.case_id))
    is_synthetic = all(case in synthetic for case in cases)
    return Manifest(Path(os.path.commonpath(folders)), ordered, tuple(request.modalities), is_synthetic)


def _answer(
    manifest: Manifest | None,
    findings: Sequence[Finding],
    skip_bad: bool = False,
    found: Mapping[str, int] | None = None,
) -> Cohort:
    """Errors of the cohort as a whole refuse it; those of a case only if bad cases are not skipped.

    `found` says how many cases have an id; two that share one are both left out.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    refused = [finding for finding in errors if not (skip_bad and finding.case_id)]
    ordered = list(findings)
    if manifest is None and not refused:
        ordered.append(Finding("error", "", "no case is left"))
    elif not refused and errors:
        number = sum(max(1, (found or {}).get(name, 1)) for name in _ids_with_errors(errors))
        text = f"{say_count(number, 'case with errors is', 'cases with errors are')} left out"
        ordered.append(Finding("note", "", text))
    ordered.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return Cohort(None if refused else manifest, tuple(ordered))


def describe_manifest(manifest: Manifest) -> list[str]:
    """One line per split that has cases: how many, their IDH status and masks; then which one has none."""
    lines = []
    for split in SPLITS:
        cases = manifest.split(split)
        counts = {
            "mutant": sum(case.idh == IDH_MUTANT for case in cases),
            "wild type": sum(case.idh == IDH_WILD for case in cases),
            "unknown IDH": sum(case.idh == IDH_UNKNOWN for case in cases),
            "with a mask": sum(case.seg is not None for case in cases),
        }
        if cases:
            listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            lines.append(f"{split}: {say_count(len(cases), 'case', 'cases')} ({listed})")
    empty = [split for split in ("train", "val") if not manifest.split(split)]
    lines += [f"{split}: no case; name splits in the clinical table (column split)" for split in empty]
    return lines
