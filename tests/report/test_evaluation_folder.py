"""Folders of evaluations that were damaged, or are of another version, are refused in a sentence."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mttu.errors import InputError
from mttu.report.evaluated import read_evaluated, read_systems
from mttu.report.evaluation_folder import read_folder
from mttu.report.files import write_evaluation
from mttu.report.page import plan_page


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluation of one case, with masks, probability, facts and a baseline."""
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda *tables: {})
    row = {"case_id": "a", "patient_id": "a", "system": "net", "learned_from": False}
    region = {"status": "normal", "dice": 0.5, "hd95_mm": 3.0, "empty_dice": "brats", "empty_hd95": "exclude"}
    regions = [{**row, **region, "region": name} for name in ("wt", "tc", "et")]
    idh = {**row, "idh": 1, "mutant_probability": 0.5, "confidence": 0.5, "right": True}
    cases = {"in_split": 1, "masks_scored": 1, "idh_scored": 1, "without_true_mask": 0}
    summary = {
        "systems": [{"name": "net", "checkpoint": "run/best", "notes": []}],
        "cases": {**cases, "failed": {"net": []}, "learned_from": {}, "learned_from_not_said": {}},
        **{"split": "test", "synthetic": True, "empty_masks": "Dice brats, HD95 exclude"},
        **{"empty_dice": "brats", "empty_hd95": "exclude"},
        **dict.fromkeys(("segmentation", "idh", "baselines", "comparison")),
    }
    facts = [{"case_id": "a", "patient_id": "a", "idh": 1, "age": 40.0}]
    baselines = [{"case_id": "a", "baseline": "age", "after_surgery": False, "mutant_probability": 0.4}]
    write_evaluation(tmp_path / "scores", regions, [idh], summary, facts, baselines)
    return tmp_path / "scores"


def change_table(path: Path, change: Callable[[Any], Any]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def put(column: str, *values: Any) -> Callable[[Any], Any]:
    """Changes a column of a table, whose kind stays."""

    def change(table: Any) -> Any:
        place = table.schema.get_field_index(column)
        return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("case_facts", lambda table: table.drop(["case_id"]), "columns case_id are missing"),
        ("case_idh", lambda table: table.drop(["mutant_probability"]), "columns mutant_probability are missing"),
        ("case_idh", lambda table: table.append_column("extra", [[1]]), "columns extra are missing, .* or too many"),
        ("case_scores", lambda table: table.select(table.column_names[::-1]), "columns are mixed"),
        ("case_idh", put("mutant_probability", math.nan), "case a: mutant_probability is nan; expected 0 to 1"),
        ("case_idh", put("mutant_probability", 1.5), r"case a: mutant_probability is 1\.5; expected 0 to 1"),
        ("case_idh", put("idh", -1), "case a: idh is -1; expected 0 to 1"),
        ("case_baselines", put("mutant_probability", -0.1), r"case a: mutant_probability is -0\.1; expected"),
        ("case_facts", put("idh", 2), "case a: idh is 2; expected -1 to 1"),
        ("case_scores", put("dice", None, 0.5, math.inf), "case a: dice is inf; expected 0 to 1"),
        ("case_scores", put("dice", 2, 3, 0.5), "case a: dice is 2.0, and 1 row is wrong too; expected"),
        ("case_scores", put("region", "wt", "tc", "xx"), "case a: region is xx; expected wt, tc, et"),
        ("case_scores", put("region", "wt", "tc", "wt"), "several rows are of a, net, wt"),
    ],
)
def test_a_damaged_table_is_refused_by_comparison_and_page(
    name: str, change: Callable[[Any], Any], said: str, folder: Path, finished_training: Path
) -> None:
    read_folder(folder)
    change_table(folder / f"{name}.parquet", change)
    with pytest.raises(InputError, match=f"evaluation .*{name}.parquet: {said}") as one:
        read_evaluated(folder)
    assert str(one.value).endswith("evaluate again with `mttu evaluate`")
    with pytest.raises(InputError) as other:
        plan_page([finished_training], folder.parent / "page.html", [folder])
    assert other.value.problems == one.value.problems


def test_the_problems_of_all_tables_are_listed(folder: Path) -> None:
    for name in ("case_idh", "case_baselines"):
        change_table(folder / f"{name}.parquet", put("mutant_probability", 7))
    (folder / "case_facts.parquet").unlink()
    with pytest.raises(InputError) as caught:
        read_folder(folder)
    assert [name in problem for name, problem in zip(("idh", "facts", "base"), caught.value.problems, strict=True)] == [
        *(True, True, True)
    ]


def test_a_system_that_scored_nothing_and_one_of_empty_values_are_read(folder: Path) -> None:
    change_table(folder / "case_scores.parquet", put("dice", None, None, None))
    change_table(folder / "case_idh.parquet", lambda table: table.slice(0, 0))
    found = read_evaluated(folder)
    assert (found.scores["a"]["dice_wt"], found.masks, found.classified) == (None, {"a"}, frozenset())


def test_names_that_are_no_text_are_refused(folder: Path, finished_training: Path) -> None:
    with pytest.raises(InputError, match=r"system 'a\\udcff': is no UTF-8"):
        read_systems([("a\udcff", [str(folder)])])
    moved = folder.rename(folder.parent / "s\udcff")
    with pytest.raises(InputError, match=r"evaluation .*s\\udcff': is no UTF-8"):
        read_evaluated(moved)
    with pytest.raises(InputError) as caught:
        plan_page([finished_training], folder.parent / "p\udcff.html", [moved], [folder.parent / "m\udcff.parquet"])
    assert [one.split(" ")[0] for one in caught.value.problems if "is no UTF-8" in one] == [
        *("output", "manifest", "evaluation")
    ]


@pytest.mark.parametrize(
    "damage",
    [
        *({"systems": []}, {"systems": "abc"}, {"systems": [{"name": 3}]}, {"systems": [{"name": "net"}]}),
        *({"cases": {}}, {"cases": {"failed": {"net": 5}}}, {"cases": 3}, {"split": 1}),
        *({"idh": {}}, {"idh": {"calibration_errors": [], "calibrations": []}}, {"segmentation": {"wt": 1}}),
        {"systems": [{"name": "net", "checkpoint": "", "notes": ["\udcff"]}]},
        *({"empty_dice": "none"}, {"baselines": [1]}, {"comparison": {"first": "a"}}),
    ],
)
def test_a_damaged_summary_is_refused_by_the_page(
    damage: dict[str, Any], folder: Path, finished_training: Path
) -> None:
    summary, page = json.loads((folder / "summary.json").read_text()), folder.parent / "page.html"
    assert plan_page([finished_training], page, [folder]).evaluations[0].checkpoint == "run/best"
    (folder / "summary.json").write_text(json.dumps(summary | damage))
    with pytest.raises(InputError, match=r"scores/summary\.json: damaged; evaluate again with `mttu evaluate`"):
        plan_page([finished_training], page, [folder])
