"""After the last round: every round on the test cases, once; the round that validation chose; the summary."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mttu.atomic import atomic_folder, drop_link, remove, write_json
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import Manifest
from mttu.networks.checkpoint import read_learned_tasks
from mttu.networks.learned import explain_missing
from mttu.self_training.callables import CaseRow
from mttu.self_training.evaluation import measure, read_rows, write_rows
from mttu.self_training.job import Job, last_round
from mttu.self_training.round_folder import (
    UNCHANGED,
    RoundRecord,
    count_finished,
    read_record,
    round_folder,
)
from mttu.self_training.summary import (
    FORMAT_VERSION,
    TEST,
    read_test,
    read_versioned,
    summarise_rounds,
)
from mttu.self_training.tracking import log_finish
from mttu.training.held_out import copy_held_out
from mttu.training.state import BEST

SUMMARY = "summary.json"
TEST_ROWS = "test.parquet"
_WORKING = "working-test"


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
    found = read_test(job.folder)
    if found is not None:
        return found
    cases, rounds = job.manifest.split("test"), range(count_finished(job.folder))
    metrics: dict[int, dict[str, float]] = {}
    if cases:
        drop_link(job.folder / _WORKING)
        rows = {number: _test_round(job, number) for number in rounds}
        together = [{"round": number, **row} for number in rounds for row in rows[number]]
        write_rows(together, job.folder / TEST_ROWS, {"empty_dice": job.config.metrics.empty_dice})
        metrics = {number: measure(rows[number], "test", job.config.train.validation_metric) for number in rounds}
    named = {"format_version": FORMAT_VERSION, "empty_dice": job.config.metrics.empty_dice}
    write_json(job.folder / TEST, {**named, "rounds": metrics})
    return metrics


def _test_round(job: Job, number: int) -> list[CaseRow]:
    path, record = job.folder / _WORKING / f"round_{number}.parquet", read_record(round_folder(job.folder, number))
    about = {"weights_sha256": record.weights_sha256, "empty_dice": job.config.metrics.empty_dice}
    if path.exists():
        rows, found = read_rows(path)
        if found == about:
            return rows
    cases, folder = job.manifest.split("test"), round_folder(job.folder, number)

    def on_case(done: int, row: CaseRow) -> None:
        job.show_case(number, "test", done, len(cases), str(row["case_id"]))

    rows = job.callables.evaluate(folder / BEST, cases, job.config, on_case)
    write_rows(rows, path, about)
    return rows


def finish(job: Job) -> None:
    """Tests, chooses, writes `best/`, tells tracking, writes `summary.json`; only the test is not done twice."""
    evaluate_on_test(job)
    records = [read_record(round_folder(job.folder, number)) for number in range(count_finished(job.folder))]
    chosen = choose_round(records)
    copy_held_out(round_folder(job.folder, chosen), job.folder)
    with atomic_folder(job.folder / BEST) as partial:
        shutil.copytree(round_folder(job.folder, chosen) / BEST, partial, dirs_exist_ok=True)
    remove(job.folder / _WORKING)
    rounds = summarise_rounds(job.folder, job.truth)
    log_finish(job, rounds, chosen)
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "rounds_wanted": last_round(job.config),
        "stopped_early": (job.folder / UNCHANGED).exists(),
        "chosen_round": chosen,
        "chosen_by": job.config.train.validation_metric,
        "empty_dice": job.config.metrics.empty_dice,
        "missing": explain_missing(job.config.network.tasks, read_learned_tasks(job.folder / BEST)),
        "pool_prior": measure_prior(job.manifest, job.truth),
        "rounds": [{**asdict(row), "accuracy": row.accuracy} for row in rounds],
    }
    write_json(job.folder / SUMMARY, content)


def is_tested(folder: Path) -> bool:
    """Whether any round was evaluated on a test case."""
    return bool(read_test(folder)) or (folder / _WORKING).exists()


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What a finished self-training says of itself; None if it is not finished.

    Raises:
        InputError: Damaged, or of another format version.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    return read_versioned(path)
