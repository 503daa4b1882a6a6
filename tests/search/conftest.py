"""One database of MLflow for all tests of searches, because to make one takes seconds; pictures that are not drawn."""

import pytest
from empty_pictures import save_empty


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its address; each test needs names of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


@pytest.fixture
def undrawn(sketches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sketches`, and so are the pictures of searches and studies."""
    monkeypatch.setattr("mttu.search.results.save_figure", save_empty)
    monkeypatch.setattr("mttu.search.ablation_study.save_figure", save_empty)
