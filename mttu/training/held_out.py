"""IDH probabilities of cases that a network did not learn from, and the calibration that is fitted on them.

A training leaves those of its val cases, by the weights of the best epoch, as `held_out.json` beside `best/`; the folds
of a cross-validation pool theirs as `out_of_fold.parquet` and `.csv`. Whether a network learned from a patient is read
from its own checkpoint each time, whatever the manifest says.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mttu.config import Config
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case
from mttu.data.tables import write_table
from mttu.errors import InputError
from mttu.files import read_versioned, write_json
from mttu.inference.calibration import FittedOn, describe_windows, fit_kept, write_calibration
from mttu.networks.checkpoint import find_checkpoint, read_learned_from
from mttu.networks.ensemble import read_config, read_known_patients
from mttu.patients import KnownPatients, choose_key, digest_bare, known_by_digest, name_patients

FORMAT_VERSION = 2
"""2: `patient_id` in place of `patient`, a digest, because these files name cases anyway."""
HELD_OUT = "held_out.json"
OUT_OF_FOLD = "out_of_fold"
"""Name of the table over folds, without ending."""

_KIND = "mttu out-of-fold predictions"
_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("idh", pa.int8(), nullable=False),
        pa.field("mutant_probability", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class HeldOut:
    """What a network says of a case of known IDH status that it was only validated on."""

    case_id: str
    idh: int
    """1 mutant, 0 wild type."""
    mutant_probability: float
    """Of the whole volume, as `mttu predict` computes it."""
    patient_id: str = ""
    """Empty in what an earlier version wrote."""
    patient: str = ""
    """Digest of the patient's id in what an earlier version wrote, see `mttu.patients.digest_bare`."""


@dataclass(frozen=True)
class OutOfFold:
    """The pooled predictions of the folds of a cross-validation."""

    rows: tuple[tuple[int, HeldOut], ...]
    """Fold, from 1, and prediction; sorted by case."""
    notes: tuple[str, ...]
    """What is not among them, and why."""


def select_held_out(rows: Sequence[Mapping[str, Any]], val: Sequence[Case]) -> tuple[HeldOut, ...]:
    """The rows of `score_case` of these cases that have a probability and a known status, sorted by case."""
    known = {case.case_id: case for case in val if case.idh != IDH_UNKNOWN and not case.pseudo_label}
    found = [
        HeldOut(case_id, known[case_id].idh, float(row["mutant_probability"]), known[case_id].patient_id)
        for row in rows
        if (case_id := str(row["case_id"])) in known and row["mutant_probability"] is not None
    ]
    return tuple(sorted(found, key=lambda one: one.case_id))


def name_held_out(predictions: Sequence[HeldOut], val: Sequence[Case]) -> tuple[HeldOut, ...]:
    """Predictions of these cases with the ids of their patients, which an earlier version did not keep."""
    ids = {case.case_id: case.patient_id for case in val}
    return tuple(
        replace(one, patient_id=ids[one.case_id], patient="") if one.case_id in ids else one for one in predictions
    )


def write_held_out(folder: Path, predictions: Sequence[HeldOut]) -> None:
    """Writes `held_out.json`, whole or not at all."""
    content = {"format_version": FORMAT_VERSION, "predictions": [asdict(one) for one in predictions]}
    write_json(folder / HELD_OUT, content)


