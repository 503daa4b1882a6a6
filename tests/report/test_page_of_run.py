"""Figures and settings of a page are those of the run, and the same for the same run."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mttu.config import Config, override, to_yaml
from mttu.config.sharing import without_paths
from mttu.data.manifest import Manifest
from mttu.errors import InputError
from mttu.files import read_json, write_json
from mttu.report.page import figures
from mttu.report.page.figures import draw_run_curves, draw_run_reliability, draw_run_rounds, embed
from mttu.report.page.rendering import _describe_again, _list_commands
from mttu.report.page.runs import _find_manifest, read_run
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


def test_a_run_without_val_cases_has_no_manifest(cohort: Manifest) -> None:
    assert _find_manifest({Path("cohort.parquet"): cohort}, set()) is None
    val = {case.case_id for case in cohort.split("val")}
    assert _find_manifest({Path("cohort.parquet"): cohort}, val) == Path("cohort.parquet")


def test_what_run_json_does_not_say_is_that_of_the_weights(trained: Path) -> None:
    before = read_run(trained)
    mark = read_json(trained / "run.json")
    del mark["settings"]["optim.weight_decay"]
    checkpoint = trained / "best" / "config.yaml"
    checkpoint.write_text(to_yaml(override(before.config, {"optim.weight_decay": 0.25})))
    write_json(trained / "run.json", mark)
    assert read_run(trained).settings == override(before.settings, {"optim.weight_decay": 0.25})
    (trained / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: damaged"):
        read_run(trained)
    (trained / "run.json").unlink()
    assert read_run(trained).settings == read_run(trained).config


def test_the_same_weights_are_promised_only_where_no_others_took_part(finished_training: Path) -> None:
    run = read_run(finished_training)
    assert "workers.threads_per_worker=" in _describe_again(run)
    assert _describe_again(run).endswith("give the same weights on a CPU.")
    other = _describe_again(replace(run, other_weights=("train.start_from",)))
    assert "train.start_from" in other
    assert "give the same weights" not in other
    assert "mttu prepare cohort.parquet --config settings.yaml" in _list_commands(run)
