"""Monte Carlo scores: all inputs are checked before the first case; a case that fails becomes a row with its reason."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mttu import __version__
from mttu.config import Config, override_some
from mttu.data.cache import content_hash, open_cached
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.data.manifest import SPLITS, Case, Manifest, read_manifest
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError, collecting, raise_if_any
from mttu.inference.cases import run_cases, run_or_refuse
from mttu.inference.device import choose_precision
from mttu.inference.passes import PassLogits, cut_tumour_window, run_passes
from mttu.inference.windows import import_monai, name_member, predict_ensemble, segment
from mttu.networks import Network
from mttu.networks.checkpoint import find_checkpoint
from mttu.networks.ensemble import describe_checkpoint, read_known_patients, read_members
from mttu.networks.learned import describe_voters, explain_missing, find_voters
from mttu.networks.monte_carlo import IdhPasses
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, summarise_passes

REPLACEABLE = ("mc.", "inference.", "patch.", "train.precision")
"""Sections and settings of a checkpoint that scoring may change."""


@dataclass(frozen=True)
class ScoringPlan:
    """Everything that a scorer needs, checked; small enough to send to a worker."""

    checkpoint: Path
    """Checkpoint or ensemble folder."""
    config: Config
    """The checkpoint's settings with the changes."""
    cases: tuple[Case, ...]
    cache_dir: Path | None
    """Prepared cases, used where they match a case's files; the others are prepared as they are scored."""
    about: Mapping[str, Any]
    """See `ScoreTable.about`."""


def plan_scoring(
    checkpoint: Path,
    manifest: Path,
    split: str,
    changes: Mapping[str, Any] | None = None,
    cache_dir: Path | None = None,
) -> ScoringPlan:
    """Reads checkpoint and manifest and checks that they fit; images are read only when a case is scored.

    Args:
        checkpoint: Checkpoint or ensemble folder, or a run folder with either inside.
        manifest: File that `mttu cohort` wrote.
        split: train, val, unlabelled or test.
        changes: Dotted settings that replace the checkpoint's, from `REPLACEABLE`.
        cache_dir: Folder of prepared cases; None: every case is prepared as it is scored.

    Raises:
        InputError: Lists every problem of checkpoint, manifest, split and settings.
    """
    problems: list[str] = []
    networks: tuple[Network, ...] = ()
    config, cohort, voters = Config(), None, list[int]()
    with collecting(problems):
        networks, config = read_members(checkpoint)
        config = override_some(config, changes or {}, REPLACEABLE, "score")
        voters = find_voters(networks, "idh")
        segments = bool(find_voters(networks, "segmentation"))
        for number in voters or range(1, len(networks) + 1):
            found = find_scoring_problems(networks[number - 1], config, segments)
            problems += [name_member(problem, number, len(networks)) for problem in found]
    with collecting(problems):
        cohort = read_manifest(manifest)
        problems += _find_misfits(cohort, manifest, split, config, bool(networks))
    if cache_dir is not None and not cache_dir.is_dir():
        problems.append(f"cache {cache_dir}: no such folder; run `mttu prepare`, or leave it out")
    raise_if_any(problems)
    if cohort is None:
        raise InputError(f"manifest {manifest}: could not be read")
    folder = find_checkpoint(checkpoint).resolve()
    about = _describe(folder, config, cohort, split)
    if len(voters) < len(networks):  # only then, so that other tables stay the same as those of earlier versions
        about |= {"idh_members": voters, "notes": describe_voters(networks)}
    return ScoringPlan(folder, config, cohort.split(split), cache_dir and cache_dir.resolve(), about)


def find_scoring_problems(network: Network, config: Config, segments: bool | None = None) -> list[str]:
    """Says why a network cannot score cases with these settings; nothing if it can.

    `segments` says whether its ensemble can segment; None: whether the network itself can.
    """
    learned = network.learned_tasks
    problems: list[str] = []
    if network.idh_head is not None and "idh" not in learned:
        reason = explain_missing(network.tasks, learned)["idh"]
        return [f"{reason}; score with a network that was trained on cases of known IDH status"]
    with collecting(problems):
        IdhPasses(network, config.mc.active_dropout)
    segments = "segmentation" in learned if segments is None else segments
    if not segments and config.mc.windows == "tumour" and config.mc.tumour_mask == "predicted":
        problems.append("mc.windows=tumour: the network has no segmentation; choose sliding, or mc.tumour_mask=given")
    return problems


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
    known_patients, learned_from = read_known_patients(checkpoint), None
    if known_patients is not None:
        known = known_patients.find(case.patient_id for case in cohort.split(split))
        learned_from = [case.case_id for case in cohort.split(split) if case.patient_id in known]
    labelled = [case.idh for case in cohort.cases if case.split in ("train", "val") and not case.pseudo_label]
    return {
        "mttu_version": __version__,
        **describe_checkpoint(checkpoint),
        "manifest_fingerprint": cohort.fingerprint,
        "split": split,
        "learned_from": learned_from,
        "labelled": {"mutant": labelled.count(IDH_MUTANT), "wild": labelled.count(IDH_WILD)},
        "modalities": list(config.data.modalities),
        "mc": config.mc.model_dump(mode="json"),
        "patch": config.patch.model_dump(mode="json"),
        "inference": {"overlap": config.inference.overlap},
        "prepare": config.data.prepare.model_dump(mode="json"),
    }


