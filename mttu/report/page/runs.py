"""A finished training or self-training, read back from its folder for the page about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mttu.config import Config, load_stored_config, override
from mttu.config.earlier import NEWER, complete
from mttu.data.labels import REGIONS
from mttu.data.manifest import Manifest, read_manifest
from mttu.errors import InputError
from mttu.files import hash_file, read_json, read_versioned
from mttu.inference.calibration import KeptCalibration, hold_for, read_calibration
from mttu.inference.distribution import read_distribution
from mttu.inference.postprocessing import KeptPostprocessing, read_postprocessing
from mttu.networks.ensemble import read_known_patients
from mttu.predict.standing import Ground
from mttu.self_training.evaluation import TEST_ROWS, choose_round, read_rows, read_summary
from mttu.self_training.round_folder import (
    MANIFEST,
    VAL,
    count_finished,
    read_history,
    read_record,
    round_folder,
)
from mttu.self_training.tracking import RoundSummary, summarise_rounds
from mttu.training.held_out import HeldOut, read_held_out
from mttu.training.run import FINISHED, MARK
from mttu.training.state import BEST

History = Sequence[Mapping[str, float]]
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class ShownRun:
    """What a page shows of one run."""

    folder: Path
    settings: Config
    """As the run was begun with, without folders and addresses."""
    config: Config
    """Those of the chosen weights: a round has its own seed and learning rate."""
    checkpoint: Path
    """Folder of these weights."""
    weights_sha256: str
    manifest: Manifest | None
    """What it trained on, without pseudo-labels; None where no manifest is given that holds its val cases."""
    manifest_file: Path | None
    """Where that was read from, if it was given; a self-training has a copy of its own."""
    histories: Mapping[str, History]
    """`training`, or `round 0` and so on, to the metrics of each epoch."""
    ground: Ground
    """What a probability by the checkpoint stands on."""
    postprocessing: KeptPostprocessing
    """That of the checkpoint, which `mttu predict` applies."""
    held_out: tuple[HeldOut, ...]
    """What the chosen weights say of the val cases."""
    data: str = ""
    """SHA-256 over manifest and prepared cases that it was begun with; empty where it does not say."""
    other_weights: tuple[str, ...] = ()
    """Settings by which weights of other runs took part in it."""
    rounds: tuple[RoundSummary, ...] = ()
    """Empty for a training."""
    chosen_round: int | None = None
    scores: Mapping[str, float] | None = None
    """Case to its mean Dice, by the run's own test or, without one, validation; None where it kept none."""
    scored_on: str = ""
    """`test` or `val`."""
    summary: Mapping[str, Any] | None = None
    """`summary.json` of a self-training; None for a training, and where it is not finished."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def calibration(self) -> KeptCalibration:
        """That of the checkpoint, if it holds for its settings."""
        return self.ground.calibration

    @property
    def is_self_training(self) -> bool:
        """Whether it has rounds."""
        return bool(self.rounds)


def read_run(folder: Path, manifests: Mapping[Path, Manifest] | None = None) -> ShownRun:
    """Reads a run folder; a self-training needs its first round, a training must be finished.

    Args:
        folder: That of `mttu train` or `mttu self-train`; of a cross-validation, a fold.
        manifests: File to manifest, for trainings, which keep no copy of theirs.

    Raises:
        InputError: No such run, or a file in it is damaged or of another version.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(f"run {folder}: is no folder; give what `mttu train` or `mttu self-train` wrote")
    if count_finished(folder):
        return _read_self_training(folder)
    content = _read_finished(folder)
    if "history" in content:
        return _read_training(folder, content["history"], manifests or {})
    if (folder / "fold_1").is_dir():
        raise InputError(f"run {folder}: is a cross-validation; give its folds, e.g. {folder / 'fold_1'}")
    raise InputError(
        f"run {folder}: holds no finished training and no finished round; give the folder of a run, and finish it "
        "with the command that began it"
    )


def _read_finished(folder: Path) -> Mapping[str, Any]:
    path = folder / FINISHED
    if not path.exists():
        return {}
    return read_versioned(path, 1, "restore it from a copy, or run the same command again")


def _read_training(folder: Path, history: History, manifests: Mapping[Path, Manifest]) -> ShownRun:
    best = folder / BEST
    config, held_out, mark = _read_config(best), read_held_out(folder) or (), _read_mark(folder)
    file = _find_manifest(manifests, {row.case_id for row in held_out})
    return ShownRun(
        folder=folder,
        settings=_read_settings(folder, config, mark),
        config=config,
        checkpoint=best,
        weights_sha256=hash_file(best / WEIGHTS),
        manifest=None if file is None else manifests[file],
        manifest_file=file,
        histories={"training": history},
        ground=_read_ground(best, config),
        postprocessing=read_postprocessing(best),
        held_out=held_out,
        data=str(mark.get("data", "")),
        other_weights=("train.start_from",) if mark.get("settings", {}).get("train.start_from") else (),
    )


