"""Figures and settings of a page are those of the run, and the same for the same run."""

import base64
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mttu.config import Config
from mttu.config.sharing import without_paths
from mttu.files import read_json
from mttu.report.page import figures
from mttu.report.page.figures import draw_run_curves, draw_run_reliability, draw_run_rounds, embed
from mttu.report.page.runs import read_run
from mttu.training.run import differences, identify


def decode(uri: str, kind: str) -> bytes:
    start = f"data:image/{kind};base64,"
    assert uri.startswith(start)
    return base64.b64decode(uri.removeprefix(start))


def test_a_training_has_curves_and_reliability_but_no_rounds(finished_training: Path) -> None:
    run = read_run(finished_training)
    (curves,) = draw_run_curves(run)
    assert b"<svg" in decode(curves.uri, "svg+xml")
    assert curves.alt.startswith("Learning curves of training, first: losses and validation scores over 1 epochs")
    assert f"train/loss {run.histories['training'][0]['train/loss']:.3f}" in curves.alt
    reliability = draw_run_reliability(run)
    assert reliability is not None
    assert "2 val cases" in reliability.caption
    assert draw_run_rounds(run) is None


def test_a_figure_of_many_points_is_a_png_and_photos_are(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure(figsize=(1, 1))
    assert embed(figure, "", "") == embed(figure, "", "")
    assert decode(embed(figure, "", "", "photo").uri, "png").startswith(b"\x89PNG")
    monkeypatch.setattr(figures, "_LARGEST_SVG", 10)
    assert decode(embed(figure, "", "").uri, "png").startswith(b"\x89PNG")


def test_the_settings_that_are_shown_begin_the_same_run(finished_training: Path) -> None:
    run = read_run(finished_training)
    begun = read_json(finished_training / "run.json")
    assert run.settings != Config()
    assert differences(begun, identify(without_paths(run.settings), begun["data"])) == []
