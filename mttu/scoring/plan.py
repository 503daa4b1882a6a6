"""What scoring is made of, checked before the first case: checkpoint, manifest, split, settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mttu import __version__
from mttu.config import Config, override
from mttu.data.cohort import read_manifest
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import SPLITS, Case, Manifest
from mttu.errors import InputError, raise_if_any
from mttu.inference import name_member
from mttu.networks import MttuNet
from mttu.networks.checkpoint import find_checkpoint
from mttu.networks.ensemble import describe_checkpoint, read_members, read_teachers
from mttu.networks.idh_passes import IdhPasses
from mttu.networks.learned import describe_voters, explain_missing, find_voters

CHANGEABLE = ("mc.", "inference.", "patch.", "train.precision")
"""Settings of a checkpoint, or sections of them, that scoring may change."""


@dataclass(frozen=True)
class ScoringPlan:
    """Everything that a scorer needs, checked; small enough to travel."""

    checkpoint: Path
    """Checkpoint or ensemble folder."""
    config: Config
    """The checkpoint's settings with the changes."""
    cases: tuple[Case, ...]
    cache_dir: Path | None
    """Prepared cases, used where they are true; the others are prepared on the way."""
    about: Mapping[str, Any]
    """For the table, see `ScoreTable.about`."""


def plan_scoring(
    checkpoint: Path,
    manifest: Path,
    split: str,
    changes: Mapping[str, Any] | None = None,
    cache_dir: Path | None = None,
) -> ScoringPlan:
    """Reads checkpoint and manifest and checks that they fit.

    Whether a case's images can be read is found out when it is scored: one that cannot is a row with its error.

    Args:
        checkpoint: Checkpoint or ensemble folder, or a run folder with either inside.
        manifest: Manifest that `mttu cohort` wrote.
        split: train, val, unlabelled or test.
        changes: Dotted settings that replace the checkpoint's, from `CHANGEABLE`.
        cache_dir: Folder of prepared cases; None: every case is prepared on the way.

    Raises:
        InputError: Lists every problem of checkpoint, manifest, split and settings.
    """
    problems: list[str] = []
    networks: tuple[MttuNet, ...] = ()
    config, cohort, voters = Config(), None, list[int]()
    try:
        networks, config = read_members(checkpoint)
        config = _change(config, changes or {})
        voters = find_voters(networks, "idh")
        segments = bool(find_voters(networks, "segmentation"))
        for number in voters or range(1, len(networks) + 1):
            found = find_scoring_problems(networks[number - 1], config, segments)
            problems += [name_member(problem, number, len(networks)) for problem in found]
    except InputError as error:
        problems += error.problems
    try:
        cohort = read_manifest(manifest)
        problems += _find_misfits(cohort, manifest, split, config, bool(networks))
    except InputError as error:
        problems += error.problems
    if cache_dir is not None and not cache_dir.is_dir():
        problems.append(f"cache {cache_dir}: no such folder; run `mttu prepare`, or leave it out")
    raise_if_any(problems)
    if cohort is None:
        raise InputError(f"manifest {manifest}: could not be read")
    folder = find_checkpoint(checkpoint).resolve()
    about = _describe(folder, config, cohort, split)
    if len(voters) < len(networks):  # not in other tables, so that those of before stay true
        about |= {"idh_members": voters, "notes": describe_voters(networks)}
    return ScoringPlan(folder, config, cohort.split(split), cache_dir and cache_dir.resolve(), about)


def find_scoring_problems(network: MttuNet, config: Config, segments: bool | None = None) -> list[str]:
    """Says why a network cannot be scored with these settings; nothing if it can.

    Args:
        network: Network.
        config: Settings.
        segments: Whether the ensemble that it belongs to has a segmentation; None: as the network has.
    """
    learned, problems = network.learned_tasks, []
    if network.idh_head is not None and "idh" not in learned:
        reason = explain_missing(network.tasks, learned)["idh"]
        return [f"{reason}; score with a network that was trained on cases of known IDH status"]
    try:
        IdhPasses(network, config.mc.active_dropout)
    except InputError as error:
        problems += error.problems
    segments = "segmentation" in learned if segments is None else segments
    if not segments and config.mc.windows == "tumour" and config.mc.tumour_mask == "predicted":
        problems.append("mc.windows=tumour: the network has no segmentation; choose sliding, or mc.tumour_mask=given")
    return problems


def _change(config: Config, changes: Mapping[str, Any]) -> Config:
    raise_if_any(
        [
            f"setting {name}: belongs to the trained network or has no effect on scoring; allowed are settings of "
            f"{', '.join(section.rstrip('.') for section in CHANGEABLE)}"
            for name in changes
            if not name.startswith(CHANGEABLE)
        ]
    )
    return override(config, changes, "score")


def _find_misfits(cohort: Manifest, path: Path, split: str, config: Config, check_modalities: bool) -> list[str]:
    if split not in SPLITS:
        return [f"split {split!r}: unknown; choose one of {', '.join(SPLITS)}"]
    problems = []
    missing = [name for name in config.data.modalities if name not in cohort.modalities]
    if missing and check_modalities:
        trained = ", ".join(config.data.modalities)
        problems.append(f"manifest {path}: has no {', '.join(missing)}; the checkpoint was trained on {trained}")
    if not cohort.split(split):
        counts = ", ".join(f"{len(cohort.split(name))} {name}" for name in SPLITS)
        problems.append(f"manifest {path}: no case is in split {split}; it holds {counts}")
    return problems


def _describe(checkpoint: Path, config: Config, cohort: Manifest, split: str) -> dict[str, Any]:
    teachers = read_teachers(checkpoint)
    known = None if teachers is None else teachers.find(case.patient_id for case in cohort.split(split))
    learned = [case.idh for case in cohort.cases if case.split in ("train", "val") and not case.pseudo_label]
    return {
        "mttu_version": __version__,
        **describe_checkpoint(checkpoint),
        "manifest_fingerprint": cohort.fingerprint,
        "split": split,
        "learned_from": None
        if known is None
        else [case.case_id for case in cohort.split(split) if case.patient_id in known],
        "labelled": {"mutant": learned.count(IDH_MUTANT), "wild": learned.count(IDH_WILD)},
        "modalities": list(config.data.modalities),
        "mc": config.mc.model_dump(mode="json"),
        "patch": config.patch.model_dump(mode="json"),
        "inference": {"overlap": config.inference.overlap},
        "prepare": config.data.prepare.model_dump(mode="json"),
    }
