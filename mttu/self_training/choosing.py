"""Which pseudo-labels a round trains with, by which thresholds, and when a round would change nothing. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from mttu.config import SelectionSettings
from mttu.data.score_table import ScoreTable
from mttu.pseudo_labels import (
    SelectedCase,
    Selection,
    ThresholdRow,
    pool_scores,
    search_thresholds,
    select,
    suggest_thresholds,
)

KEPT = "kept from an earlier round"


def choose_labels(table: ScoreTable, settings: SelectionSettings, earlier: Mapping[str, int]) -> Selection:
    """Selects pseudo-labels; those that are to stay are not asked again.

    Args:
        table: Monte Carlo scores of the pool.
        settings: Method, thresholds, balance.
        earlier: Pseudo-labels that stay whatever the scores say, case to class. The others are selected, and balanced,
            among themselves.

    Raises:
        InputError: See `mttu.pseudo_labels.select`.
    """
    open_rows = tuple(row for row in table.rows if row.case_id not in earlier)
    chosen = select(replace(table, rows=open_rows), settings)
    if not earlier:
        return chosen
    stay = [
        SelectedCase(row.case_id, earlier[row.case_id], row.confidence, row.uncertainty, False, True, KEPT)
        for row in table.rows
        if row.case_id in earlier
    ]
    notes = (f"{len(stay)} pseudo-labels are kept from earlier rounds", *chosen.notes)
    return replace(chosen, cases=tuple(sorted([*chosen.cases, *stay], key=lambda case: case.case_id)), notes=notes)


def search_settings(
    validation: ScoreTable, truth: Mapping[str, int], settings: SelectionSettings, min_coverage: float
) -> tuple[SelectionSettings, list[ThresholdRow], list[str]]:
    """Thresholds of lowest error on the validation cases (section IV-B, Fig. 3b).

    Args:
        validation: Monte Carlo scores of the validation cases by the network that scored the pool.
        truth: True class of the validation cases.
        settings: What else is set stays; the thresholds too, where no pair selects enough, or where the table does not
            say that the network did not learn from these cases.
        min_coverage: Least share of the validation cases that a pair has to select.

    Returns:
        Settings with the thresholds found, the pairs that were tried, and sentences on what is special.

    Raises:
        InputError: No validation case has both a score and a class.
    """
    if validation.about.get("learned_from") is None:
        note = (
            "the weights that training started from do not say whom they learned from, so no thresholds were searched"
        )
        return settings, [], [f"{note} on the validation cases: as set in `selection`"]
    scores, notes = pool_scores({"of the validation cases": validation}, truth)
    rows = search_thresholds(scores)
    found = suggest_thresholds(rows, min_coverage)
    if found is None:
        notes.append(f"no pair of thresholds selects {min_coverage:.0%} of the validation cases: as set in `selection`")
        return settings, rows, notes
    changes = {
        "confidence_threshold": found.confidence_threshold,
        "uncertainty_threshold": found.uncertainty_threshold,
    }
    return settings.model_copy(update=changes), rows, notes


def is_unchanged(now: Mapping[str, int], before: Mapping[str, int] | None) -> bool:
    """Whether a round would train with the very pseudo-labels of the round before; False for the first such round."""
    return before is not None and dict(now) == dict(before)
