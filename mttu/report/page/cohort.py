"""The cohort of a run as steps from the cases that were found to those that trained, and its findings."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import SPLITS, Case, Manifest
from mttu.errors import say_count
from mttu.files import restore
from mttu.report.page.runs import ShownRun

_TITLES = {
    "train": "Training",
    "val": "Validation",
    "unlabelled": "Pool without IDH status",
    "test": "Test",
}
_MOST_FINDINGS = 50


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


def read_findings(manifest: Path | None) -> tuple[str, ...]:
    """What `mttu cohort` found about cases that cannot be used, from the table beside the manifest; most of them.

    Warnings and notes are counted only: they are about cases that are used.
    """
    path = None if manifest is None else manifest.with_name(f"{manifest.stem}-findings.csv")
    if path is None or not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if {"severity", "case_id", "finding"} <= row.keys()]
    refused = [row for row in rows if row["severity"] == "error"]
    lines = [f"{restore(row['case_id'] or '') or 'cohort'}: {restore(row['finding'] or '')}" for row in refused]
    more = len(lines) - _MOST_FINDINGS
    said = [f"Left out: {line}" for line in lines[:_MOST_FINDINGS]]
    said += [f"Left out: {more} more, in {path.name}"] if more > 0 else []
    if len(rows) > len(refused):
        said.append(f"{len(rows) - len(refused)} warnings and notes about cases that are used are in {path.name}")
    return tuple(said)
