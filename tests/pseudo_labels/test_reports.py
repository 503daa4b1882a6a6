"""Pictures of a selection, by each method."""

from dataclasses import replace

import pytest

from mttu.config import SelectionSettings
from mttu.pseudo_labels.reports import draw_selection, write_selection_table
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, summarise_passes
from mttu.pseudo_labels.selection import select

SURE = {"a": 0.97, "b": 0.95, "c": 0.92, "d": 0.03, "e": 0.04}
ROWS = [summarise_passes(name, [p - 0.01, p + 0.01], p, 1.0) for name, p in SURE.items()]
ROWS += [
    summarise_passes("f", [0.3, 0.6], 0.5, 1.0),
    summarise_passes("g", [0.8, 1.0], 0.9, 1.0),
    ScoreRow("x", 0.0, "no"),
]
TABLE = ScoreTable(tuple(ROWS), {"labelled": {"mutant": 10, "wild": 10}})
TRUTH = {"a": 1, "b": 0, "c": 1, "d": 0, "e": 1, "f": 1, "g": 1}


def said_by(**settings):
    chosen = SelectionSettings(**settings)
    figure = draw_selection(TABLE, select(TABLE, chosen), chosen, TRUTH, "Val")["candidates"]
    return figure.get_supxlabel().replace("\n", " "), figure.axes[0]


@pytest.mark.parametrize(
    ("settings", "meeting", "selected"),
    [
        ({"method": "none"}, "", "Selected: nothing."),
        ({"method": "PL"}, "", "Selected: 7 cases, 4 right, 3 wrong."),
        ({"method": "PL", "balance": True}, "", "Selected after balance: 6 cases, 3 right, 3 wrong."),
        ({"method": "CPL", "balance": False}, "confidence ≥ 0.9", "Selected: 6 cases, 4 right, 2 wrong."),
        (
            {"method": "UPS", "balance": False},
            "confidence ≥ 0.9, uncertainty ≤ 0.05",
            "Selected: 5 cases, 3 right, 2 wrong.",
        ),
        (
            {"method": "UPS"},
            "confidence ≥ 0.9, uncertainty ≤ 0.05",
            "Selected after balance: 4 cases, 2 right, 2 wrong.",
        ),
    ],
)
def test_the_picture_says_what_the_method_selects(settings, meeting, selected):
    said, axes = said_by(**settings)
    assert said.endswith(selected)
    assert said.startswith(f"Meets thresholds (shaded; {meeting})" if meeting else "Selected")
    assert len(axes.lines) == len(meeting.split(",")) * bool(meeting)


def test_balance_leaves_what_meets_the_thresholds_in_the_picture():
    said, axes = said_by(method="UPS")
    assert "uncertainty ≤ 0.05): 5 cases, 3 right, 2 wrong." in said
    rings = [points for points in axes.collections if points.get_label() == "selected: 4"]
    assert len(rings) == 1
    assert [len(points.get_offsets()) for points in rings] == [4]


def test_labels_of_an_earlier_round_count_as_selected():
    settings = SelectionSettings(method="UPS", confidence_threshold=0.99)
    chosen = select(TABLE, settings)
    kept = replace(chosen, cases=tuple(replace(case, selected=case.case_id == "f") for case in chosen.cases))
    said = draw_selection(TABLE, kept, settings, TRUTH, "Val")["candidates"].get_supxlabel().replace("\n", " ")
    assert said.endswith(": nothing. Selected after balance: 1 case, 1 wrong.")


def test_intervals_over_uncertainty_are_named_for_what_they_are():
    settings = SelectionSettings()
    figure = draw_selection(TABLE, select(TABLE, settings), settings, TRUTH, "Val")["uncertainty"]
    assert "Vertical bars: 95% bootstrap interval over cases." in figure.get_supxlabel().replace("\n", " ")


def test_the_table_that_stands_for_both_files_is_written_last(tmp_path, monkeypatch):
    """A self-training that is killed between them goes on where there is no Parquet file."""
    table = ScoreTable((summarise_passes("a", [0.9, 0.8], 0.9, 0.0),), {"labelled": {"mutant": 1, "wild": 1}})
    settings = SelectionSettings(method="PL")

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("mttu.pseudo_labels.reports.pq.write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        write_selection_table(tmp_path, table, select(table, settings), settings)
    assert (tmp_path / "selection.csv").exists()
    assert not (tmp_path / "selection.parquet").exists()
