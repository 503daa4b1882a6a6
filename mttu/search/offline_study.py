"""A search of UPS thresholds on stored scores, in this process: points, the Pareto front, the chosen pair.

Ray Tune has no part in it: a point takes less than a millisecond, and starting a trial takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mttu.config import Config, override, to_yaml
from mttu.errors import InputError
from mttu.figures.pareto import PAPER_PAIR
from mttu.figures.style import save_figure
from mttu.files import find_obstacle, write_text
from mttu.pseudo_labels.thresholds import LabelledScore
from mttu.search.offline import (
    Pair,
    Point,
    choose_point,
    describe_limits,
    draw_points,
    estimate_optimism,
    evaluate_points,
    write_points,
)
from mttu.search.results import BEST_SETTINGS
from mttu.search.samplers import list_random
from mttu.search.spaces import Space

POINTS, PICTURE = "points.csv", "pareto"
_TAU_C, _TAU_U = "selection.confidence_threshold", "selection.uncertainty_threshold"
_OURS = (POINTS, f"{PICTURE}.png", BEST_SETTINGS)


@dataclass(frozen=True)
class OfflineResult:
    """What a search on stored scores found."""

    points: list[Point]
    chosen: Point | None
    """None if no pair selects enough cases."""
    notes: list[str]
    """Sentences on what so few cases can say."""
    files: list[Path]


def list_pairs(space: Space, config: Config) -> list[Pair]:
    """The pairs of thresholds that a space draws, and the paper's own; a threshold that is not searched is as set.

    Raises:
        InputError: The searcher learns from trial to trial, which needs one metric; error and coverage are two.
    """
    if space.plan.searcher == "tpe":
        raise InputError(f"{space.path}: searcher: tpe follows one metric, run select has two; choose random or grid")
    drawn = list(space.list_grid()) if space.plan.searcher == "grid" else list_random(space)
    fixed = {_TAU_C: config.selection.confidence_threshold, _TAU_U: config.selection.uncertainty_threshold}
    pairs = [tuple(one.get(name, fixed[name]) for name in (_TAU_C, _TAU_U)) for one in drawn]
    return list(dict.fromkeys([*((float(tau_c), float(tau_u)) for tau_c, tau_u in pairs), PAPER_PAIR]))


def check_offline_target(out: Path) -> None:
    """Refuses a folder that holds anything else.

    Raises:
        InputError: It does, or it cannot be written.
    """
    others = [item.name for item in out.iterdir() if item.name not in _OURS] if out.is_dir() else []
    obstacle = find_obstacle(out)
    if others or obstacle:
        raise InputError(f"{out}: {obstacle or f'holds other files, such as {others[0]}'}; name a new folder")


def search_offline(
    space: Space, config: Config, scores: Sequence[LabelledScore], min_coverage: float, max_error: float, out: Path
) -> OfflineResult:
    """Evaluates all pairs of a space, chooses one, and writes `points.csv`, `pareto.png` and `best.yaml`.

    Args:
        space: Of run select; its metric decides what is chosen: error or coverage.
        config: Settings that `best.yaml` starts from.
        scores: Of labelled cases, each by a network that has not seen it.
        min_coverage: Least share of selected cases, for metric error.
        max_error: Largest error, for metric coverage.
        out: Folder.
    """
    metric: Literal["error", "coverage"] = "coverage" if space.plan.metric == "coverage" else "error"
    pairs = list_pairs(space, config)
    points = evaluate_points(scores, pairs)
    choose = partial(choose_point, metric=metric, min_coverage=min_coverage, max_error=max_error)
    chosen = choose(points)
    notes = describe_limits(scores)
    if len(scores) > 1:
        notes.append(str(estimate_optimism(scores, pairs, choose, space.plan.seed)))
    remarks = [f"{note[0].upper()}{note[1:]}." for note in (notes[0], notes[-1])]
    out.mkdir(parents=True, exist_ok=True)
    write_points(points, out / POINTS)
    figure = draw_points(points, chosen, f"{len(points)} pairs of thresholds on {len(scores)} labelled cases", remarks)
    (picture,) = save_figure(figure, out / PICTURE, ("png",))
    files = [out / POINTS, picture]
    if chosen is not None:
        thresholds = {_TAU_C: chosen.confidence_threshold, _TAU_U: chosen.uncertainty_threshold}
        changes = {
            **thresholds,
            "selection.method": "UPS",
            "output.name": f"{config.output.name}-best",
            "tracking.uri": None,  # which may hold a password
        }
        limit = f"coverage at least {min_coverage:g}" if metric == "error" else f"error at most {max_error:g}"
        head = (
            f"# Thresholds of the best {metric} with {limit} among {len(points)} pairs of {space.path.name}, on "
            f"{len(scores)} labelled cases: error {chosen.error}, coverage {chosen.coverage}.\n"
            f"# Take them with: mttu self-train --config {BEST_SETTINGS}\n"
        )
        write_text(out / BEST_SETTINGS, head + to_yaml(override(config, changes)))
        files.append(out / BEST_SETTINGS)
    return OfflineResult(points, chosen, notes, files)
