"""After the last round: every round on the test cases, once; the round that validation chose; the summary."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mttu.atomic import atomic_folder, write_json
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import Manifest, read_manifest
from mttu.errors import InputError
from mttu.self_training.callables import CaseRow
from mttu.self_training.evaluation import measure, read_rows, write_rows
from mttu.self_training.job import Job
from mttu.self_training.mixing import read_pseudo_labels
from mttu.self_training.round_folder import (
    MANIFEST,
    UNCHANGED,
    RoundRecord,
    count_finished,
    read_record,
    round_folder,
)
from mttu.training.state import BEST

FORMAT_VERSION = 1
SUMMARY = "summary.json"
TEST = "test.json"
TEST_ROWS = "test.parquet"
_WORKING = "working-test"


@dataclass(frozen=True)
class RoundSummary:
    """One line of the table at the end."""

    round: int
    num_pool: int
    num_mutant: int
    """Pseudo-labels that the round trained with."""
    num_wild: int
    num_known: int
    """Of these, cases whose true class is known."""
    num_right: int
    """Of these, right ones."""
    metrics: Mapping[str, float]
    """On validation and, once it is finished, on test."""
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float | None:
        """Share of right pseudo-labels among those whose truth is known; None without any."""
        return self.num_right / self.num_known if self.num_known else None


def choose_round(records: Sequence[RoundRecord]) -> int:
    """The round of the best score on validation, the first of equals; the last one where there is no score.

    The paper returns the last round (Algorithm 1, line 10) and reports the best on test (section VI); here validation
    drives every choice.
    """
    scored = [record for record in records if "val/score" in record.metrics]
    if not scored:
        return records[-1].round
    return max(scored, key=lambda record: (record.metrics["val/score"], -record.round)).round


def measure_prior(manifest: Manifest, truth: Mapping[str, int]) -> float | None:
    """Share of the more frequent class in the pool: how often one is right who calls every case that.

    Args:
        manifest: Its pool is split unlabelled.
        truth: Case to true class.

    Returns:
        None where the truth of no pool case is known.
    """
    known = [truth[case.case_id] for case in manifest.split("unlabelled") if case.case_id in truth]
    return max(known.count(IDH_MUTANT), known.count(IDH_WILD)) / len(known) if known else None


def evaluate_on_test(job: Job) -> dict[int, dict[str, float]]:
    """Metrics of each round on the test cases; they are looked at once, when all rounds are trained."""
    path = job.folder / TEST
    if path.exists():
        return _read_test(path)
    cases, rounds = job.manifest.split("test"), range(count_finished(job.folder))
    metrics: dict[int, dict[str, float]] = {}
    if cases:
        rows = {number: _test_round(job, number) for number in rounds}
        together = [{"round": number, **row} for number in rounds for row in rows[number]]
        write_rows(together, job.folder / TEST_ROWS, {})
        metrics = {number: measure(rows[number], "test", job.config.train.validation_metric) for number in rounds}
    write_json(path, {"format_version": FORMAT_VERSION, "rounds": metrics})
    return metrics


def _test_round(job: Job, number: int) -> list[CaseRow]:
    path, record = job.folder / _WORKING / f"round_{number}.parquet", read_record(round_folder(job.folder, number))
    about = {"weights_sha256": record.weights_sha256}
    if path.exists():
        rows, found = read_rows(path)
        if found == about:
            return rows
    cases, folder = job.manifest.split("test"), round_folder(job.folder, number)

    def on_case(done: int, row: CaseRow) -> None:
        job.show(number, "test", done, len(cases), str(row["case_id"]))

    rows = job.callables.evaluate(folder / BEST, cases, job.config, on_case)
    write_rows(rows, path, about)
    return rows


def summarise_rounds(folder: Path, manifest: Manifest, truth: Mapping[str, int]) -> list[RoundSummary]:
    """The finished rounds, one line each.

    Args:
        folder: Run folder.
        manifest: The cohort.
        truth: Case to true class, where known; it changes the counts of right labels and nothing else.
    """
    test = _read_test(folder / TEST)
    rows = []
    for number in range(count_finished(folder)):
        place = round_folder(folder, number)
        record, labels = read_record(place), read_pseudo_labels(read_manifest(place / MANIFEST))
        known = {case_id: label for case_id, label in labels.items() if case_id in truth}
        rows.append(
            RoundSummary(
                round=number,
                num_pool=record.num_pool,
                num_mutant=record.num_mutant,
                num_wild=record.num_wild,
                num_known=len(known),
                num_right=sum(truth[case_id] == label for case_id, label in known.items()),
                metrics={**record.metrics, **test.get(number, {})},
                notes=record.notes,
            )
        )
    return rows


def finish(job: Job, truth: Mapping[str, int]) -> None:
    """Tests, chooses, and writes `best/` and `summary.json`; the latter marks the whole as finished."""
    evaluate_on_test(job)
    records = [read_record(round_folder(job.folder, number)) for number in range(count_finished(job.folder))]
    chosen = choose_round(records)
    with atomic_folder(job.folder / BEST) as partial:
        shutil.copytree(round_folder(job.folder, chosen) / BEST, partial, dirs_exist_ok=True)
    if (job.folder / _WORKING).exists():
        shutil.rmtree(job.folder / _WORKING)
    rounds = summarise_rounds(job.folder, job.manifest, truth)
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "rounds_wanted": job.config.self_training.rounds,
        "stopped_early": (job.folder / UNCHANGED).exists(),
        "chosen_round": chosen,
        "chosen_by": job.config.train.validation_metric,
        "pool_prior": measure_prior(job.manifest, truth),
        "rounds": [{**asdict(row), "accuracy": row.accuracy} for row in rounds],
    }
    write_json(job.folder / SUMMARY, content)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What a finished self-training says of itself; None if it is not finished.

    Raises:
        InputError: Damaged, or of another format version.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    return _read(path)


def _read_test(path: Path) -> dict[int, dict[str, float]]:
    return {int(number): found for number, found in _read(path)["rounds"].items()} if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise InputError(f"{path}: damaged; remove it and run the same command again, which writes it anew") from None
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise InputError(f"{path}: format_version is {found}; this version of mttu reads {FORMAT_VERSION}")
    return content
