"""The training loop (section V-B.1): for each epoch train, evaluate, keep, report."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from statistics import fmean
from typing import NoReturn

import torch
from torch import Tensor, nn

from mttu.config import Config
from mttu.config.batches import share_batch
from mttu.config.network import Task as LearningTask
from mttu.data.absent_classes import find_held_classes, lacks_classes, note_absences
from mttu.data.augment import augment_batch
from mttu.data.cache import CachedCase
from mttu.data.labels import IDH_UNKNOWN, knows_parts
from mttu.data.loaders import Batch, build_loader, labels_of_steps
from mttu.data.manifest import Case
from mttu.errors import RunError
from mttu.inference.device import choose_precision
from mttu.losses import combine, idh_class_weights, idh_loss, idh_sums, mix_losses, segmentation_sums, whole_tumour_sums
from mttu.networks import MttuNet
from mttu.patients import KnownPatients, derive_key, name_patients
from mttu.training.evaluation import evaluate
from mttu.training.held_out import HeldOut, name_held_out, select_held_out
from mttu.training.inputs import Task, open_task
from mttu.training.runtime import Runtime, agreeing, check_same, gather_over_ranks, sum_over_ranks
from mttu.training.start import find_learned_parts, find_learned_tasks, load_start, read_start_patients
from mttu.training.state import TrainingState, create_state, derive_seed, read_state, write_state

Seen = tuple[tuple[str, ...], Tensor]
"""Case ids of a batch, and (2, B) bool: whether each sample's image, and the network's output for it, is finite."""


def fit(task: Task | Callable[[], Task], runtime: Runtime) -> TrainingState:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    No rank waits for one that stopped: what may fail on one machine alone comes first, see `mttu.training.runtime`.

    The task may be a function that reads it.

    Returns:
        The final state, the same on every rank; only rank 0 knows the patients that it learned from.

    Raises:
        AgreedError: Some of several ranks cannot read what they need, or read something else; the same on every rank.
        InputError: A single rank cannot read what it needs.
        RunError: A loss is not finite (names the cases), or GPU memory is exhausted (names the settings to lower).
    """
    with agreeing(runtime):
        task = task() if callable(task) else task
        opened = open_task(task)
        config, train = task.config, task.config.train
        state = create_state(config, runtime.device)
    check_same(runtime, opened.seen)
    network = runtime.prepare(state.network)  # first: what is loaded takes the memory layout of the parameters
    with agreeing(runtime), runtime.resume() as folder:
        if folder is None:
            load_start(state, config, runtime.device)
        else:
            read_state(state, folder, runtime.device)
        state.network.learned_tasks = find_learned_tasks(config, task.train)
        state.network.learned_parts = find_learned_parts(config, task.train)
        if runtime.rank == 0:  # the only rank that writes them; the digests are slow on purpose
            cached = [*opened.dataset.cached, *(one for _, one in opened.validation)]
            state.learned_from = name_learned_patients(task, cached)
        if state.best is not None and state.best.held_out is not None:
            state.best.held_out = name_held_out(state.best.held_out, task.val)
    check_same(runtime, {"checkpoint": f"epoch {state.epoch}"})
    dataset, validation = opened.dataset, opened.validation
    held_classes: tuple[str, ...] | None = None  # of the training masks; read once a class is in no prediction
    weights = torch.tensor(idh_class_weights(counted_labels(task.train, config)), device=runtime.device)
    held = share_batch(train, runtime.world_size).held
    while state.epoch < train.epochs:
        started = time.monotonic()
        torch.manual_seed(derive_seed(train.seed, state.epoch + 1, runtime.rank))
        set_learning_rate(state, config)
        loader = build_loader(dataset, state.epoch, runtime.rank, runtime.world_size, runtime.device)
        labels = labels_of_steps(dataset, state.epoch)
        with naming_memory_settings(config, held):
            metrics = train_epoch(state, network, loader, labels, weights, config, runtime)
            last = state.epoch + 1 == train.epochs
            due = last or (state.epoch + 1) % train.validate_every == 0
            score: float | None = None
            held_out: tuple[HeldOut, ...] | None = () if "idh" in config.network.tasks else None
            if due and validation:
                found, score, rows = evaluate(
                    state.network, validation, config, runtime, choose_precision(config.train.precision, runtime.device)
                )
                if held_classes is None and lacks_classes(found):
                    held_classes = find_held_classes(one.seg for one in dataset.cached if knows_parts(one.labels))
                metrics |= found | note_absences(found, held_classes or (), state.history, state.epoch + 1)
                held_out = None if held_out is None else select_held_out(rows, task.val)
            if last and score is None and state.best is None:
                score = 0.0  # no validation: the last epoch is kept
        state.finish_epoch(metrics, score, held_out)
        keep = due or state.epoch % train.checkpoint_every == 0
        shown = {**metrics, "time/epoch_seconds": time.monotonic() - started}
        runtime.report(state.epoch, shown, (lambda path: write_state(state, config, path)) if keep else None)
    return state


