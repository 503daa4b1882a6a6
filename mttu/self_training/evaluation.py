"""Metrics of the rounds' best weights on validation and test cases, and the round that validation chooses."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mttu.config import Config
from mttu.config.training import ValidationMetric
from mttu.data.cache import open_cached
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import Case, Manifest
from mttu.data.tables import read_table
from mttu.errors import UnmeasuredError
from mttu.files import atomic_file, atomic_folder, drop_link, read_versioned, remove, write_json
from mttu.inference.cases import run_cases
from mttu.inference.device import choose_precision
from mttu.inference.windows import import_monai
from mttu.metrics.calibration import measure_calibration_error
from mttu.networks.checkpoint import read_checkpoint, read_learned_tasks
from mttu.networks.learned import explain_missing
from mttu.self_training.job import CaseRow, Job, OnEvaluated, last_round
from mttu.self_training.round_folder import UNCHANGED, RoundRecord, count_finished, read_record, round_folder
from mttu.self_training.tracking import (
    FORMAT_VERSION,
    MEND,
    TEST,
    RoundSummary,
    log_finish,
    read_test,
    summarise_rounds,
)
from mttu.training.evaluation import SECONDS, score_case, summarise
from mttu.training.held_out import copy_held_out
from mttu.training.inputs import check_test_cases, resolve_paths
from mttu.training.state import BEST

_SCORES_FORMAT = 1
_KIND = "mttu case scores"


class CaseEvaluator:
    """Evaluates prepared cases by the network of a checkpoint folder, whose weights are read once.

    `distances`: see `mttu.training.evaluation.score_case`.

    Raises:
        InputError: The checkpoint cannot be read here.
    """

    def __init__(self, checkpoint: Path, config: Config, device: torch.device, distances: bool = False) -> None:
        import_monai()
        network, _ = read_checkpoint(checkpoint)
        self.network = network.to(device)
        self.config, self.device, self.distances = config, device, distances
        self.cache_dir = resolve_paths(config)[1]
        self.precision = choose_precision(config.train.precision, device)

    def evaluate(self, case: Case) -> CaseRow:
        """The case's row, see `mttu.training.evaluation.score_case`, with the `precision` of its forward passes."""
        cached = open_cached(self.cache_dir, case.case_id)
        row = score_case(self.network, case, cached, self.config, self.device, self.precision, self.distances)
        return {**row, "precision": self.precision}


def evaluate_locally(
    checkpoint: Path, cases: Sequence[Case], config: Config, on_case: OnEvaluated, distances: bool = False
) -> list[CaseRow]:
    """An `Evaluate` in this process, on the CPU, without Ray; `distances`: see `CaseEvaluator`."""
    return run_cases(cases, CaseEvaluator(checkpoint, config, torch.device("cpu"), distances).evaluate, on_case)


def measure(rows: Sequence[CaseRow], part: str, metric: ValidationMetric) -> dict[str, float]:
    """Metrics over cases, named `<part>/dice_wt`, `<part>/idh_auc` and so on; those that are not defined are left out.

    `<part>` is val or test; `metric`, by which validation chooses, is `<part>/score`.
    """
    found = {name.replace("val/", f"{part}/", 1): value for name, value in summarise(rows, metric)[0].items()}
    found[f"{part}/num_cases"] = float(len(rows))
    known = [row for row in rows if row["mutant_probability"] is not None and row["idh"] >= 0]
    if known:
        names = ("mutant_probability", "idh", "case_id")
        probabilities, idh, case_ids = ([row[name] for row in known] for name in names)
        error = measure_calibration_error(probabilities, idh, case_ids, num_resamples=1)  # its interval is not used
        if error.ece is not None:
            found[f"{part}/idh_ece"] = error.ece
        found[f"{part}/num_idh"] = float(len(known))
    return found


def write_rows(rows: Sequence[CaseRow], path: Path, about: Mapping[str, str]) -> None:
    """Writes case scores whole or not at all, sorted by id; `about` goes into the file's metadata.

    The seconds that a case took are left out: the same cases and weights give the same bytes.
    """
    ordered = sorted(rows, key=lambda row: str(row["case_id"]))
    names = list(dict.fromkeys(name for row in ordered for name in row if name != SECONDS))
    fields = [pa.field(name, _type_of([row.get(name) for row in ordered])) for name in names]
    metadata = {"kind": _KIND, "format_version": str(_SCORES_FORMAT), **about}
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in names} for row in ordered], schema=pa.schema(fields, metadata=metadata)
    )
    with atomic_file(path) as partial:
        pq.write_table(table, partial)


def _type_of(values: Sequence[Any]) -> Any:
    """Text or integers where all values are; otherwise, and where all are None, float64."""
    given = {type(value) for value in values if value is not None}
    if given == {str}:
        return pa.string()
    return pa.int64() if given == {int} else pa.float64()


def read_rows(path: Path) -> tuple[list[CaseRow], dict[str, str]]:
    """Reads what `write_rows` wrote: the rows, and `about`.

    Raises:
        InputError: Missing, damaged, or of another kind or format version.
    """
    metadata, table = read_table(path, "case scores", _SCORES_FORMAT, "restore it from a copy", _KIND)
    return table.to_pylist(), {key: value for key, value in metadata.items() if key not in ("kind", "format_version")}


