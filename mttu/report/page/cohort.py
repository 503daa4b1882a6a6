"""The cohort of a run as steps from the cases that were found to those that trained, and its findings."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mttu.data.findings import Severity
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import SPLITS, Case, Manifest, is_safe_name
from mttu.errors import InputError, say_count
from mttu.files import restore
from mttu.report.page.runs import ShownRun

_TITLES = {
    "train": "Training",
    "val": "Validation",
    "unlabelled": "Pool without IDH status",
    "test": "Test",
}
_MOST_NAMES = 50
"""Cases that are named; the others are counted."""


@dataclass(frozen=True)
class FlowStep:
    """One box of the flow."""

    title: str
    lines: tuple[str, ...]
    steps: tuple["FlowStep", ...] = ()
    """Boxes that it leads to."""


def describe_flow(run: ShownRun, manifest: Manifest) -> FlowStep:
    """Cases of the manifest, its splits, and what each round of a self-training took from the pool."""
    splits = []
    for name in SPLITS:
        cases = manifest.split(name)
        if cases:
            rounds = _describe_rounds(run) if name == "unlabelled" else ()
            splits.append(FlowStep(_TITLES[name], _count(cases), rounds))
    sites = {case.site for case in manifest.cases if case.site is not None}
    data_sets = sorted({case.dataset for case in manifest.cases if case.dataset is not None})
    lines = list(_count(manifest.cases))
    if sites:
        lines.append(say_count(len(sites), "site", "sites"))
    if data_sets:
        lines.append(f"file names of {', '.join(data_sets)}")
    return FlowStep("Cohort", tuple(lines), tuple(splits))


def _count(cases: Sequence[Case]) -> tuple[str, ...]:
    patients = len({case.patient_id for case in cases})
    mutant, wild = (sum(case.idh == status for case in cases) for status in (IDH_MUTANT, IDH_WILD))
    masks = sum(case.seg is not None for case in cases)
    return (
        f"{say_count(len(cases), 'case', 'cases')} of {say_count(patients, 'patient', 'patients')}",
        f"IDH: {mutant} mutant, {wild} wild type, {len(cases) - mutant - wild} unknown",
        f"{masks} with a tumour mask",
    )


def _describe_rounds(run: ShownRun) -> tuple[FlowStep, ...]:
    return tuple(
        FlowStep(
            f"Round {row.round}",
            (f"pseudo-labels: {row.num_mutant} mutant, {row.num_wild} wild type", f"of {row.num_pool} in the pool"),
        )
        for row in run.rounds
        if row.round
    )


def read_findings(run: ShownRun) -> tuple[str, ...]:
    """What `mttu cohort` found, from the table beside a training's manifest: counts, and cases that were left out.

    Sentences of the table stay out of the page, since they quote paths and cells of clinical tables. Of the ids, those
    that are in the manifest name no case that was left out; what is no safe name may be anything, and is counted.

    Raises:
        InputError: The table is damaged.
    """
    if run.manifest is None or run.manifest_file is None:
        return ()
    path = run.manifest_file.with_name(f"{run.manifest_file.stem}-findings.csv")
    if not path.is_file():
        return ()
    rows = _read_rows(path)
    counts = Counter(severity for severity, _ in rows)
    kinds = [say_count(counts[one], one, f"{one}s") for one in get_args(Severity) if counts[one]]
    said = [f"Found by `mttu cohort`: {', '.join(kinds)}; they are in {path.name}."] if kinds else []
    kept = {case.case_id for case in run.manifest.cases}
    refused = dict.fromkeys(name for severity, name in rows if severity == "error" and name and name not in kept)
    told = [name for name in refused if is_safe_name(name)]
    if refused:
        more = len(refused) - len(told[:_MOST_NAMES])
        names = [*told[:_MOST_NAMES], *([f"{more} more"] if more else [])]
        said.append(f"Left out, {say_count(len(refused), 'case', 'cases')}: {', '.join(names)}.")
    return tuple(said)


def _read_rows(path: Path) -> list[tuple[str, str]]:
    """Severity and case of each finding."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["severity"], restore(row["case_id"])) for row in csv.DictReader(file)]
    except OSError as error:
        raise InputError(f"findings {path}: cannot be read ({error.strerror}); allow it, or move it away") from None
    except (ValueError, KeyError, TypeError, csv.Error):
        rows = [("", "")]
    if not all(severity in get_args(Severity) for severity, _ in rows):
        raise InputError(f"findings {path}: no table of findings, or damaged; write it again with `mttu cohort`")
    return rows
