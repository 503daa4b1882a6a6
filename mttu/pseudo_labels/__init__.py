"""Which predictions become pseudo-labels, and which thresholds to choose (section IV-B). Pure: no files, no network."""

from mttu.pseudo_labels.selection import SelectedCase, Selection, SelectionCounts, count_selected, select
from mttu.pseudo_labels.thresholds import (
    LabelledScore,
    ThresholdRow,
    pool_scores,
    search_thresholds,
    suggest_thresholds,
)

__all__ = [
    "LabelledScore",
    "SelectedCase",
    "Selection",
    "SelectionCounts",
    "ThresholdRow",
    "count_selected",
    "pool_scores",
    "search_thresholds",
    "select",
    "suggest_thresholds",
]
