"""What a training works on: checked before anything starts, and opened by each rank before the first step."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

from mttu.config import Config
from mttu.config.batches import share_batch
from mttu.data.absent_classes import find_held_classes
from mttu.data.cache import MEND, CachedCase, open_cached
from mttu.data.cache_upkeep import check_voxels
from mttu.data.labels import knows_parts
from mttu.data.loaders import PatchDataset
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.data.quotas import describe_quotas
from mttu.data.source_records import find_changes
from mttu.errors import InputError, collecting, name_some, raise_if_any, say_count
from mttu.inference.windows import explain_windows
from mttu.networks.build import find_network_problems
from mttu.networks.learned import explain_unlearned
from mttu.patients import KnownPatients
from mttu.training.start import (
    check_start,
    digest_weights,
    find_labelled_tasks,
    find_learned_parts,
    find_learned_tasks,
    read_start_patients,
)


def resolve_paths(config: Config) -> tuple[Path, Path]:
    """Absolute paths of manifest and cache; the cache is `cache` beside the manifest if it is not set.

    Raises:
        InputError: No manifest is set.
    """
    if config.data.manifest is None:
        raise InputError("data.manifest: not set; give the file that `mttu cohort` wrote: data.manifest=cohort.parquet")
    path = config.data.manifest.resolve()
    return path, (config.data.cache_dir or path.parent / "cache").resolve()


@dataclass(frozen=True)
class Inputs:
    """What a training reads, checked."""

    manifest: Manifest
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the manifest and the content hashes of all prepared cases that are learned from or choose."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Tasks of the network that it will not have learned, with the reason."""
    notes: tuple[str, ...] = ()
    """Sentences for the user before training starts."""
    earlier_fingerprint: str = ""
    """What earlier versions recorded in place of `fingerprint`, if that was another: with the test cases."""


def check_inputs(
    config: Config,
    splits: Sequence[str] = ("train", "val"),
    manifest: Manifest | None = None,
    test_comes_last: bool = False,
) -> Inputs:
    """Reads the manifest; checks modalities, labels, prepared cases, their sources, batches and weights to start from.

    Args:
        config: All settings.
        splits: Their cases have to be prepared.
        manifest: In place of what `data.manifest` holds, e.g. a fold of it.
        test_comes_last: The test cases of `splits` are evaluated after all training: what cannot be read of them is a
            note, see `check_test_cases`, and they are not in the fingerprint.

    Raises:
        InputError: Lists every problem.
    """
    path, cache_dir = resolve_paths(config)
    manifest = read_manifest(path) if manifest is None else manifest
    train, val = manifest.split("train"), manifest.split("val")
    start_problems = check_start(config)
    learned = find_labelled_tasks(config, train) if start_problems else find_learned_tasks(config, train)
    missing_modalities = _check_modalities(config, manifest)
    problems = [
        *missing_modalities,
        *_check_labels(config, learned, train, path),
        *_check_validation(config, learned, val, path),
        *_check_batches(config),
        *find_network_problems(config),
        *(start_problems or [*_check_known_patients(config, manifest), *_check_teacher(config, train, path)]),
    ]
    digest = hashlib.sha256(manifest.fingerprint.encode())
    of_test = digest.copy()
    modalities = () if missing_modalities else config.data.modalities  # reported once instead of for every case
    unrecorded, read_again = [], []
    unusable: list[str] = []
    for case in (case for name in splits for case in manifest.split(name)):
        is_last = test_comes_last and case.split == "test"
        found = _check_prepared(case, cache_dir, config, modalities)
        problems += found.stale
        (unusable if is_last else problems).extend(found.unusable)
        unrecorded += [case.case_id] if found.is_unrecorded else []
        read_again += [case.case_id] if found.is_read_again else []
        for one in (of_test,) if is_last else (digest, of_test):
            one.update(f"{case.case_id}:{found.content_hash}\n".encode())
    quotas: list[str] = []
    with collecting(problems):
        quotas = describe_quotas(train, config) if train else []
    raise_if_any(problems)
    missing = explain_unlearned(config.network.tasks, learned)
    notes = (
        *_describe_unlabelled(config, train, missing),
        *quotas,
        *describe_soft_labels(config, train),
        *describe_taught(config, train),
        *_describe_sources(unrecorded, read_again),
        *(f"the evaluation of test cases at the end would stop: {problem}" for problem in unusable),
    )
    earlier = of_test.hexdigest() if test_comes_last else ""
    return Inputs(manifest, cache_dir, digest.hexdigest(), missing, notes, earlier)


