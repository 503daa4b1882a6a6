"""Threshold and calibration of the IDH probability, kept beside the checkpoint or ensemble that they belong to.

They are fitted only on cases that the network did not learn from: for one training on its val cases, which chose the
epoch; for the folds of a cross-validation on their pooled out-of-fold predictions. `calibration.json` says on how many
cases, and where nothing could be fitted, why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

from mttu.config import Config
from mttu.data.labels import IDH_MUTANT
from mttu.inference.kept import find_changes, read_kept, write_kept
from mttu.metrics.calibration import Calibration, fit_calibration
from mttu.metrics.classification import choose_threshold
from mttu.patients import KnownPatients, read_patients

FORMAT_VERSION = 2
"""In 1, patients were bare digests."""
CALIBRATION = "calibration.json"
TEMPERATURE = "temperature"
WITH_BIAS = "temperature + bias"
FittedOn = Literal["", "validation", "out-of-fold"]

_MEND = "restore it from a copy, or remove it: then nothing is calibrated"


@dataclass(frozen=True)
class KeptCalibration:
    """What was fitted, and on which cases; without a threshold nothing was, and `reason` says why."""

    fitted_on: FittedOn = ""
    """`validation`, or `out-of-fold`: the cases that each fold of a cross-validation held out."""
    num_cases: int = 0
    num_mutant: int = 0
    threshold: float | None = None
    """Least predicted probability that is called mutant: that of the largest Youden index."""
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    """By name, `TEMPERATURE` and `WITH_BIAS`."""
    reason: str = ""
    """Why nothing was fitted; empty if it was."""
    notes: tuple[str, ...] = ()
    """What was left out of the fit, and why nothing kept before it was used."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Windows and flips that the probabilities were made with, see `describe_windows`."""
    patients: KnownPatients | None = field(default_factory=KnownPatients)
    """Those that it was fitted on; None where it does not say, e.g. in one taken from MLflow."""

    @property
    def fitted(self) -> bool:
        """Whether there is a threshold."""
        return self.threshold is not None

    def calibrate(self, mutant_probability: float) -> float | None:
        """By temperature alone, which keeps the order of cases and the side of 0.5; None if not determined."""
        found = self.calibrations.get(TEMPERATURE)
        return float(found.apply([mutant_probability])[0]) if found is not None and found.determined else None

    def call(self, mutant_probability: float) -> str | None:
        """`mutant` or `wild type`, by the kept threshold; None without one."""
        if self.threshold is None:
            return None
        return "mutant" if mutant_probability >= self.threshold else "wild type"

    def describe(self) -> str:
        """One sentence for a person."""
        if self.threshold is None:
            return f"IDH, nothing calibrated: {self.reason}"
        found = self.calibrations[TEMPERATURE]
        start = f"IDH, fitted on {self.num_cases} {self.fitted_on} cases ({self.num_mutant} mutant): "
        start += f"threshold {self.threshold:.3f}"
        if not found.determined:
            return f"{start}; they do not determine a temperature, so there are no calibrated probabilities"
        return f"{start}, temperature {found.temperature:.2f}"

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the patients."""
        content = asdict(replace(self, patients=None)) | {"notes": list(self.notes)}
        del content["patients"]
        return content


def parse_calibration(content: Mapping[str, Any], patients: KnownPatients | None = None) -> KeptCalibration:
    """Reads what `KeptCalibration.to_json` gave; raises KeyError, TypeError or ValueError if it is anything else."""
    values = dict(content)
    values["calibrations"] = {name: Calibration(**one) for name, one in values["calibrations"].items()}
    if values["threshold"] is not None:
        values["threshold"] = float(values["threshold"])
        values["calibrations"][TEMPERATURE]
        if not 0.0 <= values["threshold"] <= 1.0:  # nor is NaN
            raise ValueError(f"threshold {values['threshold']}; expected 0 to 1")
    for name, one in values["calibrations"].items():
        if not (0.0 < one.temperature < inf and isfinite(one.bias)):
            raise ValueError(f"{name} {one.temperature}, bias {one.bias}; expected finite numbers, the former above 0")
    return KeptCalibration(**{**values, "notes": tuple(values["notes"]), "patients": patients})


def fit_kept(
    mutant_probabilities: Sequence[float],
    idh: Sequence[int],
    fitted_on: FittedOn,
    notes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    patients: KnownPatients | None = None,
) -> KeptCalibration:
    """Threshold, temperature, and temperature with bias; nothing where a class is missing or none beats chance.

    Probabilities and IDH status (1 mutant, 0 wild type) are of cases that the network did not learn from; the other
    arguments are fields of `KeptCalibration`.
    """
    mutants = sum(status == IDH_MUTANT for status in idh)
    wild = len(idh) - mutants
    common: dict[str, Any] = {
        "fitted_on": fitted_on,
        "num_cases": len(idh),
        "num_mutant": mutants,
        "notes": tuple(notes),
        "settings": dict(settings or {}),
        "patients": KnownPatients() if patients is None else patients,
    }
    if not (mutants and wild):
        reason = (
            f"the {fitted_on} cases that the network did not learn from are {mutants} mutant and {wild} wild type; "
            "both are needed"
        )
    elif (threshold := choose_threshold(mutant_probabilities, idh)) is None:
        reason = f"no threshold parts the {len(idh)} {fitted_on} cases ({mutants} mutant) better than chance"
    else:
        calibrations = {
            TEMPERATURE: fit_calibration(mutant_probabilities, idh),
            WITH_BIAS: fit_calibration(mutant_probabilities, idh, with_bias=True),
        }
        return KeptCalibration(**common, threshold=threshold, calibrations=calibrations)
    return KeptCalibration(**common, reason="; ".join([reason, *notes]))


def describe_windows(config: Config) -> dict[str, Any]:
    """Settings that decide how a network's IDH probability of a case is made, as dotted JSON values."""
    return {
        "patch.size": list(config.patch.size),
        "inference.overlap": config.inference.overlap,
        "inference.flips": config.inference.flips,
    }


def hold_for(kept: KeptCalibration, config: Config) -> KeptCalibration:
    """The calibration, or where these settings make probabilities in another way than it was fitted with, why not."""
    changes = find_changes(kept.settings, describe_windows(config)) if kept.fitted else ""
    return KeptCalibration(reason=f"the kept calibration was fitted with {changes}") if changes else kept


def write_calibration(folder: Path, kept: KeptCalibration) -> None:
    """Writes `calibration.json` into a checkpoint or ensemble folder, bound to the weights that it already holds."""
    patients = None if kept.patients is None else kept.patients.to_json()
    write_kept(folder, CALIBRATION, FORMAT_VERSION, {"patients": patients, "calibration": kept.to_json()})


def read_calibration(checkpoint: Path) -> KeptCalibration:
    """Reads the calibration of a checkpoint or ensemble folder, or of a run folder with either inside.

    One that has none, e.g. an older checkpoint or an ensemble of hand-picked members, gives one that says so.

    Raises:
        InputError: `calibration.json` is damaged, of another format, or of other weights.
    """

    def parse(content: Mapping[str, Any]) -> KeptCalibration:
        patients = None if content["patients"] is None else read_patients(content["patients"])
        return parse_calibration(content["calibration"], patients)

    kept = read_kept(checkpoint, CALIBRATION, FORMAT_VERSION, parse, "was fitted for", _MEND, earlier=(1,))
    return kept or KeptCalibration(reason="no calibration is kept with this checkpoint")
