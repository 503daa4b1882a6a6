"""The mixed data set of a round: labelled cases, selected cases with pseudo-labels, and masks of the rest. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mttu.config.scoring import Method
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case, Manifest


@dataclass(frozen=True)
class Mixture:
    """What a round trains on."""

    manifest: Manifest
    left_out: tuple[str, ...]
    """Pool cases that nothing could be learned from: neither selected nor with a mask."""


def mix(manifest: Manifest, pseudo_labels: Mapping[str, int]) -> Mixture:
    """Puts the pool into training (Algorithm 1, line 5; sections IV-A and V-E).

    Selected cases train with their pseudo-label. The other cases of the pool train the decoder by their masks, with
    IDH unknown, which has no loss (eq. 20, g = 0); those without a mask are left out. Train, val and test stay.

    Args:
        manifest: The cohort, its pool in split unlabelled.
        pseudo_labels: Selected cases of the pool to class, 1 mutant, 0 wild type.
    """
    mixed, left_out = [], []
    for case in manifest.cases:
        if case.split != "unlabelled":
            mixed.append(case)
        elif case.case_id in pseudo_labels:
            mixed.append(replace(case, split="train", idh=pseudo_labels[case.case_id], pseudo_label=True))
        elif case.seg is not None:
            mixed.append(replace(case, split="train", idh=IDH_UNKNOWN))
        else:
            left_out.append(case.case_id)
    return Mixture(replace(manifest, cases=tuple(mixed)), tuple(left_out))


def first_mixture(manifest: Manifest, method: Method) -> Mixture:
    """What round 0 trains on: the labelled cases, and in the direct training (section V-E) the masks of the pool, too.

    Args:
        manifest: The cohort.
        method: Of the selection.
    """
    return mix(manifest, {}) if method == "direct" else Mixture(manifest, ())


def read_pseudo_labels(manifest: Manifest) -> dict[str, int]:
    """The pseudo-labels that a mixed manifest trains with, case to class."""
    return {case.case_id: case.idh for case in manifest.cases if case.pseudo_label}


def find_strangers(manifest: Manifest) -> list[Case]:
    """Pool cases of a patient who also validates or tests: training on them would give the answer away."""
    held_out = {case.patient_id for case in manifest.cases if case.split in ("val", "test")}
    return [case for case in manifest.split("unlabelled") if case.patient_id in held_out]
