"""The networks of a cross-validation, together, as the first teacher of the pool (`self_training.teacher=ensemble`).

They disagree where one network is sure by chance, and each labelled case was held out of one of them: probabilities are
calibrated on all labelled cases in place of the validation cases alone, each scored by the one network that did not
learn from it, as the ensemble of `mttu train data.folds=5` is calibrated.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mttu.config import Config
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.errors import InputError, collecting, name_some
from mttu.networks.checkpoint import ENSEMBLE
from mttu.networks.ensemble import read_known_patients
from mttu.pseudo_labels.score_table import ScoreTable
from mttu.pseudo_labels.scoring import ScoringPlan, plan_scoring
from mttu.training.folds import ENSEMBLE_FOLDER, MANIFESTS

SPLIT = "val of the folds"


def teaches_by_folds(config: Config) -> bool:
    """Whether the networks of a cross-validation score the pool for round 1."""
    return config.self_training.teacher == "ensemble" and config.self_training.ensemble is not None


def find_teacher_problems(config: Config, manifest: Manifest) -> list[str]:
    """Says why the cross-validation in `self_training.ensemble` cannot teach this cohort; nothing if it can."""
    settings = config.self_training
    if (settings.teacher == "ensemble") != (settings.ensemble is not None):
        return [
            f"self_training.ensemble is {settings.ensemble} and self_training.teacher is {settings.teacher}; give the "
            "run folder of `mttu train data.folds=5` with teacher=ensemble, or neither"
        ]
    folder = settings.ensemble
    if folder is None:
        return []
    if not (folder / ENSEMBLE_FOLDER / ENSEMBLE).exists() or not list_fold_manifests(folder):
        return [
            f"self_training.ensemble {folder}: is no finished cross-validation; give the run folder of "
            "`mttu train data.folds=5`"
        ]
    problems: list[str] = []
    with collecting(problems):
        known = read_known_patients(folder / ENSEMBLE_FOLDER)
        if known is None:
            raise InputError(f"self_training.ensemble {folder}: its networks do not say whom they learned from")
        learned = known.find(case.patient_id for case in manifest.split("test"))
        tested = [case.case_id for case in manifest.split("test") if case.patient_id in learned]
        if tested:
            problems.append(
                f"self_training.ensemble {folder}: its networks learned from the patients of test cases "
                f"{name_some(tested)}; their labels of the pool would carry the answers"
            )
        plan_held_out(config, None)
    return problems


def list_fold_manifests(folder: Path) -> list[Path]:
    """Manifests of the folds of a cross-validation, in order."""
    count = len(list((folder / MANIFESTS).glob("fold_*.parquet")))
    return [folder / MANIFESTS / f"fold_{number}.parquet" for number in range(1, count + 1)]


def list_held_out(config: Config, manifest: Manifest) -> list[Case]:
    """Cases of known IDH status that the pool's probabilities are calibrated on."""
    folder = config.self_training.ensemble if teaches_by_folds(config) else None
    manifests = [manifest] if folder is None else map(read_manifest, list_fold_manifests(folder))
    return [case for one in manifests for case in one.split("val") if case.idh != IDH_UNKNOWN]


def plan_held_out(config: Config, cache_dir: Path | None) -> list[ScoringPlan]:
    """How each network of the cross-validation scores its own val cases.

    Raises:
        InputError: See `plan_scoring`.
    """
    folder = config.self_training.ensemble or Path()
    changes: Mapping[str, Any] = {f"mc.{name}": value for name, value in config.mc.model_dump(mode="json").items()}
    places = list_fold_manifests(folder)
    return [plan_scoring(folder / place.stem, place, "val", changes, cache_dir) for place in places]


def join_held_out(tables: Sequence[ScoreTable], pool: ScoreTable) -> ScoreTable:
    """The folds' val cases in one table, which says that it is of the ensemble that scored the pool."""
    learned = [table.about["learned_from"] for table in tables]
    known = None if None in learned else list(chain.from_iterable(learned))
    rows = sorted((row for table in tables for row in table.rows), key=lambda row: row.case_id)
    return ScoreTable(tuple(rows), {**pool.about, "split": SPLIT, "learned_from": known})
