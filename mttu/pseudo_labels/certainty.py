"""How certain a network is of a case, and which cases that selects beside thresholds (`selection.rule`). Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mttu.config import SelectionSettings
from mttu.data.labels import CLASS_NAMES, IDH_MUTANT, IDH_WILD
from mttu.errors import say_count
from mttu.pseudo_labels.prior import Correction
from mttu.pseudo_labels.score_table import ScoreRow

ROUNDING = 1e-9
"""Tolerance, so that 1.6 * 5 counts as 8."""


@dataclass(frozen=True)
class Certainty:
    """The scores that a case is selected by; finite."""

    confidence: float
    """Probability of the predicted class: mean over the passes, calibrated and moved where that is asked for."""
    uncertainty: float
    """Standard deviation over the passes, as scored."""
    predicted_class: int
    """By that probability."""
    mutant_probability: float
    calibrated: float | None = None
    """Probability of mutant that is calibrated, but not moved to the pool's share; None without calibration."""

    @property
    def unmoved_confidence(self) -> float:
        """Probability of the predicted class as it was before it was moved to the pool's share."""
        if self.calibrated is None:
            return self.confidence
        return self.calibrated if self.predicted_class == IDH_MUTANT else 1 - self.calibrated


def read_certainty(row: ScoreRow, correction: Correction | None = None) -> Certainty | None:
    """The scores of a row; None if it has an error, or if any of them is missing or not finite."""
    if row.error or row.confidence is None or row.uncertainty is None or row.predicted_class is None:
        return None
    if not (math.isfinite(row.confidence) and math.isfinite(row.uncertainty)):
        return None
    mutant = row.confidence if row.predicted_class == IDH_MUTANT else 1 - row.confidence
    if correction is None:
        return Certainty(row.confidence, row.uncertainty, row.predicted_class, mutant)
    moved = correction.move(mutant)
    predicted = IDH_MUTANT if moved >= 0.5 else IDH_WILD
    confidence = moved if predicted == IDH_MUTANT else 1 - moved
    return Certainty(confidence, row.uncertainty, predicted, moved, correction.calibrate(mutant))


def order_key(certainty: Certainty, case_id: str, settings: SelectionSettings) -> tuple[float, str]:
    """Sorts the most certain case of a class first: by its probability, for UPS less its deviation, then by id.

    The probability is that before it was moved to the pool's share, which keeps the order within a class. Beside moved
    ones, nearly all alike where the share is small, the deviation would rule: cases that the network calls mutant with
    little of it would be the surest wild types.
    """
    return (certainty.uncertainty if settings.method == "UPS" else 0.0) - certainty.unmoved_confidence, case_id


def choose_by_rule(
    certainties: Mapping[str, Certainty], settings: SelectionSettings, calibrated: bool
) -> tuple[dict[str, str], list[str]]:
    """The choice of rank or precision among cases: why each is not chosen, empty if it is; and notes for the user."""
    ordered = sorted(certainties, key=lambda name: order_key(certainties[name], name, settings))
    of_class = {
        label: [name for name in ordered if certainties[name].predicted_class == label] for label in CLASS_NAMES
    }
    if settings.rule == "rank":
        most = {label: _count_ranked(certainties, label, settings.rank_share) for label in CLASS_NAMES}
        ending = ""
    else:
        most = {label: _count_precise(certainties, own, settings.wanted_precision) for label, own in of_class.items()}
        ending = f" whose estimated share of right labels is at least {settings.wanted_precision:g}"
        reaching = sum(most.values())
        if not calibrated:
            note = "nothing is selected: selection.rule=precision needs calibrated probabilities"
            return dict.fromkeys(certainties, "precision: its probability is not calibrated"), [note]
        wanted, least = settings.wanted_precision, settings.least_selected
        if reaching < least:
            note = (
                f"nothing is selected: only {say_count(reaching, 'case has', 'cases have')} an estimated share of "
                f"right labels of at least {wanted:g}, fewer than selection.least_selected={least}"
            )
            why = f"precision: {reaching} cases reach {wanted:g}, fewer than {least}"
            return dict.fromkeys(certainties, why), [note]
    reasons: dict[str, str] = {}
    for label, own in of_class.items():
        beyond = f"{settings.rule}: beyond the {most[label]} most certain {CLASS_NAMES[label]}s{ending}"
        reasons |= {name: "" if place < most[label] else beyond for place, name in enumerate(own)}
    return reasons, []


def _count_ranked(certainties: Mapping[str, Certainty], label: int, share: float) -> int:
    """A share of the expected number of cases of a class, rounded up."""
    mutants = math.fsum(one.mutant_probability for one in certainties.values())
    expected = mutants if label == IDH_MUTANT else len(certainties) - mutants
    return math.ceil(share * expected - ROUNDING)


def _count_precise(certainties: Mapping[str, Certainty], ordered: list[str], wanted: float) -> int:
    """The most of these cases, from the first, whose mean probability of the predicted class is large enough."""
    most, total = 0, 0.0
    for count, name in enumerate(ordered, 1):
        total += certainties[name].confidence
        if total >= wanted * count - ROUNDING:
            most = count
    return most
