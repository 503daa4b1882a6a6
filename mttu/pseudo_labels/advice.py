"""What a user should know of a selection before training on it, and which setting would help."""

from mttu.config import SelectionSettings
from mttu.data.labels import CLASS_NAMES
from mttu.pseudo_labels.prior import Estimates, differs, say_interval
from mttu.pseudo_labels.selection import Selection

_FEW = 10
_FEW_OF = 4
"""A selection is small with fewer than `_FEW` cases that are also less than one in `_FEW_OF`."""
_RIGHT = 0.8
"""Estimated share of right labels below which a class gets a warning."""


def advise(selection: Selection, settings: SelectionSettings) -> list[str]:
    """Sentences on few labels, labels that are often wrong, and a pool of another share of mutants."""
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
        found.append(
            f"{chosen} of {scored} cases with a score are selected, too few to change much; what helps: {helps}"
        )
    if selection.estimates is not None:
        found += _advise_on(selection.estimates, settings)
    elif chosen and settings.calibrate == "none":
        found.append(
            "how many of these labels should be right is not known; selection.calibrate=temperature+bias estimates it "
            "from labelled cases"
        )
    return found


def _advise_on(estimates: Estimates, settings: SelectionSettings) -> list[str]:
    found, share = [], estimates.pool_share
    known = estimates.calibration_share
    if differs(known, share) and settings.prior == "none":
        found.append(
            f"{say_interval(share)} of the pool are estimated to be mutant, {known:.3f} of the calibration cases; "
            "selection.prior=estimate moves the probabilities to that"
        )
    for name in CLASS_NAMES.values():
        precision = estimates.precision.get(name)
        if precision is not None and precision.estimate is not None and precision.estimate < _RIGHT:
            helps = "selection.rule=precision"
            if settings.method == "PL":
                helps = "selection.method=UPS with selection.rule=precision"
            elif settings.rule == "precision":
                helps = "a higher selection.wanted_precision"
            found.append(f"{precision.estimate:.2f} of the {name} labels should be right; what helps: {helps}")
    return found
