"""The training loop (section V-B.1): for each epoch train, evaluate, keep, report."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
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
from mttu.training.runtime import Runtime, agreeing, check_same
from mttu.training.start import find_learned_parts, find_learned_tasks, load_start, read_start_patients
from mttu.training.state import TrainingState, create_state, derive_seed, read_state, write_state


def fit(task: Task | Callable[[], Task], runtime: Runtime) -> TrainingState:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    No rank waits for one that stopped: what may fail on one machine alone comes first, see `mttu.training.runtime`.

    Args:
        task: What to train, or what reads it.
        runtime: Where to.

    Returns:
        The final state, the same on every rank; whom it learned from, rank 0 alone knows.

    Raises:
        AgreedError: Some of several ranks cannot read what they need, or read something else; the same on every rank.
        InputError: The one rank there is cannot.
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
        if runtime.rank == 0:  # which alone writes them, and slow they are on purpose
            cached = [*opened.dataset.cached, *(one for _, one in opened.validation)]
            state.learned_from = name_learned_patients(task, cached)
        if state.best is not None and state.best.held_out is not None:
            state.best.held_out = name_held_out(state.best.held_out, task.val)
    check_same(runtime, {"checkpoint": f"epoch {state.epoch}"})
    dataset, validation = opened.dataset, opened.validation
    held_classes: tuple[str, ...] | None = None  # of the training masks; read when a class is in no prediction
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
                score = 0.0  # nothing to choose by: the last epoch is the one to keep
        state.finish_epoch(metrics, score, held_out)
        keep = due or state.epoch % train.checkpoint_every == 0
        shown = {**metrics, "time/epoch_seconds": time.monotonic() - started}
        runtime.report(state.epoch, shown, (lambda path: write_state(state, config, path)) if keep else None)
    return state


def name_learned_patients(task: Task, cached: Sequence[CachedCase]) -> KnownPatients | None:
    """The patients of the training cases, by a key of their own, and those that the weights to start from know.

    A key of theirs is never taken over: salt and costs of a file that somebody else wrote may be weak. The folds of a
    cohort and the rounds of a self-training draw the same one, because what they train on differs in cases of unknown
    IDH status alone, and in pseudo-labels.

    Args:
        task: What is trained.
        cached: Its cases, train, then val. The content of those of known status is the key; of all, if none is known.
    """
    before = read_start_patients(task.config)
    if before is None:
        return None
    pairs = zip((*task.train, *task.val), cached, strict=True)
    known = [one.content_hash for case, one in pairs if case.idh != IDH_UNKNOWN and not case.pseudo_label]
    key = derive_key(known or [one.content_hash for one in cached])
    return before | name_patients((case.patient_id for case in task.train), key)


def counted_labels(cases: Sequence[Case], config: Config) -> list[int]:
    """IDH status of the cases that the class weights count: without pseudo-labels, unless they are to count too."""
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

    A step whose share is taken in micro-batches makes two passes over them: a first one for the sums that the losses of
    the global batch are functions of, then one for gradients, which so add up to those of one large batch.

    Args:
        state: What is trained.
        network: The state's network as it is called in training.
        batches: This rank's micro-batches, step by step, see `build_loader`.
        labels: Tasks that the global batch of each step has a label for, see `labels_of_steps`.
        class_weights: (2,) weights of the IDH classes.
        config: All settings.
        runtime: Where to train.

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
                    stop_training(loss, [find_finite(image, outputs, batch)], runtime, place)
                loss.backward()
        drop_unlabelled_gradients(state.network, tasks)
        clip_gradients(state, config)
        state.optimizer.step()
        state.weighting.clamp()
        taken = {name: value for name, value in losses.items() if labelled[name]}
        steps.append({name: value.item() for name, value in {"loss": loss, **taken}.items()})
    metrics = mean_over_steps(steps)
    for name, log_sigma in state.weighting.log_sigma.items():
        metrics[f"train/sigma_{name}"] = math.exp(log_sigma.item())
    return {**metrics, "train/lr": float(state.optimizer.param_groups[0]["lr"])}


def drop_unlabelled_gradients(network: MttuNet, tasks: Collection[LearningTask]) -> None:
    """Takes the gradient from parameters that no task with a label reaches, so that the optimiser leaves them alone.

    Theirs is zero, but a step with it is none: moments of earlier steps and weight decay would move them, and decay
    alone shrinks a head without any label to nothing.

    Args:
        network: After the backward pass.
        tasks: Those that the step's global batch has a label for.
    """
    reached = {parameter for task in tasks for parameter in network.parameters_of(task)}
    for parameter in network.parameters():
        if parameter not in reached:
            parameter.grad = None


def clip_gradients(state: TrainingState, config: Config) -> None:
    """Scales the gradient of a step down to `optim.clip_norm`, by the norm over all that the step updates, sigmas too.

    After the ranks' gradients are summed they are the same on each, and so is the norm; nothing waits for its value.
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
    """Gradients stay on this rank, and add up there, until the last micro-batch shares those of all."""
    return network.no_sync() if isinstance(network, nn.parallel.DistributedDataParallel) else nullcontext()