SUMMARY = "summary.json"
TEST_ROWS = "test.parquet"
_WORKING = "working-test"


def choose_round(records: Sequence[RoundRecord]) -> int:
    """The round of the best score on validation, the first of equals; the last round where there is no score.

    The paper returns the last round (Algorithm 1, line 10) and reports the best on test (section VI).
    """
    scored = [record for record in records if "val/score" in record.metrics]
    return max(scored, key=lambda record: record.metrics["val/score"], default=records[-1]).round


def measure_prior(manifest: Manifest, truth: Mapping[str, int]) -> float | None:
    """Share of the more frequent true class in the pool (split unlabelled); None where no true class is known."""
    known = [truth[case.case_id] for case in manifest.split("unlabelled") if case.case_id in truth]
    return max(known.count(IDH_MUTANT), known.count(IDH_WILD)) / len(known) if known else None


def evaluate_cases(job: Job, number: int, split: Literal["val", "test"], checkpoint: Path) -> list[CaseRow]:
    """Rows of the cases of a split by a round's best weights."""
    cases = job.manifest.split(split)
    phase = "evaluate" if split == "val" else "test"

    def on_case(done: int, row: CaseRow) -> None:
        job.show(number, phase, done, len(cases), str(row["case_id"]))

    return job.callables.evaluate(checkpoint, cases, job.config, on_case)


def _test(job: Job) -> None:
    """Evaluates each round on the test cases, once, when all rounds are trained; writes `test.json`."""
    if read_test(job.folder) is not None:
        return
    rounds = range(count_finished(job.folder))
    metrics: dict[int, dict[str, float]] = {}
    if job.manifest.split("test"):
        content, problems = check_test_cases(job.config, job.manifest)
        if problems:
            kept = f"{job.folder}: all rounds are trained, and best/ is written; mend the test cases and run the same"
            raise UnmeasuredError([*problems, f"{kept} command again, which goes on with their evaluation"])
        drop_link(job.folder / _WORKING)
        rows = {number: _test_round(job, number, content) for number in rounds}
        together = [{"round": number, **row} for number in rounds for row in rows[number]]
        write_rows(together, job.folder / TEST_ROWS, {"empty_dice": job.config.metrics.empty_dice})
        metrics = {number: measure(rows[number], "test", job.config.train.validation_metric) for number in rounds}
    named = {"format_version": FORMAT_VERSION, "empty_dice": job.config.metrics.empty_dice}
    write_json(job.folder / TEST, {**named, "rounds": metrics})


def _test_round(job: Job, number: int, content: str) -> list[CaseRow]:
    """Rows of the test cases, of which `content` is the digest; those of an earlier start if nothing has changed."""
    folder, path = round_folder(job.folder, number), job.folder / _WORKING / f"round_{number}.parquet"
    weights = read_record(folder).weights_sha256
    about = {"weights_sha256": weights, "cases_sha256": content, "empty_dice": job.config.metrics.empty_dice}
    if path.exists():
        rows, found = read_rows(path)
        if found == about:
            return rows
    rows = evaluate_cases(job, number, "test", folder / BEST)
    write_rows(rows, path, about)
    return rows


def finish(job: Job) -> None:
    """Chooses a round, writes `best/`, tests, completes tracking, writes `summary.json`; tests nothing twice.

    Raises:
        UnmeasuredError: A test case cannot be used; `best/` is there, and the next call goes on with the test.
    """
    records = [read_record(round_folder(job.folder, number)) for number in range(count_finished(job.folder))]
    chosen = choose_round(records)
    copy_held_out(round_folder(job.folder, chosen), job.folder)
    with atomic_folder(job.folder / BEST) as partial:
        shutil.copytree(round_folder(job.folder, chosen) / BEST, partial, dirs_exist_ok=True)
    _test(job)
    remove(job.folder / _WORKING)
    rounds = summarise_rounds(job.folder, job.truth)
    log_finish(job, rounds, chosen)
    content = {
        "format_version": FORMAT_VERSION,
        "rounds_wanted": last_round(job.config),
        "stopped_early": (job.folder / UNCHANGED).exists(),
        "chosen_round": chosen,
        "chosen_by": job.config.train.validation_metric,
        "empty_dice": job.config.metrics.empty_dice,
        "missing": explain_missing(job.config.network.tasks, read_learned_tasks(job.folder / BEST)),
        "pool_prior": measure_prior(job.manifest, job.truth),
        "rounds": [_describe_round(row) for row in rounds],
    }
    write_json(job.folder / SUMMARY, content)


def _describe_round(row: RoundSummary) -> dict[str, Any]:
    content = {**asdict(row), "accuracy": row.accuracy}
    if not row.estimates:
        del content["estimates"]  # as in earlier versions
    return content


def is_tested(folder: Path) -> bool:
    """Whether any round was evaluated on a test case."""
    return bool(read_test(folder)) or (folder / _WORKING).exists()


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The content of `summary.json`; None if the self-training is not finished.

    Raises:
        InputError: Damaged, or of another format version.
    """
    path = folder / SUMMARY
    return read_versioned(path, FORMAT_VERSION, MEND) if path.exists() else None
