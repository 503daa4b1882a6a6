"""Case after case: what runs a case and the row that it becomes, in this process or in an actor of a pool alike."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch

from mttu.errors import InputError, mask_secrets

Row = Mapping[str, Any]
"""JSON values of a case, `case_id` among them."""
Work = Callable[[str], Row]
"""From a case id to its row. What fails becomes the row's `error`; repeating a case must be harmless."""
OnRow = Callable[[int, Row], None]
"""Told how many cases are done, and the newest row."""
Refuse = Callable[[str, str], Row]
"""From a case id and the reason why it has no result to its row."""

_Case = TypeVar("_Case")
_Row = TypeVar("_Row")


def run_cases(
    cases: Iterable[_Case], work: Callable[[_Case], _Row], on_row: Callable[[int, _Row], None] | None = None
) -> list[_Row]:
    """Runs one case after the other in this process; returns their rows in order.

    `on_row` is told how many cases are done, and the newest row. `mttu.cluster.cases.run_pool` does the same on Ray.
    """
    rows: list[_Row] = []
    for case in cases:
        rows.append(work(case))
        if on_row is not None:
            on_row(len(rows), rows[-1])
    return rows


def build_or_refuse(build: Callable[[], Work], refuse: Refuse, threads: int) -> Work:
    """In an actor: builds what runs a case, such as a network, once; where that fails, it is every case's error."""
    torch.set_num_threads(threads)
    try:
        return build()
    except (InputError, OSError) as error:
        reason = mask_secrets(f"on node {os.uname().nodename}: {error}")
        return lambda case_id: refuse(case_id, reason)
