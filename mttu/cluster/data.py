"""Preparation of a cohort on a pool of Ray actors."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from mttu.cluster.pool import Work, explain_lost, run_pool
from mttu.cluster.resources import Demand, tell_placement
from mttu.config import PrepareSettings
from mttu.data.cache import cache_case
from mttu.data.manifest import Case, Manifest
from mttu.errors import InputError, mask_secrets


class PreparedRow(TypedDict):
    """What became of one case."""

    case_id: str
    seconds: float
    written: bool
    """False if the cache already held it, or on an error."""
    error: str
    """Empty if all is well."""


def _build_preparer(
    cases: Mapping[str, Case], cache_dir: Path, modalities: Sequence[str], settings: PrepareSettings
) -> Work:
    def prepare(case_id: str) -> Mapping[str, Any]:
        start = time.perf_counter()
        written, error = False, ""
        try:
            written = cache_case(cases[case_id], cache_dir, modalities, settings)
        except InputError as problem:
            error = "; ".join(problem.problems)
        except Exception as problem:  # a full disk or a defect of ours in one case is no reason to lose the others
            error = f"case {case_id}: {type(problem).__name__}: {mask_secrets(str(problem))}"
        seconds = time.perf_counter() - start
        return PreparedRow(case_id=case_id, seconds=seconds, written=written, error=error)

    return prepare


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

    def tell(row: Mapping[str, Any]) -> None:
        if on_progress is not None:
            on_progress(cast(PreparedRow, row))

    cases = {case.case_id: case for case in manifest.cases}
    arguments = (cases, cache_dir.resolve(), tuple(modalities), settings)
    tell_placement(Demand("prepare", min(num_actors, len(cases)), 1))
    rows = run_pool(list(cases), _build_preparer, arguments, num_actors, on_row=tell, title="prepare")
    for name in cases:
        if name not in rows:
            error = explain_lost(name, "prepare it again")
            rows[name] = PreparedRow(case_id=name, seconds=0.0, written=False, error=error)
            tell(rows[name])
    return [cast(PreparedRow, rows[name]) for name in cases]