def read_held_out(folder: Path) -> tuple[HeldOut, ...] | None:
    """The predictions beside the best weights of a training; None where none are kept, as by older versions.

    Raises:
        InputError: Damaged, or of another format version.
    """
    path = folder / HELD_OUT
    if not path.exists():
        return None
    mend = "restore it from a copy, or remove it: then these predictions calibrate nothing"
    content = read_versioned(path, FORMAT_VERSION, mend, earlier=(1,))
    try:
        return tuple(HeldOut(**row) for row in content["predictions"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; {mend}") from None


def copy_held_out(source: Path, target: Path) -> None:
    """Puts the predictions of the best weights in `source` beside the copy of these weights in `target`."""
    found = read_held_out(source)
    if found is None:
        (target / HELD_OUT).unlink(missing_ok=True)
    else:
        write_held_out(target, found)


def calibrate_training(best: Path, predictions: Sequence[HeldOut]) -> None:
    """Writes `calibration.json` into the checkpoint of a training, fitted on predictions by its weights.

    The val cases have chosen the epoch, so what is fitted on them is slightly optimistic, as is every score on them.
    """
    config = read_config(best)
    rows, notes = _without_known(predictions, best, "validation")
    _calibrate(best, config, rows, "validation", notes, read_learned_from(best))


def pool_folds(places: Sequence[Path]) -> OutOfFold:
    """Puts the folds' held-out predictions together: each by the one network that was not trained on the case's fold.

    The folders of the folds are in order, each with `held_out.json` and the weights that it is of.

    Raises:
        InputError: A `held_out.json` is damaged.
    """
    notes: list[str] = []
    rows: list[tuple[int, HeldOut]] = []
    for number, place in enumerate(places, 1):
        found = read_held_out(place)
        if found is None:
            notes.append(f"fold {number}: keeps no predictions of its val cases (an older version wrote none)")
            continue
        kept, told = _without_known(found, place, f"fold {number}")
        rows += [(number, one) for one in kept]
        notes += told
    patients = [one.patient or digest_bare(one.patient_id) for _, one in rows]  # one name, whichever version wrote it
    folds_of: dict[str, set[int]] = {}
    for patient, (number, _) in zip(patients, rows, strict=True):
        folds_of.setdefault(patient, set()).add(number)
    alone = [row for patient, row in zip(patients, rows, strict=True) if len(folds_of[patient]) == 1]
    if len(alone) < len(rows):
        notes.append(f"{len(rows) - len(alone)} cases of patients who validate in several folds were left out")
    return OutOfFold(tuple(sorted(alone, key=lambda row: row[1].case_id)), tuple(notes))


def fill_ensemble(folder: Path, pooled: OutOfFold) -> None:
    """Writes table and calibration into an ensemble of the folds, whose own rename makes it complete.

    Networks without an IDH head have neither.
    """
    config = read_config(folder)
    if "idh" not in config.network.tasks:
        return
    write_out_of_fold(folder, pooled)
    rows = [one for _, one in pooled.rows]
    _calibrate(folder, config, rows, "out-of-fold", pooled.notes, read_known_patients(folder))


def write_out_of_fold(folder: Path, pooled: OutOfFold) -> None:
    """Writes `out_of_fold.csv`, then `out_of_fold.parquet`: one row per case."""
    rows = [{**asdict(one), "fold": number} for number, one in pooled.rows]
    metadata = {"kind": _KIND, "format_version": str(FORMAT_VERSION), "notes": json.dumps(pooled.notes)}
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata(metadata))
    write_table(folder / OUT_OF_FOLD, table)


def _calibrate(
    folder: Path,
    config: Config,
    rows: Sequence[HeldOut],
    fitted_on: FittedOn,
    notes: Sequence[str],
    learned_from: KnownPatients | None,
) -> None:
    """Fits a calibration on predictions and writes it beside their weights.

    Its patients are named by the key of those that the network learned from, or by one of the probabilities, see
    `choose_key`. Patients that an earlier version named by a bare digest stay under it.
    """
    ids = [one.patient_id for one in rows if one.patient_id]
    old = known_by_digest(one.patient for one in rows if not one.patient_id)
    key = choose_key(learned_from, (repr(one.mutant_probability) for one in rows))
    patients = old | name_patients(ids, key)
    probabilities, idh = [one.mutant_probability for one in rows], [one.idh for one in rows]
    kept = fit_kept(probabilities, idh, fitted_on, notes, describe_windows(config), patients)
    write_calibration(folder, kept)


def _without_known(predictions: Sequence[HeldOut], place: Path, name: str) -> tuple[list[HeldOut], list[str]]:
    """Predictions of patients that the network in `place` did not learn from, and what became of the others.

    The sentences go into a checkpoint, so they name no case.
    """
    learned = read_learned_from(find_checkpoint(place))
    if learned is None:
        return [], [f"{name}: the checkpoint does not say whom it learned from, as what it started from does not"]
    ids = learned.find(one.patient_id for one in predictions if one.patient_id)
    bare = dict(learned.groups).get(None, frozenset())
    comparable = not learned.keys  # an earlier version's digest cannot be compared with keyed ones
    kept = [
        one
        for one in predictions
        if (one.patient_id not in ids if one.patient_id else comparable and one.patient not in bare)
    ]
    left_out = len(predictions) - len(kept)
    notes = [f"{name}: {left_out} cases of patients that the network learned from were left out"] if left_out else []
    return kept, notes
