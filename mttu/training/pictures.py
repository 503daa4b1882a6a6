"""Pictures of a finished training: learning curves, and overlays of validation cases where pictures are allowed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from mttu.config import Config, load_stored_config
from mttu.data.cache import open_cached
from mttu.data.loaders import read_prepared
from mttu.data.manifest import Case
from mttu.figures.curves import draw_curves
from mttu.figures.overlay import draw_overlay
from mttu.inference.device import choose_precision
from mttu.inference.windows import predict_volume, segment
from mttu.metrics.empty_masks import explain_dice
from mttu.metrics.segmentation import measure_volumes_ml
from mttu.networks import Network
from mttu.networks.checkpoint import read_checkpoint, read_learned_tasks
from mttu.networks.learned import explain_missing_answers, explain_unlearned

LEARNING_CURVES = "learning_curves"
OVERLAYS = 3
"""Validation cases that are drawn."""


def draw_results(
    best: Path, history: Sequence[Mapping[str, float]], val: Sequence[Case], cache_dir: Path, with_cases: bool
) -> Iterator[tuple[str, Figure]]:
    """Yields name and figure: the curves by the history of all epochs, and if allowed the first validation cases."""
    settings = load_stored_config(best / "config.yaml")
    reasons = explain_unlearned(settings.network.tasks, read_learned_tasks(best))
    has_dice = any(name.startswith("val/dice") for row in history for name in row)
    remarks = [explain_dice(settings.metrics)] if has_dice else []
    yield LEARNING_CURVES, draw_curves(history, [*remarks, *(f"{reason}." for reason in reasons.values())])
    if with_cases:
        network, config = read_checkpoint(best)
        for case in val[:OVERLAYS]:
            yield f"val_{case.case_id}", _draw_case(network, config, case, cache_dir)


def _draw_case(network: Network, config: Config, case: Case, cache_dir: Path) -> Figure:
    cached = open_cached(cache_dir, case.case_id)
    image = read_prepared(cached, config)
    device = torch.device("cpu")
    precision = choose_precision(config.train.precision, device)
    prediction = predict_volume(network, image, config.patch.size, config.inference, device, precision)
    spacing, idh = config.data.prepare.spacing_mm, prediction.idh_probabilities
    classes = None
    if prediction.seg_probabilities is not None:
        classes = segment(prediction.seg_probabilities, config.inference, spacing**3, network.learned_parts)
    return draw_overlay(
        image[0].numpy(),
        None if classes is None else classes.numpy(),
        case.case_id,
        config.data.modalities[0],
        spacing,
        None if idh is None else float(idh[1]),
        None if classes is None else measure_volumes_ml(classes, spacing**3),
        list(explain_missing_answers([network]).values()),
    )
