"""Batch quotas: how many samples of each kind of case a global batch holds, which cases they are, and their places."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mttu.config import Config
from mttu.config.training import QuotaSettings
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case
from mttu.errors import InputError, say_count

Kind = Literal["labelled", "pseudo", "unlabelled"]
KINDS: tuple[Kind, ...] = ("labelled", "pseudo", "unlabelled")
TITLES: Mapping[Kind, str] = {"labelled": "labelled", "pseudo": "pseudo-labelled", "unlabelled": "unlabelled"}
_QUOTA = 3
"""Last number of a seed, beside `_ORDER` and `_SAMPLE` of `mttu.data.loaders`."""


def kind_of(case: Case) -> Kind:
    """Whether the case has a true IDH label, a pseudo-label, or none."""
    if case.pseudo_label:
        return "pseudo"
    return "unlabelled" if case.idh == IDH_UNKNOWN else "labelled"


def share_quotas(quotas: QuotaSettings, counts: Mapping[Kind, int]) -> dict[Kind, int]:
    """Samples of each kind in every global batch; kinds without any are left out.

    The share of a kind that has no case goes to the other kinds that have a quota and cases, in proportion to their
    quotas: whole samples first, then one each by largest remainder; of equals, in the order of `KINDS`.

    Args:
        quotas: Samples of each kind; their sum is the global batch.
        counts: Number of training cases of each kind.

    Raises:
        InputError: No kind that has a quota has a case.
    """
    wanted = {kind: quota for kind in KINDS if (quota := int(getattr(quotas, kind)))}
    present = {kind: quota for kind, quota in wanted.items() if counts.get(kind)}
    if not present:
        asked = " or ".join(TITLES[kind] for kind in wanted)
        found = ", ".join(f"{counts.get(kind, 0)} {TITLES[kind]}" for kind in KINDS)
        raise InputError(
            f"train.quotas: no case of split train is {asked} (there are {found}); give another kind a quota"
        )
    total, base = sum(wanted.values()), sum(present.values())
    shares = {kind: total * quota // base for kind, quota in present.items()}
    by_remainder = sorted(present, key=lambda kind: -(total * present[kind] % base))
    for kind in by_remainder[: total - sum(shares.values())]:
        shares[kind] += 1
    return shares


def mix_kinds(shares: Mapping[Kind, int]) -> list[Kind]:
    """The kind at each place of a global batch, spread evenly, the same for every step and number of ranks.

    Each place takes the kind that lags most behind its share, and not the kind before it as long as another way is
    left. So where no kind has more than half of the batch, no two neighbours, and hence no rank and no micro-batch of
    more than one sample, are of a single kind.
    """
    total = sum(shares.values())
    order: list[Kind] = []
    for place in range(total):
        left = {kind: share - order.count(kind) for kind, share in shares.items()}
        others = [kind for kind in shares if left[kind] and order[-1:] != [kind]]
        allowed = others or [kind for kind in shares if left[kind]]
        urgent = [kind for kind in allowed if 2 * left[kind] > total - place]  # or it would have to follow itself
        lags = {kind: shares[kind] * (place + 1) - total * order.count(kind) for kind in allowed}
        order.append(urgent[0] if urgent else max(allowed, key=lags.__getitem__))
    return order


def draw_by_kind(
    kinds: Sequence[Kind], shares: Mapping[Kind, int], steps: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Case index of each sample of an epoch, (steps, samples of the global batch).

    Each kind goes through passes over its cases, each pass in an order of its own, and an epoch (from 0) goes on where
    the one before ended: at any time the cases of a kind have been seen equally often up to one.

    Args:
        kinds: Kind of each case.
        shares: Samples of each kind in a global batch.
        steps: Steps of every epoch.
        seed: With the number of a pass and its kind, decides the order.
        epoch: From 0.
    """
    places = mix_kinds(shares)
    order = np.empty((steps, len(places)), np.int64)
    for kind, share in shares.items():
        members = np.flatnonzero([one == kind for one in kinds])
        first, count = epoch * steps * share, steps * share
        passes = range(first // len(members), -(-(first + count) // len(members)))
        seeds = [[seed, number, KINDS.index(kind), _QUOTA] for number in passes]
        stream = np.concatenate([np.random.default_rng(one).permutation(members) for one in seeds])
        begin = first - passes.start * len(members)
        order[:, [one == kind for one in places]] = stream[begin : begin + count].reshape(steps, share)
    return order


def describe_quotas(cases: Sequence[Case], config: Config) -> list[str]:
    """What `train.quotas` make of these training cases, in sentences; none where they are not set.

    Raises:
        InputError: See `share_quotas`.
    """
    quotas = config.train.quotas
    if not quotas.total:
        return []
    counts = Counter(kind_of(case) for case in cases)
    shares = share_quotas(quotas, counts)
    sentence = f"train.quotas: with the cases of split train, each step holds {_list(shares)}"
    absent = [TITLES[kind] for kind in KINDS if getattr(quotas, kind) and not counts[kind]]
    if absent:
        sentence += f" (no case is {' or '.join(absent)}, so that share goes to the others)"
    if "idh" in config.network.tasks:
        now = 0.0 if shares.keys() & {"labelled", "pseudo"} else 1.0
        drawn = min(config.train.global_batch, len(cases))
        then = math.comb(counts["unlabelled"], drawn) / math.comb(len(cases), drawn)
        sentence += f"; {now:.0%} of the steps have no IDH label, without quotas about {then:.0%} would have none"
    unseen = {kind: count for kind in KINDS if (count := counts[kind]) and kind not in shares}
    if not unseen:
        return [sentence]
    subject = say_count(sum(unseen.values()), "case is", "cases are")
    return [sentence, f"train.quotas: {subject} never seen, because the quota is 0: {_list(unseen)}"]


def _list(numbers: Mapping[Kind, int]) -> str:
    return ", ".join(f"{number} {TITLES[kind]}" for kind, number in numbers.items())