def _find_manifest(manifests: Mapping[Path, Manifest], val: set[str]) -> Path | None:
    """The first manifest whose val cases hold those of a run; None where the run does not name them."""
    if not val:
        return None
    fitting = (file for file, one in manifests.items() if val <= {case.case_id for case in one.split("val")})
    return next(fitting, None)


def _read_self_training(folder: Path) -> ShownRun:
    places = [round_folder(folder, number) for number in range(count_finished(folder))]
    records = [read_record(place) for place in places]
    summary = read_summary(folder)
    chosen = choose_round(records) if summary is None else int(summary["chosen_round"])
    best = _find_weights(folder, places[chosen] / BEST)
    config, mark = _read_config(best), _read_mark(folder)
    settings = _read_settings(folder, config, mark)
    if summary is not None and settings.selection.method != "direct":  # that has one round, whatever is set
        settings = override(settings, {"self_training.rounds": summary["rounds_wanted"]})
    other_weights: tuple[str, ...] = ("train.start_from",) if records[0].started_from else ()
    other_weights += ("self_training.ensemble",) if any(row.teacher == "ensemble" for row in records) else ()
    scores, scored_on = _read_scores(folder, chosen)
    return ShownRun(
        folder=folder,
        settings=settings,
        config=config,
        checkpoint=best,
        weights_sha256=hash_file(best / WEIGHTS),
        manifest=read_manifest(places[0] / MANIFEST),
        manifest_file=None,
        histories={f"round {number}": read_history(place) or [] for number, place in enumerate(places)},
        ground=_read_ground(best, config),
        postprocessing=read_postprocessing(best),
        held_out=read_held_out(places[chosen]) or (),
        data=str(mark.get("data", "")),
        other_weights=other_weights,
        rounds=tuple(summarise_rounds(folder, {})),
        chosen_round=chosen,
        scores=scores,
        scored_on=scored_on,
        summary=summary,
    )


def _find_weights(folder: Path, chosen: Path) -> Path:
    """`best/` of a finished self-training, where `mttu postprocess` writes; until it has these weights, the round's."""
    copy, weights = folder / BEST / WEIGHTS, chosen / WEIGHTS
    same = copy.is_file() and weights.is_file() and hash_file(copy) == hash_file(weights)
    return copy.parent if same else chosen


def _read_config(best: Path) -> Config:
    if not (best / WEIGHTS).is_file():
        raise InputError(f"run {best.parent}: has no weights in {best.name}; restore them from a copy")
    return load_stored_config(best / "config.yaml")


def _read_ground(best: Path, config: Config) -> Ground:
    return Ground(
        config.inference.undecided_band,
        hold_for(read_calibration(best), config),
        read_distribution(best),
        read_known_patients(best),
    )


def _read_mark(folder: Path) -> Mapping[str, Any]:
    """What a run was begun with; empty for what has no mark, e.g. a fold.

    Raises:
        InputError: Damaged.
    """
    path = folder / MARK
    try:
        mark = dict(read_json(path))
        return {**mark, "settings": dict(mark["settings"])}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; restore it from a copy") from None


def _read_settings(folder: Path, config: Config, mark: Mapping[str, Any]) -> Config:
    """Settings of the weights, with those in the run's mark instead: a round has its own seed and learning rate."""
    if not mark:
        return config
    stored = mark["settings"]
    known = {name: value for name, value in complete(stored).items() if name in stored or name not in NEWER}
    changes = {**known, "train.start_from": None, "train.start_optimiser": "fresh"}
    return override(config, changes, f"{folder / MARK}")


def _read_scores(folder: Path, chosen: int) -> tuple[dict[str, float] | None, str]:
    """Mean Dice of each test case by the chosen round; without test cases, of each val case."""
    if (folder / TEST_ROWS).exists():
        rows = [row for row in read_rows(folder / TEST_ROWS)[0] if row["round"] == chosen]
        return _mean_dice(rows), "test"
    path = round_folder(folder, chosen) / VAL
    if path.exists():
        return _mean_dice(read_rows(path)[0]), "val"
    return None, ""


def _mean_dice(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scores = {}
    for row in rows:
        known = [value for region in REGIONS if (value := row.get(f"dice_{region}")) is not None]
        if known:
            scores[str(row["case_id"])] = fmean(known)
    return scores


def list_failures(run: ShownRun) -> list[str]:
    """What went wrong or is missing in a run, in sentences."""
    found = []
    if run.is_self_training and run.summary is None:
        rounds = len(run.rounds) - 1
        found.append(f"The self-training is not finished: its last round is {rounds}, and nothing was tested.")
    missing = {} if run.summary is None else run.summary["missing"]
    found += [f"No answer to {task}: {reason}" for task, reason in missing.items()]
    for row in run.rounds:
        found += [f"Round {row.round}: {note}" for note in row.notes]
    if run.calibration.reason:
        found.append(f"Nothing is calibrated: {run.calibration.reason}.")
    return [*found, *(f"About the calibration: {note}" for note in run.calibration.notes)]
