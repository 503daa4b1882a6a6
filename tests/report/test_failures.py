import csv
from dataclasses import replace

import numpy as np
import pytest

from mttu.predict.results import overlay_name
from mttu.report import evaluate_cases, plan_evaluation, write_evaluation
from mttu.report.evaluated import read_evaluated
from mttu.report.failures import OWN_FILES, Failure, check_failures, find_failures, write_failures
from mttu.tables.files import escape_markdown


@pytest.fixture
def evaluated(cohort, manifest, write_predictions, tmp_path, monkeypatch):
    """Four test cases, probabilities 0.95, 0.2, 0.4, 0.7 for mutant, wild type, mutant, wild type."""
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda *tables: {})
    predictions = write_predictions("a", probabilities=(0.95, 0.2, 0.4, 0.7, 0.3, 0.1, 0.9, 0.1))
    plan = plan_evaluation(predictions, manifest, tmp_path / "scores", num_resamples=20)
    found = evaluate_cases(plan)
    tables = found.fact_rows, found.baseline_rows
    write_evaluation(tmp_path / "scores", found.region_rows, found.idh_rows, found.summary, *tables)
    return read_evaluated(tmp_path / "scores")


def test_the_worst_cases_are_those_of_low_dice_and_those_surely_called_wrong(evaluated, cohort):
    ids = [case.case_id for case in cohort.cases[:4]]
    dices = {
        case_id: np.mean([evaluated.scores[case_id][f"dice_{region}"] for region in ("wt", "tc", "et")])
        for case_id in ids
    }
    (worst, *_), most = sorted(ids, key=lambda case_id: dices[case_id]), 1
    found = {one.case_id: one for one in find_failures(evaluated, cohort, most)}
    assert set(found) == {worst, ids[3]}  # 0.7 is surer than 0.4, and both are wrong
    assert any(
        reason.startswith(f"Dice {dices[worst]:.3f}, number 1 from below of 4") for reason in found[worst].reasons
    )
    assert "IDH wild type, but the mutant probability is 0.70" in found[ids[3]].reasons
    wrong = [one for one in find_failures(evaluated, cohort, 4) if any("IDH" in reason for reason in one.reasons)]
    assert {one.case_id for one in wrong} == {ids[2], ids[3]}


def test_what_is_odd_about_a_case_is_said(evaluated, cohort, monkeypatch):
    odd, *others = [case.case_id for case in cohort.cases[:4]]
    volumes = dict(zip([odd, *others], (90.0, 20.0, 21.0, 22.0), strict=True))
    rows = {
        case_id: {region: {**row, "truth_ml": volumes[case_id]} for region, row in own.items()}
        for case_id, own in evaluated.regions.items()
    }
    rows[odd]["et"] |= {"status": "missed"}
    rows[odd]["wt"] |= {"num_lesions": 3, "num_missed_lesions": 2, "num_false_lesions": 1}
    facts = {case_id: {**row, "site": "C" if case_id == odd else "A"} for case_id, row in evaluated.facts.items()}
    changed = replace(evaluated, regions=rows, facts=facts)
    ranges = {odd: 4000.0, **dict.fromkeys(others, 1000.0)}
    monkeypatch.setattr("mttu.report.failures._measure_range", lambda case: {"flair": ranges[case.case_id], "t1": 5.0})
    found = {one.case_id: one for one in find_failures(changed, cohort, 4)}
    assert found[odd].oddities == [
        "large tumour: 90.0 ml, the median is 21.5 ml",
        "the enhancing tumour was missed",
        "3 lesions, 2 missed",
        "1 predicted components touch no lesion",
        "rare site C: 1 of 4 cases",
        "flair intensities span 4000, the others' median is 1000",
    ]
    assert not any(word in text for text in found[others[0]].oddities for word in ("intensities", "rare"))


def test_texts_of_any_origin_are_no_markdown(evaluated, tmp_path):
    odd = Failure("a_b*", 0.1, None, 1, ["<img src=x>"], ["rare site [x](http://x.org)", "one\n# two `three`"])
    folder = tmp_path / "*scores*"
    write_failures(tmp_path / "out", [odd], replace(evaluated, folder=folder), tmp_path)
    lines = (tmp_path / "out" / "failures.md").read_text().splitlines()
    assert [line for line in lines if line] == [
        r"# Worst cases of \*scores\*",
        "Research use only. Not for diagnosis.",
        r"## a\_b\*",
        r"- \<img src=x\>",
        r"- odd: rare site \[x\](http://x.org)",
        r"- odd: one \# two \`three\`",
    ]


def test_the_list_is_written_with_the_overlays_and_replaced_whole(evaluated, cohort, tmp_path):
    first = cohort.cases[0].case_id
    (tmp_path / "a" / overlay_name(first)).write_bytes(b"a picture")
    found, out = find_failures(evaluated, cohort, 4), tmp_path / "failures"
    for _ in range(2):
        assert check_failures(out) == []
        write_failures(out, found, evaluated, tmp_path / "a")
    assert {path.name for path in out.iterdir()} == set(OWN_FILES)
    assert [path.name for path in (out / "overlays").iterdir()] == [overlay_name(first)]
    page = (out / "failures.md").read_text()
    assert f"![{escape_markdown(first)}](overlays/{overlay_name(first)})" in page
    assert page.count("## ") == len(found) == len(list(csv.DictReader((out / "failures.csv").open())))
