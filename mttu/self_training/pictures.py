"""Pictures of a round and of all rounds."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from mttu.config import MetricSettings
from mttu.figures.rounds import RoundScore, RoundSelection, draw_rounds
from mttu.metrics.empty_masks import explain_dice
from mttu.scoring.reports import draw_selection
from mttu.self_training.selecting import Selected
from mttu.self_training.summary import RoundSummary

PANELS = {"dice": "Dice", "idh_auc": "IDH AUC", "idh_accuracy": "IDH accuracy", "idh_ece": "IDH ECE"}
"""Metrics that are drawn over rounds, and their panels."""


def draw_round(selected: Selected, truth: Mapping[str, int], number: int) -> Iterator[tuple[str, Figure]]:
    """Yields name and figure of what a round selected; none shows a case's image.

    Args:
        selected: Of the round.
        truth: Case to true class, where known.
        number: Of the round.
    """
    if any(row.confidence is not None for row in selected.scores.rows):
        title = f"unlabelled, round {number}"
        yield from draw_selection(selected.scores, selected.selection, selected.settings, truth, title).items()


def draw_summary(rounds: Sequence[RoundSummary], method: str, chosen: int, metrics: MetricSettings) -> Figure:
    """Metrics and selected cases over rounds, on validation and test (section VI, Fig. 6).

    Args:
        rounds: Finished rounds.
        method: Names what selected.
        chosen: The round that validation chose.
        metrics: Conventions that Dice was counted by.
    """
    scores = [
        RoundScore(method, row.round, f"{title}, {part}", [row.metrics[f"{part}/{name}"]])
        for part in ("val", "test")
        for name, title in PANELS.items()
        for row in rounds
        if f"{part}/{name}" in row.metrics
    ]
    selections = [RoundSelection(method, row.round, row.num_mutant, row.num_wild) for row in rounds if row.round]
    return draw_rounds(scores, selections, {method: chosen}, remarks=[explain_dice(metrics)])
