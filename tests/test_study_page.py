"""The page of the selection study is what its script makes of the committed results."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("summarise_study")


def test_the_page_is_of_the_results(script):
    lines = script.read_results(script.RESULTS)
    assert (ROOT / "docs" / "selection-study.md").read_text(encoding="utf-8") == script.make_page(lines)


def test_every_finished_arm_is_of_as_many_seeds_as_the_page_says(script):
    lines = script.read_results(script.RESULTS)
    assert {line["cell"] for line in lines} == set(script.CELLS)
    for name, seeds in script.list_cells(lines, chosen=False).items():
        for arm in script.list_arms(seeds):
            rounds = {len(arms[arm]) for arms in script.of_arm(seeds, arm)}
            assert rounds == ({1} if arm == "direct" else {3}), f"{name}, {arm}"  # none is half there
