"""The training loop (section V-B.1): for each epoch train, evaluate, keep, report."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from statistics import fmean
from typing import NoReturn

import torch
from torch import Tensor, nn

from mttu.config import Config
from mttu.config.batches import share_batch
from mttu.config.network import Task
from mttu.data.absent_classes import lacks_classes, note_absences
from mttu.data.augment import augment_batch
from mttu.data.cache import CachedCase
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.loaders import Batch, build_loader, idh_weight_of_steps, labelled_tasks_of_steps
from mttu.data.manifest import Case
from mttu.errors import RunError
from mttu.inference.device import choose_precision
from mttu.inference.windows import import_monai
from mttu.losses import (
    TEACHER,
    combine,
    idh_class_weights,
    idh_loss,
    idh_sums,
    mix_losses,
    segmentation_sums,
    teacher_loss,
    whole_tumour_sums,
)
from mttu.networks import Network
from mttu.patients import KnownPatients, derive_key, name_patients
from mttu.training.evaluation import evaluate
from mttu.training.held_out import HeldOut, name_held_out, select_held_out
from mttu.training.inputs import Opened, TrainingTask, open_task
from mttu.training.runtime import Runtime, agreeing, check_same, gather_over_ranks, sum_over_ranks
from mttu.training.start import (
    find_learned_parts,
    find_learned_tasks,
    load_start,
    read_start_patients,
    start_has_learned_all,
)
from mttu.training.state import TrainingState, create_state, derive_seed, read_state, write_state
from mttu.training.task_gradients import TaskGradients
from mttu.training.teacher import add_to_segmentation, supervise

FiniteSamples = tuple[tuple[str, ...], Tensor]
"""Case ids of a batch, and (2, B) bool: whether each sample's image, and the network's output for it, is finite."""


def fit(task: TrainingTask | Callable[[], TrainingTask], runtime: Runtime) -> TrainingState:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    No rank waits for one that has stopped: whatever can fail on a single machine is done first, and the ranks then
    exchange their errors; see `mttu.training.runtime`.

    `task` may also be a function that reads it, so that all ranks stop together if one of them cannot.

    Returns:
        The final state, the same on every rank, except that only rank 0 records the patients it was trained on.

    Raises:
        AgreedError: With several ranks, one cannot read its input or reads something different; raised on every rank.
        InputError: A single rank cannot read what it needs.
        RunError: A loss is not finite (names the cases), or GPU memory is exhausted (names the settings to lower).
    """
    with agreeing(runtime):
        task = task() if callable(task) else task
        opened = open_task(task)
        if opened.validation:
            import_monai()
        config, train = task.config, task.config.train
        state = create_state(config, runtime.device)
    check_same(runtime, opened.seen)
    network = runtime.prepare(state.network)  # before loading, which keeps the memory layout that this sets
    if state.teacher is not None:
        state.teacher.prepare(runtime.device)
    with agreeing(runtime), runtime.resume() as folder:
        if folder is None:
            load_start(state, config, runtime.device)
        else:
            read_state(state, folder, runtime.device)
        state.network.learned_tasks = find_learned_tasks(config, task.train)
        state.network.learned_parts = find_learned_parts(config, task.train)
        keeps_start = folder is None and train.keep_start and train.start_from is not None
        keeps_start = keeps_start and bool(opened.validation) and start_has_learned_all(config, state.network)
        if runtime.rank == 0:  # the others write nothing, and hashing patient ids is slow on purpose
            cached = [*opened.dataset.cached, *(one for _, one in opened.validation)]
            state.learned_from = name_learned_patients(task, cached)
        if state.best is not None and state.best.held_out is not None:
            state.best.held_out = name_held_out(state.best.held_out, task.val)
    check_same(runtime, {"checkpoint": f"epoch {state.epoch}"})
    class_weights = torch.tensor(idh_class_weights(counted_labels(task.train, config)), device=runtime.device)
    patches_at_once = share_batch(train, runtime.world_size).micro_batch_size
    if keeps_start:
        with naming_memory_settings(config, patches_at_once):
            report_start(state, task, opened, runtime)
    while state.epoch < train.epochs:
        started = time.monotonic()
        torch.manual_seed(derive_seed(train.seed, state.epoch + 1, runtime.rank))
        set_learning_rate(state, config)
        loader = build_loader(opened.dataset, state.epoch, runtime.rank, runtime.world_size, runtime.device)
        labelled_tasks = labelled_tasks_of_steps(opened.dataset, state.epoch)
        with naming_memory_settings(config, patches_at_once):
            metrics = train_epoch(state, network, loader, labelled_tasks, class_weights, config, runtime)
            if "train/loss_idh" in metrics:  # divided by all samples; this one, by weights, compares between rounds
                weight = idh_weight_of_steps(opened.dataset, state.epoch, class_weights.tolist())
                mean = metrics["train/loss_idh"] * train.global_batch / weight if weight else 0.0
                metrics["train/loss_idh_per_label"] = mean
            step_seconds = (time.monotonic() - started) / len(labelled_tasks)
            last = state.epoch + 1 == train.epochs
            due = last or (state.epoch + 1) % train.validate_every == 0
            score: float | None = None
            # (): an IDH head, but no prediction to keep; None: no IDH head
            held_out: tuple[HeldOut, ...] | None = () if "idh" in config.network.tasks else None
            if due and opened.validation:
                val_metrics, score, held_out = validate(state, task, opened, runtime, state.epoch + 1)
                metrics |= val_metrics
            if last and score is None and state.best is None:
                score = 0.0  # nothing to choose by: keep the last epoch
        state.finish_epoch(metrics, score, held_out)
        keep = due or state.epoch % train.checkpoint_every == 0
        shown = {**metrics, "time/step_seconds": step_seconds, "time/epoch_seconds": time.monotonic() - started}
        runtime.report(state.epoch, shown, partial(write_state, state, config) if keep else None)
    return state