def name_learned_patients(task: Task, cached: Sequence[CachedCase]) -> KnownPatients | None:
    """The patients of the training cases, and those that the weights to start from were trained on.

    The former have a key of their own, drawn from the content of the cases of known IDH status (of all, if none is
    known), because salt and costs in a foreign checkpoint may be weak. The folds of a cohort and the rounds of a
    self-training draw the same key: they differ only in cases of unknown status and in pseudo-labels.

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
    """IDH status of the cases that the class weights count; pseudo-labels only if the settings say so."""
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
    labels: Iterable[Collection[LearningTask]],
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
) -> dict[str, float]:
    """One pass over the batches of an epoch.

    A step in several micro-batches makes two passes over them: the first for the sums that the losses of the global
    batch are functions of, the second for gradients, which then add up to those of one large batch.

    `network` is the state's network as `Runtime.prepare` returned it, `batches` are this rank's micro-batches, step by
    step (`build_loader`), `labels` the tasks that the global batch of each step has a label for (`labels_of_steps`).

    Returns:
        Mean losses over steps (a task's loss over the steps that had a label for it), sigmas and the learning rate.
    """
    network.train()
    micro_batches = share_batch(config.train, runtime.world_size).micro_batches
    steps: list[dict[str, float]] = []
    for parts, tasks in zip(group(batches, micro_batches), labels, strict=True):
        place = f"epoch {state.epoch + 1}, step {len(steps) + 1}"
        totals = sum_over_parts(state, parts, class_weights, config, runtime, place) if len(parts) > 1 else None
        state.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with nullcontext() if last else without_sharing(network):
                batch = part.to(runtime.device)
                image, seg, outputs = run_network(network, batch, config)
                losses, labelled = task_losses(outputs, batch, seg, class_weights, config, runtime, totals)
                loss = state.weighting(losses, labelled, learn=last)
                if totals is None and not bool(torch.isfinite(loss)):
                    stop_training(loss, [find_finite(image, outputs, batch)], place)
                loss.backward()
        drop_unlabelled_gradients(state.network, tasks)
        clip_gradients(state, config)
        state.optimizer.step()
        state.weighting.clamp()
        taken = {f"train/loss_{name}": value for name, value in losses.items() if labelled[name]}
        steps.append({name: value.item() for name, value in {"train/loss": loss, **taken}.items()})
    metrics = mean_over_steps(steps)
    for name, log_sigma in state.weighting.log_sigma.items():
        metrics[f"train/sigma_{name}"] = math.exp(log_sigma.item())
    return {**metrics, "train/lr": float(state.optimizer.param_groups[0]["lr"])}


def drop_unlabelled_gradients(network: MttuNet, tasks: Collection[LearningTask]) -> None:
    """Removes the gradient, which is zero, of parameters that none of the step's labelled tasks reaches.

    Otherwise moments of earlier steps and weight decay would move them; decay alone would shrink a head without any
    label to nothing.
    """
    reached = {parameter for task in tasks for parameter in network.parameters_of(task)}
    for parameter in network.parameters():
        if parameter not in reached:
            parameter.grad = None


def clip_gradients(state: TrainingState, config: Config) -> None:
    """Scales the gradient down to `optim.clip_norm`, by its norm over all parameters, sigmas included.

    It is summed over ranks by then, so the norm is the same on each; the host does not wait for its value.
    """
    if config.optim.clip_norm is not None:
        parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, config.optim.clip_norm, foreach=True)


def group(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """The micro-batches of each step."""
    batches = iter(batches)
    while parts := list(islice(batches, size)):
        yield parts


def without_sharing(network: nn.Module) -> AbstractContextManager[None]:
    """Gradients add up on this rank, until the last micro-batch averages them over ranks."""
    return network.no_sync() if isinstance(network, nn.parallel.DistributedDataParallel) else nullcontext()


def run_network(network: nn.Module, batch: Batch, config: Config) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Augmented image and mask of a batch that is on the network's device, and the network's output."""
    image, seg = augment_batch(batch.image, batch.seg, batch.augmentations, config.patch.size)
    precision = choose_precision(config.train.precision, image.device)
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return image, seg, network(image)


def sum_over_parts(
    state: TrainingState, parts: Sequence[Batch], class_weights: Tensor, config: Config, runtime: Runtime, place: str
) -> dict[str, Tensor]:
    """The first pass over the micro-batches of a step: `task_sums`, added up over micro-batches and ranks.

    Generators and running statistics are left as they were, so the second pass draws the same dropout masks. Gradients
    are on, because without them a CPU runs other kernels with other masks; no graph outlives its micro-batch.

    Raises:
        RunError: See `stop_training`.
    """
    buffers = [buffer.clone() for buffer in state.network.buffers()]
    totals: dict[str, Tensor] = {}
    seen = []
    with torch.random.fork_rng([runtime.device] if runtime.device.type == "cuda" else []):
        for part in parts:
            batch = part.to(runtime.device)
            image, seg, outputs = run_network(state.network, batch, config)
            for name, own in task_sums(outputs, batch, seg, class_weights, config).items():
                totals[name] = totals[name] + own.detach() if name in totals else own.detach()
            seen.append(find_finite(image, outputs, batch))
            del image, seg, outputs, own
    with torch.no_grad():
        for buffer, before in zip(state.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        totals = {name: sum_over_ranks(own) for name, own in totals.items()}
        loss = state.weighting(*losses_of(totals, config))
    if not bool(torch.isfinite(loss)):
        stop_training(loss, seen, place)
    return totals


def task_sums(
    outputs: Mapping[str, Tensor], batch: Batch, seg: Tensor, class_weights: Tensor, config: Config
) -> dict[str, Tensor]:
    """The sums that the losses are functions of, of this batch; they add up over micro-batches and ranks."""
    sums: dict[str, Tensor] = {}
    if "seg_logits" in outputs:
        logits = outputs["seg_logits"]
        sums["parts"] = segmentation_sums(logits, seg, batch.has_seg & ~batch.only_wt, config.loss)
        sums["whole tumour"] = whole_tumour_sums(logits, seg, batch.only_wt, config.loss)
    if "idh_logits" in outputs:
        sums["idh"] = idh_sums(outputs["idh_logits"], batch.idh, class_weights, config.loss)
    return sums


def losses_of(sums: Mapping[str, Tensor], config: Config) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """Losses of the global batch from its sums, and whether a task has any label in it."""
    losses: dict[str, Tensor] = {}
    labelled: dict[str, bool] = {}
    if "parts" in sums:
        parts, whole = sums["parts"], sums["whole tumour"]
        losses["segmentation"] = mix_losses(parts, whole, config.loss)
        labelled["segmentation"] = bool(parts[-1] + whole[-1] > 0)
    if "idh" in sums:
        losses["idh"], labelled["idh"] = idh_loss(sums["idh"]), bool(sums["idh"][-1] > 0)
    return losses, labelled


def task_losses(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    seg: Tensor,
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
    totals: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """Losses of the global batch, with this batch's share of their gradient, and whether a task has any label in it.

    The batch is this rank's, or one of its micro-batches; then `totals` are the sums over the global batch.
    """
    scale = float(runtime.world_size)  # undoes the average of gradients over ranks
    sums = {}
    for name, own in task_sums(outputs, batch, seg, class_weights, config).items():
        total = sum_over_ranks(own.detach()) if totals is None else totals[name]
        sums[name] = combine(own, total, scale)
    return losses_of(sums, config)


def find_finite(image: Tensor, outputs: Mapping[str, Tensor], batch: Batch) -> Seen:
    """Which samples of a batch have finite values; the host does not wait for it."""
    finite = [tensor.isfinite().flatten(1).all(dim=1) for tensor in (image, *outputs.values())]
    return batch.case_ids, torch.stack([finite[0], torch.stack(finite[1:]).all(dim=0)])


def stop_training(loss: Tensor, seen: Sequence[Seen], place: str) -> NoReturn:
    """Stops before the optimiser steps; all ranks call it together, because the loss is that of the global batch.

    Raises:
        RunError: Names the place and the cases: those whose image is not finite; else those whose network output is
            not (batch norm spreads one over the batch); else all of the step.
    """
    case_ids = [case_id for batch_ids, _ in seen for case_id in batch_ids]
    images, outputs = torch.cat([finite for _, finite in seen], dim=1).tolist()
    for finite in (images, outputs, [False] * len(case_ids)):
        bad = [case_id for case_id, good in zip(case_ids, finite, strict=True) if not good]
        named = sorted(set(gather_over_ranks(bad)))
        if named:
            break
    raise RunError(
        f"{place}: the loss is {loss.item()}; stopped before the optimiser step. Cases: {', '.join(named)}. "
        "Lower optim.lr, set train.precision=float32, or look at these cases"
    )


@contextmanager
def naming_memory_settings(config: Config, held: int) -> Iterator[None]:
    """Turns exhausted GPU memory into a message that says which settings to lower; `held` patches are held at once."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            f"GPU memory exhausted by {held} patches at once; lower train.batch_per_worker (now "
            f"{config.train.batch_per_worker}), then patch.size (now {list(config.patch.size)}), or set "
            f"train.precision=bfloat16 (now {config.train.precision})",
            all_ranks=False,
        ) from None


def mean_over_steps(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each value over the steps that have it."""
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: fmean(step[name] for step in steps if name in step) for name in names}
