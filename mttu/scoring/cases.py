"""Scoring case after case; one that fails becomes a row with its reason."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mttu.data.cache import content_hash, open_cached
from mttu.data.manifest import Case
from mttu.data.preprocess import prepare_case
from mttu.data.score_table import ScoreRow, ScoreTable, summarise_passes
from mttu.errors import InputError, mask_secrets
from mttu.inference import choose_precision, name_member, predict_ensemble, segment
from mttu.networks.ensemble import read_members
from mttu.networks.learned import find_voters
from mttu.scoring.passes import PassLogits, cut_tumour_window, run_passes
from mttu.scoring.plan import ScoringPlan

OnRow = Callable[[int, ScoreRow], None]


class CaseScorer:
    """A network, or an ensemble, that scores one case after the other; its weights are read once.

    Of an ensemble, a pass's probability is the mean over the members, whose masks differ; so is the probability
    without dropout. Members whose IDH head never saw a label have no say. Independent masks average out: the deviation
    over passes shrinks with the number of members, and their disagreement is not part of it, so a threshold found for
    one network does not hold for an ensemble.

    Args:
        plan: See `plan_scoring`.
        device: Where the passes run.

    Raises:
        InputError: The checkpoint cannot be read here.
    """

    def __init__(self, plan: ScoringPlan, device: torch.device) -> None:
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
        try:
            row = self._score(case)
            return replace(row, seconds=time.perf_counter() - started)
        except InputError as refusal:
            error = "; ".join(refusal.problems)
        except Exception as failure:  # whatever it is, the other cases still count
            first_line = mask_secrets((str(failure).strip().splitlines() or ["no message"])[0])
            error = f"case {case.case_id}: {type(failure).__name__}: {first_line}"
        return ScoreRow(case.case_id, time.perf_counter() - started, error)

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
        volume = torch.from_numpy(np.asarray(image, dtype=np.float32))
        answers = [self._run_passes(volume, case.case_id, member) for member in self.voters]
        passes = zip(*(answer.mutant_probabilities for answer in answers), strict=True)
        without_dropout = fmean(answer.deterministic_probability for answer in answers)
        return summarise_passes(case.case_id, [fmean(values) for values in passes], without_dropout, 0.0)

    def _run_passes(self, volume: Tensor, case_id: str, member: int) -> PassLogits:
        config = self.config
        network, patch_size = self.networks[member - 1], config.patch.size
        arguments = (config.mc, config.inference, self.device, self.precision, member)
        try:
            return run_passes(network, volume, case_id, patch_size, *arguments)
        except FloatingPointError as error:
            raise FloatingPointError(name_member(str(error), member, len(self.networks))) from None

    def _read(self, case: Case) -> tuple[NDArray[np.float16], NDArray[np.uint8] | None]:
        """The prepared image and mask, from the cache where that is true to the case's files as they are now."""
        modalities, settings = self.config.data.modalities, self.config.data.prepare
        wants_seg = self.config.mc.windows == "tumour" and self.config.mc.tumour_mask == "given"
        if self.cache_dir is not None:
            try:
                cached = open_cached(self.cache_dir, case.case_id)
                if cached.settings == settings and cached.content_hash == content_hash(
                    case, cached.modalities, settings
                ):
                    cached.will_need()
                    return np.asarray(cached.image)[cached.channels(modalities)], cached.seg
            except InputError:
                pass  # not there, damaged or without a modality: prepared below, which has its own say
        prepared = prepare_case(case if wants_seg else replace(case, seg=None), modalities, settings)
        return prepared.image, prepared.seg

    def _segment(self, image: NDArray[np.float16]) -> NDArray[np.uint8]:
        prediction = predict_ensemble(
            self.networks,
            torch.from_numpy(np.asarray(image, dtype=np.float32)),
            self.config.patch.size,
            self.config.inference,
            self.device,
            self.precision,
        )
        if prediction.seg_probabilities is None:
            raise InputError("the network has no segmentation; choose mc.windows=sliding")
        voxel_mm3 = self.config.data.prepare.spacing_mm**3
        classes: NDArray[np.uint8] = (
            segment(prediction.seg_probabilities, self.config.inference, voxel_mm3).cpu().numpy()
        )
        return classes


def choose_device(setting: str) -> torch.device:
    """The device in this process.

    Args:
        setting: auto, cpu or gpu.

    Raises:
        InputError: Another word, or a GPU is asked for and there is none.
    """
    if setting not in ("auto", "cpu", "gpu"):
        raise InputError(f"device {setting!r}: choose auto, cpu or gpu")
    available = torch.cuda.is_available()
    if setting == "gpu" and not available:
        raise InputError("device gpu: no CUDA device was found; choose cpu or auto")
    return torch.device("cuda" if available and setting != "cpu" else "cpu")


def score_cases(plan: ScoringPlan, device: torch.device, on_row: OnRow | None = None) -> ScoreTable:
    """Scores every case of a plan in this process, one after the other, without Ray.

    Args:
        plan: See `plan_scoring`.
        device: Where the passes run.
        on_row: Told how many cases are done, and the newest row.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    scorer = CaseScorer(plan, device)
    rows: list[ScoreRow] = []
    for case in plan.cases:
        rows.append(scorer.score(case))
        if on_row is not None:
            on_row(len(rows), rows[-1])
    return make_table(plan, rows, device.type, torch.get_num_threads())


def make_table(plan: ScoringPlan, rows: list[ScoreRow], device_type: str, threads: int) -> ScoreTable:
    """The table of a plan's rows, sorted; device and threads decide last bits and are noted."""
    precision = choose_precision(plan.config.train.precision, torch.device(device_type))
    about = {**plan.about, "device": device_type, "precision": precision, "threads": threads}
    return ScoreTable(tuple(sorted(rows, key=lambda row: row.case_id)), about)