def report_start(state: TrainingState, task: TrainingTask, opened: Opened, runtime: Runtime) -> None:
    """Validates the weights that training starts from, as epoch 0: they are the best until an epoch is better."""
    started = time.monotonic()
    metrics, score, held_out = validate(state, task, opened, runtime, 0)
    state.keep(metrics, score, held_out)
    shown = {**metrics, "time/epoch_seconds": time.monotonic() - started}
    runtime.report(0, shown, partial(write_state, state, task.config))


def validate(
    state: TrainingState, task: TrainingTask, opened: Opened, runtime: Runtime, epoch: int
) -> tuple[dict[str, float], float | None, tuple[HeldOut, ...] | None]:
    """Metrics of the validation cases, the score that checkpoints are chosen by, and the IDH predictions to keep."""
    precision = choose_precision(task.config.train.precision, runtime.device)
    metrics, score, rows = evaluate(state.network, opened.validation, task.config, runtime, precision)
    classes = opened.mask_classes if lacks_classes(metrics) else ()
    metrics |= note_absences(metrics, classes, state.history, epoch)
    return metrics, score, select_held_out(rows, task.val) if "idh" in task.config.network.tasks else None


def name_learned_patients(task: TrainingTask, cached: Sequence[CachedCase]) -> KnownPatients | None:
    """The patients of the training cases, and those whom the initial weights were trained on.

    The training cases' patients get a key of their own, derived from the content of the cases of known IDH status (of
    all cases if there are none), because the salt and cost in someone else's checkpoint may be weak. The folds of a
    cohort and the rounds of a self-training derive the same key: they differ only in cases of unknown status and in
    pseudo-labels.

    `cached` are the prepared cases of the task, train, then val.
    """
    before = read_start_patients(task.config)
    if before is None:
        return None
    pairs = zip((*task.train, *task.val), cached, strict=True)
    known = [one.content_hash for case, one in pairs if case.idh != IDH_UNKNOWN and not case.pseudo_label]
    key = derive_key(known or [one.content_hash for one in cached])
    return before | name_patients((case.patient_id for case in task.train), key)