def run_network(network: nn.Module, batch: Batch, config: Config) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Augmented image and mask of a batch that is on the network's device, and the network's output."""
    image, seg = augment_batch(batch.image, batch.seg, batch.augmentations, config.patch.size)
    precision = choose_precision(config.train.precision, image.device)
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return image, seg, network(image)


def sum_over_parts(
    state: TrainingState,
    parts: Sequence[Batch],
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
    place: str,
) -> dict[str, Tensor]:
    """The first pass over the micro-batches of a step: the sums of `task_sums` over them and over all ranks.

    Leaves no trace: the second pass draws the same dropout masks, and running statistics are as they were. It is not
    run without gradients, because a CPU then takes other steps with other masks; but no graph outlives its micro-batch.

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
        totals = {name: runtime.sum(own) for name, own in totals.items()}
        loss = state.weighting(*losses_of(totals, config))
    if not bool(torch.isfinite(loss)):
        stop_training(loss, seen, runtime, place)
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

    Args:
        outputs: Of the network.
        batch: This rank's, or one of its micro-batches.
        seg: Its augmented mask.
        class_weights: (2,) weights of the IDH classes.
        config: All settings.
        runtime: Of this rank.
        totals: Sums over the global batch, see `sum_over_parts`; None: over the ranks' batches.
    """
    scale = float(runtime.world_size)  # gradients are averaged over ranks; a sum is what is meant
    sums = {}
    for name, own in task_sums(outputs, batch, seg, class_weights, config).items():
        total = runtime.sum(own.detach()) if totals is None else totals[name]
        sums[name] = combine(own, total, scale)
    return losses_of(sums, config)


@dataclass(frozen=True)
class Finite:
    """Which samples of a batch have finite values, to name the others."""

    case_ids: tuple[str, ...]
    image: Tensor
    """(B,) bool."""
    output: Tensor
    """(B,) bool, of the network."""


def find_finite(image: Tensor, outputs: Mapping[str, Tensor], batch: Batch) -> Finite:
    """Looks at each sample of a batch."""
    output = torch.stack([_finite_samples(tensor) for tensor in outputs.values()]).all(dim=0)
    return Finite(batch.case_ids, _finite_samples(image), output)


def stop_training(loss: Tensor, seen: Sequence[Finite], runtime: Runtime, place: str) -> NoReturn:
    """Stops all ranks before the optimiser steps; the loss is the global one, so that they all see the same.

    Raises:
        RunError: Names the place and the cases: those whose image is not finite; else those whose network output is
            not (batch norm spreads one over the batch); else all of the step.
    """
    case_ids = [case_id for batch in seen for case_id in batch.case_ids]
    images, outputs = torch.cat([batch.image for batch in seen]), torch.cat([batch.output for batch in seen])
    for finite in (images, outputs, torch.zeros(len(case_ids), dtype=torch.bool)):
        bad = [case_id for case_id, good in zip(case_ids, finite.tolist(), strict=True) if not good]
        named = sorted(set(runtime.gather(bad)))
        if named:
            break
    raise RunError(
        f"{place}: the loss is {loss.item()}; stopped before the optimiser step. Cases: {', '.join(named)}. "
        "Lower optim.lr, set train.precision=float32, or look at these cases"
    )


def _finite_samples(tensor: Tensor) -> Tensor:
    return tensor.isfinite().flatten(1).all(dim=1)


@contextmanager
def naming_memory_settings(config: Config, held: int) -> Iterator[None]:
    """Turns exhausted GPU memory into a message that says which settings to lower; so many patches are held at once."""
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
    """Mean of each value over the steps that have it, named `train/...`."""
    names = dict.fromkeys(name for step in steps for name in step)
    metrics = {}
    for name in names:
        values = [step[name] for step in steps if name in step]
        label = "loss" if name == "loss" else f"loss_{name}"
        metrics[f"train/{label}"] = math.fsum(values) / len(values)
    return metrics
