"""What a training works on, and what each rank opens of it before the first step."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mttu.config import Config
from mttu.data.cache import CachedCase, open_cached
from mttu.data.cohort import Case
from mttu.data.loaders import PatchDataset
from mttu.errors import InputError, raise_if_any
from mttu.training.start import digest_weights


@dataclass(frozen=True)
class Task:
    """What is trained on what: settings, cases, and where their prepared volumes lie."""

    config: Config
    train: tuple[Case, ...]
    val: tuple[Case, ...]
    cache_dir: Path


@dataclass(frozen=True)
class Opened:
    """What a rank reads of a task before the first step; nothing in it needs another rank."""

    dataset: PatchDataset
    validation: list[tuple[Case, CachedCase]]
    seen: Mapping[str, str]
    """What has to be the same for every rank, by name."""


def open_task(task: Task) -> Opened:
    """Opens every prepared case, once and without reading its voxels; each holds two open files.

    Raises:
        InputError: Lists every case that is not there, and what else cannot be read.
        RunError: No more files can be opened.
    """
    problems: list[str] = []
    seen: dict[str, str] = {}
    opened: dict[str, CachedCase] = {}
    start, has_cache = task.config.train.start_from, task.cache_dir.is_dir()
    if not has_cache:  # said once, not for every case
        problems.append(f"the folder of prepared cases {task.cache_dir} is not there")
    for case in (*task.train, *task.val) if has_cache else ():
        try:
            opened[case.case_id] = open_cached(task.cache_dir, case.case_id)
            content = opened[case.case_id].content_hash
            seen[f"case {case.case_id}"] = f"{content} {case.idh} {case.labels} {case.pseudo_label} {case.split}"
        except InputError as error:
            problems += error.problems
    if start is not None:
        try:
            seen[f"train.start_from {start}"] = digest_weights(start)
        except (InputError, OSError) as error:
            problems.append(f"train.start_from {start}: {error}")
    raise_if_any(problems)
    train = [opened[case.case_id] for case in task.train]
    dataset = PatchDataset(task.train, task.cache_dir, task.config, train)
    return Opened(dataset, [(case, opened[case.case_id]) for case in task.val], seen)