OnScored = Callable[[int, ScoreRow], None]
"""Called with the number of cases done and the newest row."""


class CaseScorer:
    """Scores cases by one network or an ensemble, whose weights are read once.

    The probability of an ensemble's pass is the mean over its members, which have dropout masks of their own; so is the
    probability without dropout. Members whose IDH head never saw a label do not count. Independent masks average out:
    the deviation over passes shrinks with the number of members and does not include their disagreement, so thresholds
    of one network do not apply to an ensemble. Their disagreement is a column of its own, `member_deviation`.

    Raises:
        InputError: The checkpoint cannot be read here.
    """

    def __init__(self, plan: ScoringPlan, device: torch.device) -> None:
        import_monai()
        networks, _ = read_members(plan.checkpoint)
        self.networks = [network.to(device) for network in networks]
        self.voters = find_voters(networks, "idh")
        self.config = plan.config
        self.cache_dir = plan.cache_dir
        self.device = device
        self.precision = choose_precision(plan.config.train.precision, device)

    def score(self, case: Case) -> ScoreRow:
        """The case's row; never raises for a case that cannot be scored."""
        started = time.perf_counter()
        row = run_or_refuse(case.case_id, lambda: self._score(case), partial(ScoreRow, case.case_id, 0.0))
        return replace(row, seconds=time.perf_counter() - started)

    def _score(self, case: Case) -> ScoreRow:
        config, mc = self.config, self.config.mc
        image, seg = self._read(case)
        if mc.windows == "tumour":
            classes = seg if mc.tumour_mask == "given" else self._segment(image)
            if classes is None:
                raise InputError(f"case {case.case_id}: has no mask; choose mc.tumour_mask=predicted")
            window = cut_tumour_window(image, classes, config.patch.size)
            if window is None:
                raise InputError(
                    f"case {case.case_id}: no tumour in the {mc.tumour_mask} mask; choose mc.windows=sliding"
                )
            image = window
        volume = _to_tensor(image)
        answers = [self._run_passes(volume, case.case_id, member) for member in self.voters]
        by_member = [answer.mutant_probabilities for answer in answers]
        passes = [fmean(values) for values in zip(*by_member, strict=True)]
        without_dropout = fmean(answer.deterministic_probability for answer in answers)
        return summarise_passes(case.case_id, passes, without_dropout, 0.0, [fmean(own) for own in by_member])

    def _run_passes(self, volume: Tensor, case_id: str, member: int) -> PassLogits:
        try:
            return run_passes(
                self.networks[member - 1],
                volume,
                case_id,
                patch_size=self.config.patch.size,
                settings=self.config.mc,
                inference=self.config.inference,
                device=self.device,
                precision=self.precision,
                member=member,
            )
        except FloatingPointError as error:
            raise FloatingPointError(name_member(str(error), member, len(self.networks))) from None

    def _read(self, case: Case) -> tuple[NDArray[np.float16], NDArray[np.uint8] | None]:
        """The prepared image and mask; from the cache where its entry matches the case's files as they are now."""
        modalities, settings = self.config.data.modalities, self.config.data.prepare
        wants_seg = self.config.mc.windows == "tumour" and self.config.mc.tumour_mask == "given"
        if self.cache_dir is not None:
            with suppress(InputError):  # not there, damaged or without a modality: prepared below
                cached = open_cached(self.cache_dir, case.case_id)
                if cached.settings == settings and cached.content_hash == content_hash(
                    case, cached.modalities, settings
                ):
                    cached.will_need()
                    return np.asarray(cached.image)[cached.channels(modalities)], cached.seg
        prepared = prepare_case(case if wants_seg else replace(case, seg=None), modalities, settings)
        return prepared.image, prepared.seg

    def _segment(self, image: NDArray[np.float16]) -> NDArray[np.uint8]:
        config = self.config
        probabilities = predict_ensemble(
            self.networks, _to_tensor(image), config.patch.size, config.inference, self.device, self.precision
        ).seg_probabilities
        if probabilities is None:
            raise InputError("the network has no segmentation; choose mc.windows=sliding")
        classes = segment(probabilities, config.inference, config.data.prepare.spacing_mm**3)
        return np.asarray(classes.cpu(), dtype=np.uint8)


def _to_tensor(image: NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32))


def score_cases(plan: ScoringPlan, device: torch.device, on_row: OnScored | None = None) -> ScoreTable:
    """Scores every case of a plan in this process, one after the other, without Ray.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    rows = run_cases(plan.cases, CaseScorer(plan, device).score, on_row)
    return make_table(plan, rows, device.type, torch.get_num_threads())


def make_table(plan: ScoringPlan, rows: list[ScoreRow], device_type: str, threads: int) -> ScoreTable:
    """The table of a plan's rows, sorted; it names device and threads, on which the last bits depend."""
    precision = choose_precision(plan.config.train.precision, torch.device(device_type))
    about = {**plan.about, "device": device_type, "precision": precision, "threads": threads}
    return ScoreTable(tuple(sorted(rows, key=lambda row: row.case_id)), about)
