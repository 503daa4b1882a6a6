"""What a reader of a probability needs beside it: calibrated, decided, in distribution, learned from, research only."""

from dataclasses import dataclass, field, replace

from mttu.inference.calibration import KeptCalibration
from mttu.inference.distribution import Distance, KeptDistribution
from mttu.patients import KnownPatients
from mttu.predict.results import PredictionRow


@dataclass(frozen=True)
class Ground:
    """What a checkpoint keeps that its probabilities stand on."""

    undecided_band: tuple[float, float]
    """Lowest and highest undecided probability of a mutation."""
    calibration: KeptCalibration = field(default_factory=KeptCalibration)
    distribution: KeptDistribution = field(default_factory=KeptDistribution)
    known_patients: KnownPatients | None = None
    """Patients that the network was trained on; None if the checkpoint does not say."""

    def knows(self, patient_id: str) -> bool | None:
        """Whether the network was trained on a patient of this id; None if unknown."""
        return None if self.known_patients is None else patient_id in self.known_patients


def add_probability(row: PredictionRow, mutant_probability: float, patient_id: str, ground: Ground) -> PredictionRow:
    """The row with its IDH probability, calibrated and called if that is kept, and whether each is undecided."""
    (low, high), kept = ground.undecided_band, ground.calibration
    calibrated = kept.calibrate(mutant_probability)
    return replace(
        row,
        idh_mutant_probability=mutant_probability,
        idh_undecided=low <= mutant_probability <= high,
        idh_calibrated_probability=calibrated,
        idh_call=kept.call(mutant_probability),
        idh_calibrated_undecided=None if calibrated is None else low <= calibrated <= high,
        calibrated_on=patient_id in kept.patients if kept.fitted and kept.patients is not None else None,
    )


def add_standing(
    row: PredictionRow, ground: Ground, distance: Distance | None, is_patient_told: bool = True
) -> PredictionRow:
    """The row with its distance from the training cases and its standing in words.

    Args:
        row: With its probability, if the network has one.
        ground: See `Ground`.
        distance: From the training cases; None where that is not known.
        is_patient_told: Whether anything but the name of the case's folder tells its patient.
    """
    if distance is None:
        known = ground.distribution.reason or "its statistics are others"
        told = f"in distribution or not: not known ({known})"
    else:
        told = distance.describe()
        row = replace(
            row,
            in_distribution=distance.is_inside,
            distribution_z=distance.largest_z,
            distribution_farthest=distance.statistic,
        )
    parts = [] if row.idh_mutant_probability is None else [_describe_calibration(row, ground.calibration)]
    if is_undecided(row):
        parts.append(_describe_undecided(row, ground))
    return replace(
        row, standing="; ".join([*parts, told, _describe_learned(row, is_patient_told), "research use only"])
    )


def is_undecided(row: PredictionRow) -> bool:
    """Whether the probability that a reader goes by lies in the undecided band: the calibrated one, if there is one."""
    calibrated = row.idh_calibrated_undecided
    return bool(row.idh_undecided if calibrated is None else calibrated)


def name_decisive(row: PredictionRow) -> str:
    """Which probability `is_undecided` is about, in a word."""
    return "uncalibrated" if row.idh_calibrated_probability is None else "calibrated"


def _describe_undecided(row: PredictionRow, ground: Ground) -> str:
    low, high = ground.undecided_band
    calibrated = row.idh_calibrated_probability
    probability = row.idh_mutant_probability if calibrated is None else calibrated
    return f"UNDECIDED: the {name_decisive(row)} probability {probability:.3g} lies in the band {low:g} to {high:g}"


def _describe_calibration(row: PredictionRow, kept: KeptCalibration) -> str:
    if row.idh_calibrated_probability is None:
        return f"IDH probability not calibrated ({kept.reason or 'its cases do not determine a temperature'})"
    own = ", this patient's among them" if row.calibrated_on else ""
    return f"IDH probability calibrated on {kept.num_cases} {kept.fitted_on} cases{own}"


def _describe_learned(row: PredictionRow, is_patient_told: bool) -> str:
    """What is known from ids alone: a patient whom the network learned from may have another id there."""
    if row.learned_from:
        return "LEARNED FROM THIS PATIENT: no fair test"
    unknown = "learned from this patient or not: not known"
    if row.learned_from is None:
        return unknown
    if not is_patient_told:
        return f"{unknown} (only the folder names the patient; no patient of that name was learned from)"
    return "no patient of this id was learned from"
