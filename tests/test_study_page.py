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
    page = (ROOT / "docs" / "selection-study.md").read_text(encoding="utf-8")
    if page != script.make_page(script.read_results(script.RESULTS)):
        pytest.fail("write it again: python benchmarks/summarise_study.py --page docs/selection-study.md")


def test_no_arm_is_half_there(script):
    lines = script.read_results(script.RESULTS)
    assert {line["cell"] for line in lines} == set(script.CELLS)
    for name, seeds in script.list_cells(lines, chosen=False).items():
        for arm in script.list_arms(seeds):
            rounds = {len(arms[arm]) for arms in script.of_arm(seeds, arm)}
            assert rounds == ({1} if arm == "direct" else {3}), f"{name}, {arm}"
