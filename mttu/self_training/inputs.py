"""What a self-training needs, checked before anything starts: a problem that is found in round 2 has cost days."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from mttu.cohort.truth import read_truth
from mttu.config import Config
from mttu.data.labels import CLASS_NAMES, IDH_UNKNOWN
from mttu.data.manifest import SPLITS, Case, Manifest
from mttu.errors import InputError, collecting, name_some, raise_if_any
from mttu.networks import build_network
from mttu.pseudo_labels.prior import find_too_few
from mttu.pseudo_labels.scoring import find_scoring_problems
from mttu.self_training.fold_teacher import find_teacher_problems, list_held_out, teaches_by_folds
from mttu.self_training.job import Checked, calibrates, round_config, searches_thresholds
from mttu.self_training.mixture import find_pool_leaks, first_mixture
from mttu.self_training.round_folder import HISTORY, find_training_checkpoint, is_finished, read_record
from mttu.training.inputs import Inputs, check_inputs
from mttu.training.run import differences, identify
from mttu.training.start import find_learned_tasks


def check_self_training(config: Config, manifest: Manifest | None = None) -> Checked:
    """Reads manifest, prepared cases of all splits, and truth, and checks that the rounds can be run.

    A test case that cannot be read is a note: it changes no round, and is refused when its turn comes.

    Args:
        config: All settings.
        manifest: In place of what `data.manifest` holds, such as a fold of it. Without it, a cross-validation is
            checked only for what does not depend on its folds.

    Raises:
        InputError: Lists every problem.
    """
    problems: list[str] = []
    inputs, truth = None, {}
    with collecting(problems):
        inputs = check_inputs(config, SPLITS, manifest, test_comes_last=True)
        if manifest is not None or not config.data.folds:
            problems += _check_cohort(config, inputs.manifest)
    if manifest is None:  # a fold has the same settings as the whole, which was checked before
        problems += _check_network(config)
    if config.self_training.truth is not None:
        try:
            truth = read_truth(config.self_training.truth)
        except InputError as error:
            problems += [f"self_training.truth: {problem}" for problem in error.problems]
    if inputs is not None and truth and not any(case.case_id in truth for case in inputs.manifest.split("unlabelled")):
        problems.append(
            f"self_training.truth {config.self_training.truth}: knows no case of the pool (split unlabelled); give the "
            "table that does, or leave it out"
        )
    raise_if_any(problems)
    if inputs is None:
        raise InputError("the manifest could not be read")
    if manifest is None and not is_finished(config.output.place, 1):
        raise_if_any(check_teacher(config, inputs.manifest))
    if config.teacher.masks and config.selection.method != "direct" and config.self_training.rounds == 0:
        idle = "teacher.masks has no effect: the teacher begins in round 1, and self_training.rounds is 0"
        inputs = replace(inputs, notes=(*inputs.notes, idle))
    return Checked(inputs, truth)


def _check_network(config: Config) -> list[str]:
    tasks, method = config.network.tasks, config.selection.method
    if method == "direct":
        lacks = f"network.tasks: {list(tasks)} has no segmentation, and selection.method=direct learns from masks"
        return [] if "segmentation" in tasks else [lacks]
    if "idh" not in tasks:
        return [f"network.tasks: {list(tasks)} has no idh; pseudo-labels are of the IDH status"]
    if method == "none":
        return []
    with suppress(InputError), torch.device("meta"):  # `check_inputs` names what keeps it from being built
        return find_scoring_problems(build_network(config.network, config.patch.size), config)
    return []


def _check_cohort(config: Config, manifest: Manifest) -> list[str]:
    pool, path = manifest.split("unlabelled"), config.data.manifest
    problems = []
    scores_pool = config.selection.method not in ("none", "direct") and config.self_training.rounds > 0
    labels_pool = scores_pool and "idh" in config.network.tasks
    if labels_pool and "idh" not in find_learned_tasks(config, manifest.split("train")):
        problems.append(
            f"{path}: no training case has a known IDH status, so no network would know how to label the pool; give "
            "labelled cases (column idh of the clinical table), start from weights that learned IDH "
            "(train.start_from), or set selection.method=none"
        )
    learns_from_pool = any(case.seg for case in pool) or (bool(pool) and config.teacher.masks)
    if config.selection.method == "direct" and not learns_from_pool:
        problems.append(
            f"{path}: no case of split unlabelled has a mask ({len(pool)} cases), which selection.method=direct learns "
            "from; add some, set teacher.masks=true, or run `mttu train`, which uses the labelled cases alone"
        )
    if not pool and scores_pool:
        problems.append(
            f"{path}: no case has split unlabelled, so there is nothing to label; add cases without IDH status, or set "
            "selection.method=none"
        )
    pseudo = [case.case_id for case in manifest.cases if case.pseudo_label]
    if pseudo:
        problems.append(
            f"{path}: holds pseudo-labels ({name_some(pseudo)}), as the manifest of a round does; give the cohort's own"
        )
    by_score = config.self_training.teacher == "best" and config.self_training.rounds > 0
    if by_score and config.selection.method != "direct" and not manifest.split("val"):
        problems.append(
            f"{path}: no case has split val, by which self_training.teacher=best chooses; give some, or set "
            "self_training.teacher=last"
        )
    leaks = [case.case_id for case in find_pool_leaks(manifest)]
    if leaks:
        problems.append(
            f"{path}: unlabelled cases {name_some(leaks)} are of patients who validate or test; training on them "
            "would give the answer away; take them out, or put them into the split of their patient"
        )
    known = [case for case in manifest.split("val") if case.idh != IDH_UNKNOWN]
    searches = searches_thresholds(config)
    if scores_pool:
        problems += _check_scorable(config, pool, "unlabelled", path)
        problems += _check_scorable(config, known, "val", path) if searches or calibrates(config) else []
    if scores_pool and calibrates(config) and (config.self_training.rounds > 1 or not teaches_by_folds(config)):
        counts = {name: sum(case.idh == label for case in known) for label, name in CLASS_NAMES.items()}
        problems += [
            f"{path}: selection.calibrate={config.selection.calibrate}: {problem}; give another split, or set "
            f"selection.calibrate=none{_without_prior(config)}"
            for problem in find_too_few(counts)
        ]
    if searches and not known:
        problems.append(
            f"{path}: no validation case has a known IDH status, which self_training.thresholds=search needs; give "
            "another split, or set self_training.thresholds=fixed"
        )
    return problems


def _without_prior(config: Config) -> str:
    """What has to be set with `selection.calibrate=none`, which a prior needs."""
    prior = "" if config.selection.prior == "none" else " selection.prior=none"
    return prior + (" selection.rule=rank" if config.selection.rule == "precision" else "")


def check_teacher(config: Config, manifest: Manifest) -> list[str]:
    """Says why the ensemble of another run cannot score the pool for round 1; nothing if it can, or if none does.

    Only for a round 1 that is not finished: later the ensemble may be gone.
    """
    if config.selection.method in ("none", "direct") or config.self_training.rounds == 0:
        return []
    problems = find_teacher_problems(config, manifest)
    if problems or not teaches_by_folds(config):
        return problems
    held_out, path = list_held_out(config, manifest), config.self_training.ensemble
    problems = _check_scorable(config, held_out, "held-out", path)
    if calibrates(config):
        counts = {name: sum(case.idh == label for case in held_out) for label, name in CLASS_NAMES.items()}
        problems += [f"self_training.ensemble {path}: {problem}" for problem in find_too_few(counts)]
    return problems


def _check_scorable(config: Config, cases: Sequence[Case], split: str, path: Path | None) -> list[str]:
    """Says what scoring would miss after hours of training: masks to centre windows on, and image files."""
    mc, problems = config.mc, []
    if mc.windows == "tumour" and mc.tumour_mask == "given" and cases and all(case.seg is None for case in cases):
        problems.append(
            f"{path}: no {split} case has a mask, which mc.tumour_mask=given needs; set mc.tumour_mask=predicted, or "
            "mc.windows=sliding"
        )
    gone = [case.case_id for case in cases if not all(image.exists() for image in case.images.values())]
    if gone:
        problems.append(
            f"{path}: image files of {name_some(gone)} ({len(gone)} of {len(cases)} {split} cases) are gone; bring "
            "them back: scoring compares the prepared cases with them"
        )
    return problems


def check_shared_start(config: Config, inputs: Inputs) -> list[str]:
    """Says why `self_training.start` is not the round 0 that would be trained here; nothing if it is, or is not set."""
    start = config.self_training.start
    if start is None:
        return []
    try:
        record = read_record(start)
    except InputError as error:
        return [f"self_training.start: {problem}" for problem in error.problems]
    problems = [f"self_training.start {start}: is round {record.round}; give a round_0"] if record.round else []
    wanted = identify(round_config(config, 0, Path()), inputs.fingerprint)
    problems += [
        f"self_training.start {start}: was made from other settings or data ({item})"
        for item in differences(record.identity, wanted, inputs.earlier_fingerprint)
    ]
    trained_on = first_mixture(inputs.manifest, config.selection.method, config.teacher.masks).manifest
    if not problems and record.manifest_fingerprint != trained_on.fingerprint:
        problems.append(
            f"self_training.start {start}: was trained on other cases; the round_0 of selection.method=direct learned "
            "from the pool, too, and that of any other method did not"
        )
    if not (start / HISTORY).exists():
        problems.append(f"self_training.start {start}: has no {HISTORY}; give a finished round_0")
    if config.self_training.optimiser == "kept" and find_training_checkpoint(start) is None:
        problems.append(
            f"self_training.start {start}: its training checkpoints were not kept, which self_training.optimiser=kept "
            "needs; make it with self_training.keep=all"
        )
    return problems