def check_test_cases(config: Config, manifest: Manifest) -> tuple[str, list[str]]:
    """SHA-256 over the content hashes of the prepared test cases, and why they cannot be evaluated; all are read."""
    _, cache_dir = resolve_paths(config)
    cases = manifest.split("test")
    found = [_check_prepared(case, cache_dir, config, config.data.modalities) for case in cases]
    digest = hashlib.sha256("\n".join(one.content_hash for one in found).encode()).hexdigest()
    problems = [problem for one in found for problem in (*one.stale, *one.unusable)]
    for case in cases if not problems else ():
        damages = check_voxels(cache_dir / case.case_id, open_cached(cache_dir, case.case_id))
        problems += [f"case {case.case_id}: {damage.problem}; {damage.mend}" for damage in damages]
    return digest, problems


_UNLABELLED = {
    "idh": (
        "no training case has a known IDH status",
        "the IDH head will not learn, so there will be no IDH probability in predictions, no IDH metric in validation, "
        "test and MLflow, and no scores for pseudo-labels; give labels in the clinical table's column idh, or set "
        "network.tasks=[segmentation]",
    ),
    "segmentation": (
        "no training case has a tumour mask",
        "the decoder will not learn, so there will be no segmentation in predictions and no Dice; give masks, or set "
        "network.tasks=[idh]",
    ),
}


def _describe_unlabelled(config: Config, train: Sequence[Case], missing: Mapping[str, str]) -> list[str]:
    """What the training cases have no labels for, and whether earlier weights have learned it."""
    labelled = find_labelled_tasks(config, train)
    notes = [
        f"{fact}: {effect if task in missing else _describe_learned(config, task)}"
        for task, (fact, effect) in _UNLABELLED.items()
        if task in config.network.tasks and task not in labelled
    ]
    if "segmentation" in labelled and not find_learned_parts(config, train):
        notes.append(
            "no training mask tells the parts of a tumour: there will be no tumour core and no enhancing tumour in "
            "predictions and metrics"
        )
    return notes


def describe_soft_labels(config: Config, train: Sequence[Case]) -> list[str]:
    """How many training cases have a soft label, and how much these count; nothing if there are none."""
    weights = [case.idh_weight for case in train if case.idh_weight is not None]
    if not weights or "idh" not in config.network.tasks:
        return []
    subject = say_count(len(weights), "training case has", "training cases have")
    return [
        f"{subject} a soft pseudo-label: the IDH head learns a probability of mutation instead of a class, with a "
        f"weight from {min(weights):.3f} to {max(weights):.3f} (mean {fmean(weights):.3f}) where a true label has 1"
    ]


def describe_taught(config: Config, train: Sequence[Case]) -> list[str]:
    """How many training cases a teacher's masks supervise; nothing without a teacher, or if each case has a mask."""
    bare = sum(case.seg is None for case in train)
    if not (bare and config.teacher.masks):
        return []
    subject = say_count(bare, "training case has", "training cases have")
    return [
        f"{subject} no mask: from these the network learns the teacher's mask where the teacher is sure "
        "(teacher.masks); it is no truth, and is kept nowhere"
    ]


def _describe_learned(config: Config, task: str) -> str:
    if task == "segmentation" and config.teacher.masks:
        return "the decoder learns from the masks of a teacher alone, which begins with the weights of train.start_from"
    return "what train.start_from learned of it is not trained further"


def _check_batches(config: Config) -> list[str]:
    try:
        share_batch(config.train, config.workers.num_workers)
    except InputError as error:
        return error.problems
    return []


def _check_known_patients(config: Config, manifest: Manifest) -> list[str]:
    """Refuses weights to start from that were trained on validation or test patients, or that hold too many keys."""
    known_patients = read_start_patients(config) or KnownPatients()
    if not known_patients.has_room:
        return [
            f"train.start_from {config.train.start_from}: its checkpoint.json names patients by as many or as costly "
            "keys as are read, and one more would be needed; start from other weights, or take its entry patients out: "
            "whom the network knows is then unknown, and said so"
        ]
    looked_at = {name: manifest.split(name) for name in ("val", "test")}
    known = known_patients.find(case.patient_id for cases in looked_at.values() for case in cases)
    return [
        f"train.start_from {config.train.start_from}: learned from patients of the same ids as {name_some(named)} of "
        f"split {split}; start from other weights, or put these cases into train; if they are other people, give them "
        "other ids"
        for split, cases in looked_at.items()
        if (named := [case.case_id for case in cases if case.patient_id in known])
    ]


