"""Soft pseudo-labels: how probable a mutation is, and how much that counts in the IDH loss (g of eq. 20)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mttu.data.labels import IDH_MUTANT
from mttu.data.manifest import Case, Manifest
from mttu.pseudo_labels.selection import SelectedCase, Selection


@dataclass(frozen=True)
class SoftLabel:
    """What a selected case trains its IDH head with in place of a class."""

    probability: float
    """Of mutation, in [0, 1]: the target."""
    weight: float
    """g in [0, 1] of eq. (20)."""

    def attach_to(self, case: Case) -> Case:
        """The case with this label."""
        return replace(case, idh_probability=self.probability, idh_weight=self.weight)


def mutant_probability(case: SelectedCase) -> float:
    """The probability of mutation that a case was selected by: its mean over the Monte Carlo passes, calibrated and
    moved to the pool's share of mutants where the settings say so.

    `case` has a score.
    """
    confidence = float(case.confidence or 0.0)
    return confidence if case.pseudo_label == IDH_MUTANT else 1.0 - confidence


def weigh(probability: float) -> float:
    """The weight g = 1 - H(p) / log 2 with the binary entropy H: 1 where p is 0 or 1, 0 where it is one half.

    It is the certainty weight of pseudo-labels in Iscen et al. (CVPR 2019, doi:10.1109/CVPR.2019.00521).
    """
    entropy = -sum(part * math.log2(part) for part in (probability, 1.0 - probability) if part > 0)
    return min(max(1.0 - entropy, 0.0), 1.0)


def find_soft_labels(selection: Selection, earlier: Mapping[str, SoftLabel]) -> dict[str, SoftLabel]:
    """The soft label of every selected case; those in `earlier` (case to label) stay as they are."""

    def find(case: SelectedCase) -> SoftLabel:
        probability = mutant_probability(case)
        return SoftLabel(probability, weigh(probability))

    return {case.case_id: earlier.get(case.case_id) or find(case) for case in selection.cases if case.selected}


def read_soft_labels(manifest: Manifest) -> dict[str, SoftLabel]:
    """The soft labels that a mixed manifest trains with; none where its labels are hard."""
    return {
        case.case_id: SoftLabel(case.idh_probability, case.idh_weight)
        for case in manifest.cases
        if case.idh_probability is not None and case.idh_weight is not None
    }
