"""One database of MLflow for all tests of searches, because to make one takes seconds; pictures that are not drawn."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mttu.files import write_text


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its address; each test needs names of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


@pytest.fixture
def without_curves(sketches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sketches`, and the learning curves of single trainings are not drawn either."""
    curves = [("learning_curves", Figure())]
    monkeypatch.setattr("mttu.training.run.draw_results", lambda *arguments: curves)


@pytest.fixture
def undrawn(without_curves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `without_curves`, and neither are the pictures of searches and studies."""

    def save(figure: Figure, path: Path, formats: Sequence[str]) -> list[Path]:
        place = path.with_name(f"{path.name}.{formats[0]}")
        write_text(place, "")
        return [place]

    monkeypatch.setattr("mttu.search.results.save_figure", save)
    monkeypatch.setattr("mttu.search.ablation_study.save_figure", save)