def _check_teacher(config: Config, train: Sequence[Case], path: Path) -> list[str]:
    """A network that learned the whole tumour alone divides it among the parts by chance, so it is sure of none."""
    if not config.teacher.masks or find_learned_parts(config, train):
        return []
    return [
        f"{path}: no training mask tells the parts of a tumour, without which a teacher would be sure of background "
        "alone; give such masks, or set teacher.masks=false"
    ]


@dataclass(frozen=True)
class _Prepared:
    """What is found of one prepared case."""

    content_hash: str = ""
    unusable: Sequence[str] = ()
    """Why it cannot be used: it cannot be read, lacks a modality, or its source files are others now."""
    stale: Sequence[str] = ()
    """How it differs from what manifest and settings say."""
    is_unrecorded: bool = False
    """Whether it has no record of its source files."""
    is_read_again: bool = False
    """Whether its source files had to be read, because their times are others."""


def _check_prepared(case: Case, cache_dir: Path, config: Config, modalities: Sequence[str]) -> _Prepared:
    """Checks a prepared case without reading its voxels, for these modalities."""
    try:
        cached = open_cached(cache_dir, case.case_id)
        cached.channels(modalities)
    except InputError as error:
        return _Prepared(unusable=error.problems)
    stale = _check_cached(case, cached, config)
    if cached.sources is None or stale:
        return _Prepared(cached.content_hash, stale=stale, is_unrecorded=cached.sources is None)
    changes, have_other_times = find_changes(case, cached.modalities, cached.sources)
    return _Prepared(cached.content_hash, _describe_changes(case, changes), is_read_again=have_other_times)


def _check_cached(case: Case, cached: CachedCase, config: Config) -> list[str]:
    """How a prepared case differs from what manifest and settings say."""
    problems = [
        f"case {case.case_id}: prepared with data.prepare.{name}={found}, now it is {wanted}; "
        "run `mttu prepare` with these settings, or set it back"
        for name, wanted in config.data.prepare
        if (found := getattr(cached.settings, name)) != wanted
    ]
    if (cached.seg is None) != (case.seg is None):
        state = "without" if cached.seg is None else "with"
        problems.append(f"case {case.case_id}: was prepared {state} a mask, the manifest says otherwise; {MEND}")
    elif case.seg is not None and cached.labels != case.labels:
        problems.append(
            f"case {case.case_id}: its mask was prepared with labels {cached.labels}, the manifest says {case.labels}; "
            f"{MEND}"
        )
    if case.split in ("val", "test"):  # otherwise found only when it is evaluated, a test case after all rounds
        shape, overlap = cached.image.shape[1:], config.inference.overlap
        times = 8 if config.inference.flips else 1
        too_many = explain_windows(shape, config.patch.size, overlap, times, "inference.flips")
        problems += [f"case {case.case_id}: {problem}" for problem in too_many]
    return problems


def _describe_changes(case: Case, changes: Sequence[str]) -> list[str]:
    return [
        f"case {case.case_id}: {change}; {MEND} (to go on with a run that has begun, restore the files as they were)"
        for change in changes
    ]


def _describe_sources(unrecorded: Sequence[str], read_again: Sequence[str]) -> list[str]:
    remarks = (
        (
            unrecorded,
            "prepared by a version that did not record the source files, so a later edit of them cannot be noticed; "
            "`mttu prepare` adds the record",
        ),
        (
            read_again,
            "the source files have another time than when they were prepared and the same content; they are read at "
            "each start to know that, until `mttu prepare` records their time",
        ),
    )
    return [
        f"{say_count(len(case_ids), 'case', 'cases')} ({name_some(sorted(case_ids))}): {remark}"
        for case_ids, remark in remarks
        if case_ids
    ]


def _check_modalities(config: Config, manifest: Manifest) -> list[str]:
    missing = [name for name in config.data.modalities if name not in manifest.modalities]
    if not missing:
        return []
    have = ",".join(manifest.modalities)
    return [
        f"data.modalities: the manifest has no {', '.join(missing)}; "
        f"set data.modalities=[{have}] network.in_channels={len(manifest.modalities)}"
    ]