def counted_labels(cases: Sequence[Case], config: Config) -> list[int]:
    """IDH status of the cases that the class weights are computed from; pseudo-labels only if the settings say so."""
    count_all = config.self_training.class_weights == "true+pseudo"
    return [case.idh for case in cases if count_all or not case.pseudo_label]


def set_learning_rate(state: TrainingState, config: Config) -> None:
    """Polynomial decay as a function of the epoch alone (section V-B.1; power as in the authors' release)."""
    rate = config.optim.lr * (1 - state.epoch / config.train.epochs) ** config.optim.poly_power
    for group in state.optimizer.param_groups:
        group["lr"] = rate


def train_epoch(
    state: TrainingState,
    network: nn.Module,
    batches: Iterable[Batch],
    labelled_tasks: Iterable[Collection[Task]],
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
) -> dict[str, float]:
    """One pass over the batches of an epoch.

    A step in several micro-batches goes over them twice: first for the sums from which the losses of the global batch
    are computed, then for the gradients, which add up to those of one large batch.

    `network` is the state's network as `Runtime.prepare` returned it, `batches` are this rank's micro-batches, step by
    step (`build_loader`), `labelled_tasks` the tasks with a label in the global batch of each step
    (`labelled_tasks_of_steps`).

    Returns:
        Mean losses over steps (a task's loss over the steps that had a label for it), sigmas and the learning rate;
        with a teacher its loss before it is weighted, and its share of sure voxels in the brains without a mask.
    """
    network.train()
    surgery = TaskGradients(state.network) if config.loss.task_weighting == "pcgrad" else None
    per_step = share_batch(config.train, runtime.world_size).micro_batches
    steps: list[dict[str, float]] = []
    for micro_batches, tasks in zip(group(batches, per_step), labelled_tasks, strict=True):
        where = f"epoch {state.epoch + 1}, step {len(steps) + 1}"
        totals = None
        if len(micro_batches) > 1:  # a first pass, for the sums over the global batch behind Dice
            totals = sum_over_micro_batches(state, micro_batches, class_weights, config, runtime, where)
        state.optimizer.zero_grad(set_to_none=True)
        for number, micro_batch in enumerate(micro_batches, 1):
            last = number == len(micro_batches)
            shares = last and surgery is None  # then the backward pass averages gradients over ranks
            with nullcontext() if shares else without_sharing(network):
                batch = micro_batch.to(runtime.device)
                image, seg, outputs = run_network(network, batch, config)
                taught = supervise(state.teacher, image, outputs, micro_batch, config, state.epoch)
                losses, labelled = task_losses(outputs, batch, seg, class_weights, config, runtime, totals, taught)
                loss = state.weighting(losses, labelled, learn=last)  # each has the global loss: sigmas learn once
                if totals is None and not bool(torch.isfinite(loss)):
                    stop_training(loss, [find_finite(image, outputs, batch)], where)
                if surgery is None:
                    loss.backward()
                else:
                    surgery.add(*add_to_segmentation(losses, labelled))
        step: dict[str, float] = {}
        if surgery is not None:
            seed = derive_seed(config.train.seed, state.epoch + 1, len(steps) + 1)
            cosine = surgery.write(runtime.world_size, seed)
            step = {} if cosine is None else {"train/task_cosine": cosine}
        # gradients are now those of the global batch, the same on every rank
        drop_unlabelled_gradients(state.network, {*tasks, "segmentation"} if labelled.get(TEACHER) else tasks)
        clip_gradients(state, config)
        state.optimizer.step()
        state.weighting.clamp()
        if state.teacher is not None:
            state.teacher.follow(state.network, config.teacher.decay)
        taken = {f"train/loss_{name}": value for name, value in losses.items() if labelled[name]}
        steps.append({**step, **{name: value.item() for name, value in {"train/loss": loss, **taken}.items()}})
    metrics = mean_over_steps(steps)
    for name, log_sigma in state.weighting.log_sigma.items():
        metrics[f"train/sigma_{name}"] = math.exp(log_sigma.item())
    if state.teacher is not None:
        metrics = state.teacher.describe_epoch(metrics, config, state.epoch)
    return {**metrics, "train/lr": float(state.optimizer.param_groups[0]["lr"])}


