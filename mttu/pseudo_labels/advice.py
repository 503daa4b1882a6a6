"""What a user should know of a selection before training on it, and which setting would help."""

from collections.abc import Collection

from mttu.config import SelectionSettings
from mttu.data.labels import CLASS_NAMES, IDH_MUTANT
from mttu.pseudo_labels.prior import LEAST_OF_A_CLASS, Estimates, differs, say_interval
from mttu.pseudo_labels.selection import Selection

_FEW = 10
_FEW_OF = 4
"""A selection is small with fewer than `_FEW` cases that are also less than one in `_FEW_OF`."""
_RIGHT = 0.8
"""Estimated share of right labels below which a class gets a warning."""
_RARE = 0.1
"""Share of the pool below which a class is so rare that the estimated share of its right labels fails: on phantoms with
5 % mutants 0.8 were expected to be right, and a quarter was."""


def advise(selection: Selection, settings: SelectionSettings, first: bool = True, searched: bool = False) -> list[str]:
    """Sentences on few labels, labels that are often wrong, a rare class, and a pool of another share of mutants.

    Args:
        selection: What was selected.
        settings: By what.
        first: Whether to say how the share of right labels could be known, where it is not.
        searched: Whether the thresholds were searched, which no other rule and no calibration goes with.
    """
    if settings.method not in ("PL", "CPL", "UPS"):
        return []
    scored = sum(case.confidence is not None for case in selection.cases)
    chosen = len(selection.pseudo_labels)
    found = []
    if settings.method != "PL" and chosen < min(_FEW, scored / _FEW_OF):
        helps = {
            "thresholds": "lower thresholds (`mttu thresholds`), or selection.rule=rank, which takes the most certain "
            "of each class however uncertain the network is",
            "rank": "a larger selection.rank_share",
            "precision": "a lower selection.wanted_precision or selection.least_selected, or selection.rule=rank",
        }[settings.rule]
        if searched:
            helps = (
                "self_training.thresholds=fixed with selection.rule=rank, which takes the most certain of each class"
            )
        found.append(
            f"{chosen} of {scored} cases with a score are selected, too few to change much; what helps: {helps}"
        )
    if selection.estimates is not None:
        found += _advise_on(selection.estimates, settings, set(selection.pseudo_labels.values()))
    elif first and chosen and settings.calibrate == "none" and not searched:
        found.append(
            "how many of these labels should be right is not known; selection.calibrate=temperature+bias estimates it "
            f"from labelled cases, {LEAST_OF_A_CLASS} or more of each class"
        )
    return found


def _advise_on(estimates: Estimates, settings: SelectionSettings, chosen: Collection[int]) -> list[str]:
    found, share = [], estimates.pool_share
    known = estimates.calibration_share
    if differs(known, share) and settings.prior == "none":
        found.append(
            f"{say_interval(share)} of the pool are estimated to be mutant, {known:.3f} of the calibration cases; "
            "selection.prior=estimate moves the probabilities to that"
        )
    for label, name in CLASS_NAMES.items():
        rare = _say_rare(estimates, label, name)
        if rare and label in chosen:
            found.append(rare)
            continue
        precision = estimates.precision.get(name)
        if precision is not None and precision.estimate is not None and precision.estimate < _RIGHT:
            helps = "selection.rule=precision"
            if settings.method == "PL":
                helps = "selection.method=UPS with selection.rule=precision"
            elif settings.rule == "precision":
                helps = "a higher selection.wanted_precision"
            found.append(f"{precision.estimate:.2f} of the {name} labels should be right; what helps: {helps}")
    return found


def _say_rare(estimates: Estimates, label: int, name: str) -> str:
    """What to think of the labels of a class that is or may be rare in the pool; empty if it is not."""
    moved, share = estimates.moved_to, estimates.pool_share
    least = share.low if moved is None else moved
    most = share.high if moved is None else moved
    if least is None or most is None:
        return ""
    of_class = least if label == IDH_MUTANT else 1 - most
    if of_class >= _RARE:
        return ""
    known = f"{of_class:.2f} of the pool should be {name}"
    if moved is None:
        known = (
            f"only {of_class:.2f} of the pool may be {name} (mutants: {say_interval(share)}; selection.prior takes the "
            "share, if you know it)"
        )
    return (
        f"{known}: of so rare a class the surest labels are often wrong, far more often than estimated; have these "
        "cases looked at before you rely on them"
    )
