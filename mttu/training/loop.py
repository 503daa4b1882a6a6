"""The training loop (section V-B.1): for each epoch train, evaluate, keep, report."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mttu.config import Config
from mttu.data.augment import augment_batch
from mttu.data.cache import open_cached
from mttu.data.cohort import Case
from mttu.data.loaders import Batch, PatchDataset, build_loader
from mttu.errors import RunError
from mttu.inference import choose_precision
from mttu.losses import (
    combine,
    idh_class_weights,
    idh_loss,
    idh_sums,
    mix_losses,
    segmentation_sums,
    whole_tumour_sums,
)
from mttu.training.evaluation import evaluate
from mttu.training.held_out import HeldOut, select_held_out
from mttu.training.runtime import Runtime
from mttu.training.start import load_start, read_start_teachers
from mttu.training.state import TrainingState, create_state, derive_seed, read_state, write_state


@dataclass(frozen=True)
class Task:
    """What is trained on what: settings, cases, and where their prepared volumes lie."""

    config: Config
    train: tuple[Case, ...]
    val: tuple[Case, ...]
    cache_dir: Path


def fit(task: Task, runtime: Runtime) -> TrainingState:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    Args:
        task: What to train.
        runtime: Where to.

    Returns:
        The final state, the same on every rank.

    Raises:
        RunError: A loss is not finite (names the cases), or GPU memory is exhausted (names the settings to lower).
    """
    config, train = task.config, task.config.train
    state = create_state(config, runtime.device)
    with runtime.resume() as folder:
        if folder is None:
            load_start(state, config, runtime.device)
        else:
            read_state(state, folder, runtime.device)
    before = read_start_teachers(config)
    state.learned_from = None if before is None else before | {case.patient_digest for case in task.train}
    network = runtime.prepare(state.network)
    dataset = PatchDataset(task.train, task.cache_dir, config)
    validation = [(case, open_cached(task.cache_dir, case.case_id)) for case in task.val]
    weights = torch.tensor(idh_class_weights(counted_labels(task.train, config)), device=runtime.device)
    while state.epoch < train.epochs:
        started = time.monotonic()
        torch.manual_seed(derive_seed(train.seed, state.epoch + 1, runtime.rank))
        set_learning_rate(state, config)
        loader = build_loader(dataset, state.epoch, runtime.rank, runtime.world_size)
        with naming_memory_settings(config):
            metrics = train_epoch(state, network, loader, weights, config, runtime)
            share_buffers(state.network)
            last = state.epoch + 1 == train.epochs
            due = last or (state.epoch + 1) % train.validate_every == 0
            score: float | None = None
            held_out: tuple[HeldOut, ...] | None = () if "idh" in config.network.tasks else None
            if due and validation:
                found, score, rows = evaluate(
                    state.network, validation, config, runtime, choose_precision(config.train.precision, runtime.device)
                )
                metrics |= found
                held_out = None if held_out is None else select_held_out(rows, task.val)
            if last and score is None and state.best is None:
                score = 0.0  # nothing to choose by: the last epoch is the one to keep
        state.finish_epoch(metrics, score, held_out)
        keep = due or state.epoch % train.checkpoint_every == 0
        shown = {**metrics, "time/epoch_seconds": time.monotonic() - started}
        runtime.report(state.epoch, shown, (lambda path: write_state(state, config, path)) if keep else None)
    return state


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
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
) -> dict[str, float]:
    """One pass over the batches of an epoch.

    Returns:
        Mean losses over steps (a task's loss over the steps that had a label for it), sigmas and the learning rate.
    """
    network.train()
    autocast = torch.autocast(
        runtime.device.type,
        dtype=torch.bfloat16,
        enabled=choose_precision(config.train.precision, runtime.device) == "bfloat16",
    )
    steps: list[dict[str, float]] = []
    for batch in (batch.to(runtime.device) for batch in batches):
        image, seg = augment_batch(batch.image, batch.seg, batch.augmentations)
        with autocast:
            outputs = network(image)
        losses, labelled = task_losses(outputs, batch, seg, class_weights, config, runtime)
        loss = state.weighting(losses, labelled)
        stop_if_not_finite(loss, image, outputs, batch, runtime, f"epoch {state.epoch + 1}, step {len(steps) + 1}")
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        state.weighting.clamp()
        taken = {name: value for name, value in losses.items() if labelled[name]}
        steps.append({name: value.item() for name, value in {"loss": loss, **taken}.items()})
    metrics = mean_over_steps(steps)
    for name, log_sigma in state.weighting.log_sigma.items():
        metrics[f"train/sigma_{name}"] = math.exp(log_sigma.item())
    return {**metrics, "train/lr": float(state.optimizer.param_groups[0]["lr"])}


def task_losses(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    seg: Tensor,
    class_weights: Tensor,
    config: Config,
    runtime: Runtime,
) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """Losses of the global batch, with this rank's share of their gradient, and whether a task has any label in it."""
    losses: dict[str, Tensor] = {}
    labelled: dict[str, bool] = {}
    scale = float(runtime.world_size)  # gradients are averaged over ranks; a sum is what is meant
    if "seg_logits" in outputs:
        logits = outputs["seg_logits"]
        full = segmentation_sums(logits, seg, batch.has_seg & ~batch.only_wt, config.loss)
        whole = whole_tumour_sums(logits, seg, batch.only_wt, config.loss)
        full, whole = (combine(sums, runtime.sum, scale) for sums in (full, whole))
        losses["segmentation"] = mix_losses(full, whole, config.loss)
        labelled["segmentation"] = bool(full[-1] + whole[-1] > 0)
    if "idh_logits" in outputs:
        sums = idh_sums(outputs["idh_logits"], batch.idh, batch.selected, class_weights, config.loss)
        sums = combine(sums, runtime.sum, scale)
        losses["idh"], labelled["idh"] = idh_loss(sums), bool(sums[-1] > 0)
    return losses, labelled


def stop_if_not_finite(
    loss: Tensor, image: Tensor, outputs: Mapping[str, Tensor], batch: Batch, runtime: Runtime, place: str
) -> None:
    """Stops all ranks before the optimiser steps; the loss is the global one, so that they all see the same.

    Raises:
        RunError: Names the place and the cases: those whose image is not finite; else those whose network output is
            not (batch norm spreads one over the batch); else all of the step.
    """
    if bool(torch.isfinite(loss)):
        return
    output = torch.stack([_finite_samples(tensor) for tensor in outputs.values()]).all(dim=0)
    for finite in (_finite_samples(image), output, torch.zeros(len(image), dtype=torch.bool)):
        bad = [case_id for case_id, good in zip(batch.case_ids, finite.tolist(), strict=True) if not good]
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
def naming_memory_settings(config: Config) -> Iterator[None]:
    """Turns exhausted GPU memory into a message that says which settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            f"GPU memory exhausted; lower train.batch_size (now {config.train.batch_size}), then patch.size "
            f"(now {list(config.patch.size)}), or set train.precision=bfloat16 (now {config.train.precision})",
            all_ranks=False,
        ) from None


def share_buffers(network: nn.Module) -> None:
    """Gives every rank the running statistics of rank 0, which are the ones that a checkpoint keeps."""
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def mean_over_steps(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each value over the steps that have it, named `train/...`."""
    names = dict.fromkeys(name for step in steps for name in step)
    metrics = {}
    for name in names:
        values = [step[name] for step in steps if name in step]
        label = "loss" if name == "loss" else f"loss_{name}"
        metrics[f"train/{label}"] = math.fsum(values) / len(values)
    return metrics
