import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from empty_pictures import save_empty

from mttu.errors import InputError
from mttu.metrics.delong import compare_auc, estimate_auc
from mttu.metrics.intervals import bootstrap_mean
from mttu.report.comparison import Comparison, compare_systems
from mttu.report.comparison_files import OWN_FILES, check_comparison, write_caption, write_comparison
from mttu.report.evaluated import read_systems, split_system
from mttu.report.files import write_evaluation

IDS = [f"case {letter}" for letter in "abcdefgh"]
IDH = dict(zip(IDS, (1, 1, 1, 1, 0, 0, 0, 0), strict=True))
FACTS = [
    {"case_id": case_id, "patient_id": case_id, "idh": IDH[case_id], "grade": "LGG" if number < 5 else "HGG"}
    | {"age": 30.0 + 5 * number, "sex": "FM"[number % 2], "site": "A" if number < 6 else "B"}
    for number, case_id in enumerate(IDS)
]
AGES = dict(zip(IDS, (0.9, 0.3, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1), strict=True))
Write = Callable[..., Path]
HALVES = {"lower": slice(0, 4), "upper": slice(4, 8)}
GOOD = (0.9, 0.8, 0.7, 0.4, 0.6, 0.3, 0.2, 0.1)
POOR = (0.4, 0.8, 0.3, 0.6, 0.7, 0.5, 0.2, 0.35)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the folder of an evaluation: WT Dice as given, TC 0.1 and ET 0.2 less."""
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda *tables: {})

    def make(
        name: str,
        dices: Sequence[float] = (0.8,) * 8,
        probabilities: Sequence[float] = GOOD,
        cases: Sequence[str] = IDS,
        facts: Sequence[Mapping[str, Any]] = FACTS,
        system: str = "net",
        others: Sequence[str] = (),
        empty_masks: str = "Dice brats, HD95 exclude",
        volumes: Mapping[str, float] = {},
        ages: Mapping[str, float] = AGES,
        learned_from: bool | None = False,
        failed: Sequence[str] = (),
        chosen_on: Sequence[str] = (),
        chosen_not_said: Sequence[str] = (),
        without_et: Sequence[str] = (),
    ) -> Path:
        rows = [
            {"case_id": case_id, "patient_id": case_id, "system": system, "learned_from": learned_from}
            for case_id in cases
        ]
        conventions = {"empty_dice": "brats", "empty_hd95": "exclude"}
        regions = [
            {
                **row,
                "region": region,
                "status": "normal",
                "dice": dice - less,
                "truth_ml": volumes.get(row["case_id"], 30.0),
            }
            | {"hd95_mm": 10.0, **conventions}
            | {"lesion_dice": (dice - less) / 2, "lesion_hd95_mm": 20.0}
            for row, dice in zip(rows, dices, strict=False)
            for region, less in (("wt", 0.0), ("tc", 0.1), ("et", 0.2))
        ]
        for row in regions:
            if row["region"] == "et" and row["case_id"] in without_et:
                row["dice"] = None
        idh = [
            {**row, "idh": IDH[row["case_id"]], "mutant_probability": value, "confidence": 0.5, "right": True}
            for row, value in zip(rows, probabilities, strict=False)
        ]
        names = [{"name": one} for one in (system, *others)]
        summary = {"systems": names, "split": "test", "synthetic": True, "empty_masks": empty_masks}
        summary["cases"] = {"failed": {system: list(failed)}}
        if chosen_on or chosen_not_said:  # earlier evaluations have neither
            summary["cases"]["postprocessing_chosen_on"] = {system: list(chosen_on)}
            summary["cases"]["postprocessing_chosen_not_said"] = {system: list(chosen_not_said)}
        baselines = [
            {"case_id": case_id, "baseline": "age", "after_surgery": False, "mutant_probability": value}
            for case_id, value in ages.items()
        ]
        write_evaluation(tmp_path / name, regions, idh, summary, facts, baselines)
        return tmp_path / name

    return make


def compare(*texts: object, reference: str | None = None) -> Comparison:
    return compare_systems(read_systems([split_system(str(text)) for text in texts]), reference, num_resamples=20)


def test_every_row_has_its_scores_and_its_tests_on_cases(write: Write) -> None:
    dices = np.array([0.5, 0.6, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    found = compare(write("good"), write("poor", dices, POOR)).summary
    good, poor, age = found.rows
    assert [row.title for row in found.rows] == ["good", "poor", "age, no image"]
    assert (good.scores["dice_wt"].mean, poor.scores["dice_wt"].mean) == pytest.approx((0.8, dices.mean()))
    assert (poor.scores["dice"].mean, poor.scores["lesion_dice_wt"].mean) == pytest.approx(
        (dices.mean() - 0.1, dices.mean() / 2)
    )
    interval = bootstrap_mean(dices.tolist(), IDS, 20)
    assert (poor.scores["dice_wt"].low, poor.scores["dice_wt"].high) == pytest.approx((interval.low, interval.high))
    aucs = [estimate_auc(values, list(IDH.values())).auc for values in (GOOD, POOR, list(AGES.values()))]
    assert [row.scores["auc"].mean for row in found.rows] == pytest.approx(aucs)
    delong = compare_auc(POOR, GOOD, list(IDH.values()))
    difference = poor.differences["auc"]
    assert (difference.mean, difference.p, difference.n, difference.test) == (
        pytest.approx(delong.difference),
        pytest.approx(delong.p),
        8,
        "DeLong on cases",
    )
    assert poor.differences["dice_wt"].mean == pytest.approx(dices.mean() - 0.8)
    assert poor.differences["dice_wt"].low < dices.mean() - 0.8 < poor.differences["dice_wt"].high
    assert good.differences == {}
    assert (age.scores["dice_wt"].mean, age.differences["dice"].n, age.n) == (None, 0, 8)
    assert (good.scores["specificity"].mean, good.scores["specificity"].low is None) == (0.75, False)
    assert found.over == "cases"


def test_a_share_of_one_has_no_interval(write: Write) -> None:
    perfect = compare(write("a", probabilities=[0.9] * 4 + [0.1] * 4)).summary.rows[0].scores
    assert all((perfect[name].mean, perfect[name].low) == (1.0, None) for name in ("auc", "accuracy", "specificity"))


def test_trainings_of_one_system_are_averaged_case_by_case_first(write: Write) -> None:
    first, second = write("seed-0", (0.9,) * 8, GOOD), write("seed-1", (0.5,) * 8, POOR)
    found = compare(f"ours={first},{second}", write("other")).summary
    means = [(one + other) / 2 for one, other in zip(GOOD, POOR, strict=True)]
    row = found.rows[0]
    assert (row.name, row.n, row.scores["dice_wt"].mean) == ("ours", 8, pytest.approx(0.7))
    assert row.scores["auc"].mean == pytest.approx(estimate_auc(means, list(IDH.values())).auc)


def test_folds_are_put_together_and_said_to_be_of_different_networks(write: Write) -> None:
    upper = write("fold-0", (0.9,) * 4, GOOD[:4], cases=IDS[:4])
    lower = write("fold-1", (0.5,) * 4, GOOD[4:], cases=IDS[4:])
    found = compare(f"ours={upper},{lower}", write("other"))
    assert (found.summary.rows[0].n, found.summary.rows[0].scores["dice_wt"].mean) == (8, pytest.approx(0.7))
    assert any("ranks probabilities of different networks together" in note for note in found.notes)


def test_folds_may_share_a_case(write: Write) -> None:
    upper = write("fold-0", (0.9,) * 5, GOOD[:5], cases=IDS[:5])
    lower = write("fold-1", (0.5,) * 4, GOOD[4:], cases=IDS[4:])
    found = compare(f"ours={upper},{lower}", write("other"))
    assert any("ranks probabilities of different networks together" in note for note in found.notes)
    difference = found.summary.rows[1].differences["auc"]
    assert (difference.p, difference.n) == (None, 8)


def test_truth_is_compared_between_any_two_folders(write: Write) -> None:
    ours = [write(f"ours-{half}", cases=IDS[half : half + 4]) for half in (0, 4)]
    facts = [{**row, "age": 99} if row["case_id"] == IDS[-1] else row for row in FACTS]
    facts = [facts[:4], facts[4:]]
    theirs = [write(f"theirs-{half}", cases=IDS[half : half + 4], facts=facts[half // 4]) for half in (0, 4)]
    with pytest.raises(InputError, match=rf"other ages for {IDS[-1]}; evaluate both with the same manifest"):
        compare("ours=" + ",".join(map(str, ours)), "theirs=" + ",".join(map(str, theirs)))


def test_many_folders_are_no_path(write: Write, tmp_path: Path) -> None:
    folders = [write(f"seed-{number}-{'x' * 100}") for number in range(3)]
    assert compare(f"ours={','.join(map(str, folders))}", write("other")).summary.rows[0].n == 8
    assert split_system(",".join(["y" * 300, "z"])) == ("y" * 300, ["y" * 300, "z"])
    with pytest.raises(InputError, match=r"system ours: .*/\./seed-0-x+ is given twice"):
        compare(f"ours={folders[0]},{tmp_path}/./{folders[0].name}", write("another"))


def test_one_system_is_compared_with_the_baselines(write: Write) -> None:
    found = compare(write("only")).summary
    assert [row.title for row in found.rows] == ["only", "age, no image"]
    assert found.rows[1].differences["auc"].p is not None


def test_the_reference_can_be_chosen_and_must_be_there(write: Write) -> None:
    folders = write("a"), write("b")
    assert compare(*folders, reference="b").summary.reference == "b"
    with pytest.raises(InputError, match="--reference 'c': no such system; choose one of a, b"):
        compare(*folders, reference="c")


def test_subgroups_are_those_of_the_manifests_facts(write: Write) -> None:
    found = compare(write("a", np.arange(8) / 10 + 0.25)).subgroups
    groups = {one.title: (one.num_cases, one.num_mutant, one.num_wild) for one in found}
    assert groups == {
        "all cases": (8, 4, 4),
        "high grade (4)": (3, 0, 3),
        "low grade (2, 3)": (5, 4, 1),
        "age below 48": (4, 4, 0),  # the median is 47.5
        "age from 48": (4, 0, 4),
        "F": (4, 2, 2),
        "M": (4, 2, 2),
        "site A": (6, 4, 2),
        "sites of fewer than 5 cases": (2, 0, 2),
    }
    women = next(one for one in found if one.title == "F")
    assert women.dice.value == pytest.approx(np.mean([0.25, 0.45, 0.65, 0.85]) - 0.1)
    assert women.auc.value == 1.0  # 0.9, 0.7 above 0.6, 0.2


def test_what_cannot_be_compared_is_named(write: Write, tmp_path: Path) -> None:
    good, part = write("good"), write("part", cases=IDS[:6])
    turned = [{**row, "idh": 1 - row["idh"]} if row["case_id"] == "case a" else row for row in FACTS]
    for other, said in (
        (part, r"part \(masks\) has no score for 2 of 8 cases: case g, case h"),
        (write("turned", facts=turned), "have other IDH statuses for case a"),
        (write("strict", empty_masks="Dice exclude, HD95 exclude"), "empty masks count as Dice brats"),
        (tmp_path / "none", "is no folder; give one that `mttu evaluate` wrote"),
        (tmp_path, "summary.json: missing; give a folder that `mttu evaluate` wrote"),
        (f"good={part}", "system good: 2 systems have this name"),
        (f"x={part},{part}", "part is given twice"),
    ):
        with pytest.raises(InputError, match=said):
            compare(good, other)
    summary = json.loads((part / "summary.json").read_text())
    (part / "summary.json").write_text(json.dumps({**summary, "format_version": 1}))
    with pytest.raises(InputError, match=r"format_version is 1.*evaluate again"):
        compare(good, part)


def test_of_a_folder_with_two_systems_the_first_is_taken_and_the_other_named(write: Write) -> None:
    found = compare(write("a", others=["b"]), write("c"))
    assert any(note.endswith("also has scores of b, which are left out") for note in found.notes)


def test_the_folder_holds_well_formed_tables_and_is_replaced_whole(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mttu.report.comparison_files.save_figure", save_empty)
    systems = read_systems([split_system(str(one)) for one in (write("a & b_1"), write("poor", (0.3,) * 8, POOR))])
    comparison, out = compare_systems(systems, None, 20), tmp_path / "out"
    for _ in range(2):
        assert check_comparison(out) == []
        write_comparison(out, comparison, systems)
    assert {path.name for path in out.iterdir()} == set(OWN_FILES)
    latex = (out / "table.tex").read_text().replace("\\\\", "\n")  # ends of lines
    assert r"a \& b\_1 (ref.) & 8 & " in latex
    assert r"\multicolumn{6}{c}{Segmentation by lesions, BraTS 2023 (Dice in \%, HD95 in mm)}" in latex
    assert len(re.findall(r"(?<!\\)\{", latex)) == len(re.findall(r"(?<!\\)\}", latex))
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}")
    assert "\\textbf{80.0}\n{\\tiny [80.0, 80.0]}" in latex
    markdown = (out / "table.md").read_text()
    assert "DeLong's test for AUC" in markdown
    assert "| poor | 8 | 30.0" in markdown
    lines = list(csv.DictReader((out / "table.csv").open()))
    assert {line["metric"] for line in lines if line["row"] == "poor"} >= {"dice_wt", "auc", "lesion_hd95_et"}
    (out / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is not of a comparison" in check_comparison(out)[0]


@pytest.mark.parametrize("damage", [{"systems": []}, {"systems": None}, {"synthetic": "no"}, {"split": 3}, {"x": 1}])
def test_a_damaged_summary_is_refused(damage: Mapping[str, Any], write: Write) -> None:
    folder = write("a")
    summary = json.loads((folder / "summary.json").read_text()) | damage
    if "x" in damage:
        del summary["empty_masks"]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"summary\.json: damaged; evaluate again"):
        compare(folder)


def test_other_facts_and_other_true_masks_are_refused(write: Write) -> None:
    first = write("a")
    older = [{**row, "age": 99.0} if row["case_id"] == "case b" else row for row in FACTS]
    with pytest.raises(InputError, match="have other ages for case b; evaluate both with the same manifest"):
        compare(first, write("b", facts=older))
    with pytest.raises(InputError, match="have other true volumes of WT for case c"):
        compare(first, write("c", volumes={"case c": 31.0}))


def test_baselines_are_those_of_all_folders_of_a_system(write: Write) -> None:
    halves = {name: {case_id: AGES[case_id] for case_id in IDS[part]} for name, part in HALVES.items()}
    folders = [
        write(name, (0.9,) * 4, GOOD[HALVES[name]], cases=IDS[HALVES[name]], ages=ages) for name, ages in halves.items()
    ]
    found = compare(f"ours={folders[0]},{folders[1]}", write("other", ages={}))
    age = found.summary.rows[2]
    assert (age.n, age.differences["auc"].p, age.differences["auc"].test) == (8, None, "not tested: several networks")
    assert not any("is known for" in note for note in found.notes)
    part = compare(folders[0], reference=None).summary.rows[1]
    assert part.differences["accuracy"].test == "McNemar exact on cases"
    few = compare(write("whole", ages=halves["lower"]), write("other", ages={}))
    assert any(note.startswith("age, no image: is known for 4 of the 8 cases") for note in few.notes)
    seeds = write("seed-0"), write("seed-1", ages={**AGES, "case d": 0.65})
    with pytest.raises(InputError, match="other probabilities of the baseline age, no image for case d"):
        compare(f"ours={seeds[0]},{seeds[1]}")


def test_seeds_that_failed_on_a_case_are_no_folds(write: Write) -> None:
    whole, part = write("seed-0"), write("seed-1", cases=IDS[:7], failed=IDS[7:])
    found = compare(f"ours={whole},{part}", write("other", probabilities=POOR))
    assert any("not every folder has all scores of case h" in note for note in found.notes)
    assert not any("as folds do" in note for note in found.notes)
    assert found.summary.rows[1].differences["auc"].p is not None


def test_what_limits_a_comparison_is_said_as_by_evaluate(write: Write) -> None:
    twins = [{**row, "patient_id": "twin"} if row["case_id"] in IDS[:2] else row for row in FACTS]
    limits = {"learned_from": None, "failed": ["case x"], "chosen_on": IDS[:3], "chosen_not_said": IDS[3:5]}
    notes = compare(write("a", facts=twins, **limits)).notes
    for said in (
        "several cases per patient",
        "fewer than 10 cases of an IDH class",
        "does not say of 8 cases whether it was trained on their patients",
        "a: predictions that failed, in no score: case x",
        "a: which components of masks are dropped was chosen on patients of 3 cases: their masks' scores are a little",
        "a: does not say on whom it was chosen which components of 2 masks are dropped: whether their scores are",
    ):
        assert any(said in note for note in notes), said


def test_names_stand_in_the_caption_as_they_are(write: Write) -> None:
    systems = read_systems([("none", [str(write("a", learned_from=None))]), ("UPS", [str(write("b"))])])
    caption = write_caption(compare_systems(systems, None, num_resamples=20), systems)
    assert " none: does not say of 8 cases whether" in caption
    assert " The data are synthetic" in caption


def test_dice_of_all_cases_is_that_of_the_table(write: Write) -> None:
    found = compare(write("a", np.arange(8) / 10 + 0.25, without_et=["case h"]))
    first, score = found.subgroups[0], found.summary.rows[0].scores["dice"]
    assert (first.title, first.num_cases, first.num_dice, score.n) == ("all cases", 8, 7, 7)
    means = 0.6, 0.5, np.mean(np.arange(7) / 10 + 0.05)  # WT, TC, ET
    assert first.dice.value == pytest.approx(np.mean(means))
    assert (first.dice.value, first.dice.low, first.dice.high) == pytest.approx((score.mean, score.low, score.high))