def _check_labels(config: Config, learned: Collection[str], train: Sequence[Case], path: Path) -> list[str]:
    """A class weight is the other class's share (eq. 14), so one class alone would have no loss at all."""
    if not train:
        return [f"{path}: no case has split train; give some in the clinical table's column split"]
    problems, tasks = [], config.network.tasks
    if "segmentation" in tasks and "segmentation" not in learned:
        problems.append(f"{path}: no training case has a mask; set network.tasks=[idh] to train without segmentation")
    known = {case.idh for case in train if case.idh >= 0}
    if "idh" in tasks and (len(known) == 1 or (not known and "segmentation" not in tasks)):
        found = {0: "wild type only", 1: "mutant only"}.get(next(iter(known), -1), "unknown in every case")
        problems.append(
            f"{path}: IDH of the training cases is {found}; both classes are needed, "
            "or set network.tasks=[segmentation]"
        )
    return problems


def _check_validation(config: Config, learned: Collection[str], val: Sequence[Case], path: Path) -> list[str]:
    """Whether the validation cases define the metric that chooses the checkpoint; without any case none is needed."""
    metric, tasks = config.train.validation_metric, config.network.tasks
    learns = "idh" in learned
    if metric in ("idh_auc", "negative_idh_ce") and not learns:
        return [
            f"{path}: train.validation_metric={metric} needs an IDH head that learns, and no training case has a known "
            "IDH status; set train.validation_metric=dice, or give labels"
        ]
    masks = "segmentation" in tasks and any(case.seg for case in val)
    classes = {case.idh for case in val if case.idh >= 0} if "idh" in tasks and learns else set()
    enough = {
        "dice_minus_ce": masks or bool(classes),
        "dice_plus_auc": masks or len(classes) == 2,
        "dice": masks,
        "negative_idh_ce": bool(classes),
        "idh_auc": len(classes) == 2,
    }
    if not val or enough[metric]:
        return []
    doubt = "" if learns or "idh" not in tasks else " (IDH is not learned: no training case has a known status)"
    needs = {
        "dice": "a mask",
        "dice_plus_auc": "a mask or both IDH classes",
        "idh_auc": "both IDH classes",
        "negative_idh_ce": "a known IDH status",
    }
    return [
        f"{path}: train.validation_metric={metric} needs {needs.get(metric, 'a mask or a known IDH status')} among "
        f"the {len(val)} validation cases{doubt}; choose another metric or another split"
    ]


@dataclass(frozen=True)
class TrainingTask:
    """What is trained on what: settings, cases, and the folder of their prepared volumes."""

    config: Config
    train: tuple[Case, ...]
    val: tuple[Case, ...]
    cache_dir: Path


@dataclass(frozen=True)
class Opened:
    """What a rank reads of a task before the first step; nothing in it needs another rank."""

    dataset: PatchDataset
    validation: list[tuple[Case, CachedCase]]
    seen: Mapping[str, str]
    """What has to be the same for every rank, by name."""

    @cached_property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the labels that the training masks hold; found at first use, because masks have to be read."""
        return find_held_classes(one.seg for one in self.dataset.cached if knows_parts(one.labels))


def open_task(task: TrainingTask) -> Opened:
    """Opens every prepared case once, without reading its voxels; each holds two open files.

    Raises:
        InputError: Lists every case that is not there, and what else cannot be read.
        RunError: No more files can be opened.
    """
    problems: list[str] = []
    seen: dict[str, str] = {}
    opened: dict[str, CachedCase] = {}
    start, has_cache = task.config.train.start_from, task.cache_dir.is_dir()
    if not has_cache:  # reported once instead of for every case
        problems.append(f"the folder of prepared cases {task.cache_dir} is not there")
    for case in (*task.train, *task.val) if has_cache else ():
        try:
            cached = opened[case.case_id] = open_cached(task.cache_dir, case.case_id)
        except InputError as error:
            problems += error.problems
        else:
            seen[f"case {case.case_id}"] = (
                f"{cached.content_hash} {case.idh} {case.idh_terms} {case.labels} {case.pseudo_label} {case.split}"
            )
    if start is not None:
        try:
            seen[f"train.start_from {start}"] = digest_weights(start)
        except (InputError, OSError) as error:
            problems.append(f"train.start_from {start}: {error}")
    raise_if_any(problems)
    dataset = PatchDataset(task.train, task.cache_dir, task.config, [opened[case.case_id] for case in task.train])
    return Opened(dataset, [(case, opened[case.case_id]) for case in task.val], seen)