def drop_unlabelled_gradients(network: Network, tasks: Collection[Task]) -> None:
    """Sets to None the zero gradients of parameters that no labelled task of this step reaches.

    Otherwise Adam's moments and weight decay would go on moving them, and a head that never sees a label would decay to
    zero.
    """
    reached = {parameter for task in tasks for parameter in network.parameters_of(task)}
    for parameter in network.parameters():
        if parameter not in reached:
            parameter.grad = None


def clip_gradients(state: TrainingState, config: Config) -> None:
    """Scales the gradient down to `optim.clip_norm`, by its norm over all parameters, sigmas included.

    The gradient has already been combined over ranks, so its norm is the same on all of them; the host does not wait
    for it.
    """
    if config.optim.clip_norm is not None:
        parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, config.optim.clip_norm, foreach=True)


def group(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Groups a stream of micro-batches into steps of `size` each."""
    batches = iter(batches)
    while step := list(islice(batches, size)):
        yield step


def without_sharing(network: nn.Module) -> AbstractContextManager[None]:
    """Accumulates gradients on this rank alone; the backward pass of the last micro-batch averages them over ranks."""
    return network.no_sync() if isinstance(network, nn.parallel.DistributedDataParallel) else nullcontext()


def run_network(network: nn.Module, batch: Batch, config: Config) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Augmented image and mask of a batch that is on the network's device, and the network's output."""
    image, seg = augment_batch(batch.image, batch.seg, batch.augmentations, config.patch.size)
    precision = choose_precision(config.train.precision, image.device)
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return image, seg, network(image)


def sum_over_micro_batches(
    state: TrainingState,
    micro_batches: Sequence[Batch],
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
    where: str,
) -> dict[str, Tensor]:
    """The first pass over the micro-batches of a step: `task_sums`, added up over micro-batches and ranks.

    Random generators and running statistics are restored, so the second pass draws the same dropout masks. Gradients
    stay enabled, because without them a CPU uses other kernels, which draw other masks. Each micro-batch's graph is
    freed before the next.

    Raises:
        RunError: See `stop_training`.
    """
    buffers = [buffer.clone() for buffer in state.network.buffers()]
    totals: dict[str, Tensor] = {}
    finite_samples = []
    with torch.random.fork_rng([runtime.device] if runtime.device.type == "cuda" else []):
        for micro_batch in micro_batches:
            batch = micro_batch.to(runtime.device)
            image, seg, outputs = run_network(state.network, batch, config)
            taught = supervise(state.teacher, image, outputs, micro_batch, config, state.epoch)
            for name, value in task_sums(outputs, batch, seg, class_weights, config, taught).items():
                totals[name] = totals[name] + value.detach() if name in totals else value.detach()
            finite_samples.append(find_finite(image, outputs, batch))
            del image, seg, outputs, taught, value
    with torch.no_grad():
        for buffer, before in zip(state.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        totals = {name: sum_over_ranks(value) for name, value in totals.items()}
        loss = state.weighting(*losses_of(totals, config))
    if not bool(torch.isfinite(loss)):
        stop_training(loss, finite_samples, where)
    return totals


def task_sums(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    seg: Tensor,
    class_weights: Tensor,
    config: Config,
    taught: Tensor | None = None,
) -> dict[str, Tensor]:
    """This batch's part of the sums from which the losses are computed; they add up over micro-batches and ranks.

    `taught` is what the teacher says of the batch (`supervise`).
    """
    sums: dict[str, Tensor] = {}
    if "seg_logits" in outputs:
        logits = outputs["seg_logits"]
        sums["parts"] = segmentation_sums(logits, seg, batch.has_seg & ~batch.only_wt, config.loss)
        sums["whole tumour"] = whole_tumour_sums(logits, seg, batch.only_wt, config.loss)
    if "idh_logits" in outputs:
        sums["idh"] = idh_sums(outputs["idh_logits"], batch.idh, class_weights, config.loss, batch.idh_terms)
    if taught is not None:
        sums[TEACHER] = taught
    return sums


def losses_of(sums: Mapping[str, Tensor], config: Config) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """Losses of the global batch from its sums, and for each whether the batch has anything to learn it from.

    For a task that is a label. The teacher's loss, by the name of `TEACHER`, is kept apart from the segmentation loss
    that it adds to, because it is no label: see `mttu.losses.TaskWeighting`.
    """
    losses: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    if "parts" in sums:
        parts, whole = sums["parts"], sums["whole tumour"]
        losses["segmentation"] = mix_losses(parts, whole, config.loss)
        counts["segmentation"] = parts[-1] + whole[-1]
    if "idh" in sums:
        losses["idh"], counts["idh"] = idh_loss(sums["idh"]), sums["idh"][-1]
    if TEACHER in sums:
        losses[TEACHER], counts[TEACHER] = teacher_loss(sums[TEACHER]), sums[TEACHER][1]
    found = (torch.stack(list(counts.values())) > 0).tolist()  # all at once: a GPU is waited for
    return losses, dict(zip(counts, found, strict=True))


def task_losses(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    seg: Tensor,
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
    totals: Mapping[str, Tensor] | None = None,
    taught: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """Losses of the global batch, with this batch's share of their gradient, and whether each task has any label in it.

    The batch is this rank's, or one of its micro-batches; then `totals` are the sums over the global batch. For
    `taught` see `task_sums`.
    """
    scale = float(runtime.world_size)  # undoes the average of gradients over ranks
    sums = {}
    for name, value in task_sums(outputs, batch, seg, class_weights, config, taught).items():
        total = sum_over_ranks(value.detach()) if totals is None else totals[name]
        sums[name] = combine(value, total, scale)  # value of the global batch, gradient of this batch
    return losses_of(sums, config)


def find_finite(image: Tensor, outputs: Mapping[str, Tensor], batch: Batch) -> FiniteSamples:
    """Which samples of a batch have finite values, without waiting for the device."""
    finite = [tensor.isfinite().flatten(1).all(dim=1) for tensor in (image, *outputs.values())]
    return batch.case_ids, torch.stack([finite[0], torch.stack(finite[1:]).all(dim=0)])


def stop_training(loss: Tensor, finite_samples: Sequence[FiniteSamples], where: str) -> NoReturn:
    """Raises before the optimiser step; every rank gets here, because they all have the loss of the global batch.

    Raises:
        RunError: Names the step and the cases: those whose image is not finite, else those whose output is not (batch
            norm spreads it over the batch), else all of the step.
    """
    case_ids = [case_id for batch_ids, _ in finite_samples for case_id in batch_ids]
    images, outputs = torch.cat([finite for _, finite in finite_samples], dim=1).tolist()
    for finite in (images, outputs, [False] * len(case_ids)):
        bad = [case_id for case_id, good in zip(case_ids, finite, strict=True) if not good]
        named = sorted(set(gather_over_ranks(bad)))
        if named:
            break
    raise RunError(
        f"{where}: the loss is {loss.item()}; stopped before the optimiser step. Cases: {', '.join(named)}. "
        "Lower optim.lr, set train.precision=float32, or look at these cases"
    )


@contextmanager
def naming_memory_settings(config: Config, patches_at_once: int) -> Iterator[None]:
    """Turns exhausted GPU memory into a message that says which settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            f"GPU memory exhausted by {patches_at_once} patches at once; lower train.batch_per_worker (now "
            f"{config.train.batch_per_worker}), then patch.size (now {list(config.patch.size)}), or set "
            f"train.precision=bfloat16 (now {config.train.precision})",
            all_ranks=False,
        ) from None


def mean_over_steps(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each value over the steps that have it."""
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: fmean(step[name] for step in steps if name in step) for name in names}
