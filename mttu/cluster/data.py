"""Preparation of a cohort with Ray Data: rows carry case ids, never volumes; a bad case never stops the others."""

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import ray
import ray.data

from mttu.config import PrepareSettings
from mttu.data.cache import cache_case
from mttu.data.manifest import Case, Manifest
from mttu.errors import InputError

RETRIES = 2
"""How often a case is tried again whose worker died, e.g. for want of memory."""

CPU_SHARE = 0.8
"""Part of the cluster's CPUs that the actors take at most; the rest is Ray Data's own work."""


class PreparedRow(TypedDict):
    """What became of one case."""

    case_id: str
    seconds: float
    written: bool
    """False if the cache already held it, or on an error."""
    error: str
    """Empty if all is well."""


class _Preparer:
    """An actor that prepares one case after the other; repeating a case is harmless."""

    def __init__(
        self, cases: Mapping[str, Case], cache_dir: Path, modalities: Sequence[str], settings: PrepareSettings
    ) -> None:
        self.cases = cases
        self.cache_dir = cache_dir
        self.modalities = modalities
        self.settings = settings

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        written, error = False, ""
        try:
            written = cache_case(self.cases[row["case_id"]], self.cache_dir, self.modalities, self.settings)
        except InputError as problem:
            error = "; ".join(problem.problems)
        except Exception as problem:  # a full disk or a defect of ours in one case is no reason to lose the others
            error = f"case {row['case_id']}: {type(problem).__name__}: {problem}"
        seconds = time.perf_counter() - start
        return {"case_id": row["case_id"], "seconds": seconds, "written": written, "error": error}


def prepare_cohort(
    manifest: Manifest,
    cache_dir: Path,
    modalities: Sequence[str],
    settings: PrepareSettings,
    num_actors: int,
    on_progress: Callable[[PreparedRow], None] | None = None,
) -> list[PreparedRow]:
    """Prepares all cases into a cache, on the Ray cluster that is connected.

    Args:
        manifest: Cohort.
        cache_dir: Cache folder that all nodes see.
        modalities: Channels in order.
        settings: How a case is prepared.
        num_actors: Cases prepared at the same time.
        on_progress: Called with each row as it arrives.

    Returns:
        One row per case, in the order of the manifest.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # one line per finished pipeline is of no use here
    cases = {case.case_id: case for case in manifest.cases}
    if not cases:
        return []
    dataset = ray.data.from_items([{"case_id": name} for name in cases], override_num_blocks=len(cases))
    dataset.context.max_errored_blocks = -1  # a case whose worker always dies gets its row below
    dataset.context.enable_progress_bars = False
    actors = min(num_actors, len(cases))
    with warnings.catch_warnings():
        # Without a bound, a case that kills its worker is tried for ever. Ray 2.60 takes the bound only as a remote
        # argument, which it announces to replace. The workers themselves restart without bound, for the other cases.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        prepared = dataset.map(
            _Preparer,
            fn_constructor_args=(cases, cache_dir.resolve(), tuple(modalities), settings),
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=min(1.0, CPU_SHARE * ray.cluster_resources().get("CPU", 1.0) / actors),
            max_task_retries=RETRIES,
        )
    rows: dict[str, PreparedRow] = {}
    for batch in prepared.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        for row in batch.to_pylist():
            rows[row["case_id"]] = row
            if on_progress is not None:
                on_progress(row)
    for name in cases:
        if name not in rows:
            error = f"case {name}: its worker died {RETRIES + 1} times; is memory or the disk full? prepare it again"
            rows[name] = PreparedRow(case_id=name, seconds=0.0, written=False, error=error)
            if on_progress is not None:
                on_progress(rows[name])
    return [rows[name] for name in cases]
