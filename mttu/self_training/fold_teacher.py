"""The networks of a cross-validation, together, as the first teacher of the pool (`self_training.teacher=ensemble`).

They disagree where one network is sure by chance, and each labelled case was held out of one of them: probabilities are
calibrated on all labelled cases in place of the validation cases alone, each scored by the one network that did not
learn from it, as the ensemble of `mttu train data.folds=5` is calibrated. That is the temperature of single networks:
the mean of several is milder than any of them, so the calibrated probabilities of the pool are, too.
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
    """Says why the cross-validation in `self_training.ensemble` cannot teach this cohort; nothing if it can.

    Val patients may be among those that it learned from: see `describe_teaching`.
    """
    folder = config.self_training.ensemble
    if config.self_training.teacher != "ensemble":
        return []
    if folder is None:
        return [
            "self_training.teacher is ensemble and self_training.ensemble is not set; give the run folder of "
            "`mttu train data.folds=5`"
        ]
    if not (folder / ENSEMBLE_FOLDER / ENSEMBLE).exists() or not list_fold_manifests(folder):
        return [
            f"self_training.ensemble {folder}: is no finished cross-validation; give the run folder of "
            "`mttu train data.folds=5`"
        ]
    if (folder / "fold_1" / "round_0").exists():
        return [
            f"self_training.ensemble {folder}: is of a self-training, whose networks learned from labels of their own; "
            "give the run folder of `mttu train data.folds=5`"
        ]
    problems: list[str] = []
    with collecting(problems):
        for split, why in (("test", "would carry the answers"), ("unlabelled", "would be no predictions")):
            known = _find_known(folder, manifest.split(split))
            if known is None:
                raise InputError(f"self_training.ensemble {folder}: its networks do not say whom they learned from")
            if known:
                problems.append(
                    f"self_training.ensemble {folder}: its networks learned from the patients of {split} cases "
                    f"{name_some(known)}; their labels of the pool {why}"
                )
        plan_scoring(folder / ENSEMBLE_FOLDER, config.data.manifest or Path(), "unlabelled", scoring_changes(config))
        plan_held_out(config, None)
    return problems


def _find_known(folder: Path, cases: Sequence[Case]) -> list[str] | None:
    """Cases of patients whom a network of the cross-validation learned from; None if these do not say whom."""
    known = read_known_patients(folder / ENSEMBLE_FOLDER)
    if known is None:
        return None
    learned = known.find(case.patient_id for case in cases)
    return [case.case_id for case in cases if case.patient_id in learned]


def describe_teaching(config: Config, manifest: Manifest) -> list[str]:
    """Notes on thresholds of one network, and on patients by whom epochs and rounds are chosen."""
    notes, selection = [], config.selection
    if selection.method == "UPS" and selection.rule == "thresholds":
        notes.append(
            "the mean of several networks deviates less over its passes than one network does, so "
            f"selection.uncertainty_threshold={selection.uncertainty_threshold:g} leaves out fewer cases than with "
            "one network"
        )
    val = manifest.split("val")
    known = _find_known(config.self_training.ensemble or Path(), val)
    if not known:
        return notes
    return [
        *notes,
        f"networks of the ensemble learned from the patients of {len(known)} of {len(val)} validation cases, so their "
        "labels of the pool know something of these: validation scores of the rounds are optimistic, those of test "
        "cases are not",
    ]


def list_fold_manifests(folder: Path) -> list[Path]:
    """Manifests of the folds of a cross-validation, in order."""
    count = len(list((folder / MANIFESTS).glob("fold_*.parquet")))
    return [folder / MANIFESTS / f"fold_{number}.parquet" for number in range(1, count + 1)]


def list_held_out(config: Config, manifest: Manifest) -> list[Case]:
    """Val cases of all folds, which calibrate the pool's probabilities, with the IDH status that the cohort knows."""
    known = {case.case_id: case for case in manifest.cases if case.idh != IDH_UNKNOWN}
    folds = map(read_manifest, list_fold_manifests(config.self_training.ensemble or Path()))
    return [known[case.case_id] for fold in folds for case in fold.split("val") if case.case_id in known]


def plan_held_out(config: Config, cache_dir: Path | None) -> list[ScoringPlan]:
    """How each network of the cross-validation scores its own val cases.

    Raises:
        InputError: See `plan_scoring`.
    """
    folder = config.self_training.ensemble or Path()
    places = list_fold_manifests(folder)
    return [plan_scoring(folder / place.stem, place, "val", scoring_changes(config), cache_dir) for place in places]


def scoring_changes(config: Config) -> Mapping[str, Any]:
    """Settings of a self-training that replace those of the checkpoint that scores."""
    return {f"mc.{name}": value for name, value in config.mc.model_dump(mode="json").items()}


def join_held_out(tables: Sequence[ScoreTable], pool: ScoreTable) -> ScoreTable:
    """The folds' val cases in one table, which says that it is of the ensemble that scored the pool."""
    learned = [table.about["learned_from"] for table in tables]
    known = None if None in learned else list(chain.from_iterable(learned))
    rows = sorted((row for table in tables for row in table.rows), key=lambda row: row.case_id)
    return ScoreTable(tuple(rows), {**pool.about, "split": SPLIT, "learned_from": known})
