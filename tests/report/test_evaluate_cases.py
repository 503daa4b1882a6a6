import json
from dataclasses import replace

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from empty_pictures import save_empty

from mttu.data.manifest import write_manifest
from mttu.errors import InputError
from mttu.figures.style import save_figure
from mttu.metrics.lesions import LesionScores
from mttu.metrics.segmentation import RegionScores
from mttu.report import plan_evaluation, write_evaluation
from mttu.report.files import OWN_FILES, draw_pictures
from mttu.report.tables import build_tables, describe_cases


def values_of(rows, region, name):
    return [row[name] for row in rows if row["region"] == region]


def test_masks_are_scored_against_the_manifests(write_predictions, evaluate, cohort):
    found = evaluate(write_predictions("same", shift=0))
    assert values_of(found.region_rows, "wt", "case_id") == sorted(case.case_id for case in cohort.split("test"))
    assert values_of(found.region_rows, "et", "dice") == [1.0] * 4
    assert values_of(found.region_rows, "wt", "hd95_mm") == [0.0] * 4
    kept = json.loads(json.dumps(found.summary, sort_keys=True))  # as it is read back
    assert [column.header for column in build_tables(kept)[0].columns] == ["", "WT", "TC", "ET"]
    shifted = evaluate(write_predictions("shifted", shift=2))
    assert values_of(shifted.region_rows, "wt", "hd95_mm") == [2.0] * 4
    wt = shifted.summary["segmentation"]["wt"]
    assert wt["counts"] == {"normal": 4, "missed": 0, "spurious": 0, "both-empty": 0, "not-defined": 0}
    dice = values_of(shifted.region_rows, "wt", "dice")
    assert wt["metrics"]["dice"]["mean"] == pytest.approx(np.mean(dice))
    assert wt["metrics"]["dice"]["std"] == pytest.approx(np.std(dice, ddof=1))
    assert wt["metrics"]["dice"]["interval_of_mean"]["low"] < np.mean(dice)
    assert found.summary["cases"]["masks_scored"] == 4


@pytest.mark.parametrize(("empty", "n", "mean"), [("exclude-empty", 0, None), ("brats2020", 4, 373.12866)])
def test_missed_regions_are_counted_and_scored_by_the_convention(write_predictions, evaluate, empty, n, mean):
    missing = write_predictions("missing", change=lambda seg: np.where(seg == 4, 1, seg))  # no enhancing tumour
    et = evaluate(missing, empty=empty).summary["segmentation"]["et"]
    assert et["counts"]["missed"] == 4
    assert (et["metrics"]["hd95_mm"]["n"], et["metrics"]["hd95_mm"]["mean"]) == (n, mean and pytest.approx(mean))
    assert (et["metrics"]["dice"]["n"], et["metrics"]["dice"]["mean"]) == (4, 0.0)


def test_another_label_convention_and_whole_tumour_masks(write_predictions, evaluate):
    as_2023 = write_predictions(
        "new", 0, change=lambda seg: np.where(seg == 4, 3, seg), metadata={"labels": "brats2023"}
    )
    assert values_of(evaluate(as_2023).region_rows, "et", "dice") == [1.0] * 4
    whole = write_predictions("whole", 0, change=lambda seg: seg > 0, metadata={"labels": "whole-tumour"})
    found = evaluate(whole)
    assert values_of(found.region_rows, "wt", "dice") == [1.0] * 4
    assert values_of(found.region_rows, "tc", "status") == ["not-defined"] * 4
    assert found.summary["segmentation"]["tc"]["counts"]["not-defined"] == 4
    assert found.summary["segmentation"]["tc"]["metrics"]["dice"]["n"] == 0
    nothing = write_predictions("nothing", change=lambda seg: 0 * seg, metadata={"labels": "whole-tumour"})
    found = evaluate(nothing)  # an empty mask doesn't show of which convention it is
    assert values_of(found.region_rows, "wt", "status") == ["missed"] * 4
    assert values_of(found.region_rows, "tc", "status") == ["not-defined"] * 4


def test_idh_is_scored_at_one_half_and_at_the_threshold_of_validation(write_predictions, evaluate):
    # test: mutants 0.9 and 0.4, wild types 0.2 and 0.6; validation: mutant 0.3, wild type 0.1
    idh = evaluate(write_predictions("a")).summary["idh"]
    default, chosen = idh["at_thresholds"]
    assert (default["threshold"], default["accuracy"], default["auc"]) == (0.5, 0.5, 0.75)
    assert (chosen["chosen_on"], chosen["threshold"]) == ("validation", pytest.approx(0.2))
    assert (chosen["sensitivity"], chosen["specificity"]) == (1.0, 0.0)
    assert default["intervals"]["accuracy"]["num_resamples"] > 0
    assert default["wilson_intervals"]["sensitivity"]["low"] == pytest.approx(0.0945, abs=1e-4)
    assert idh["auc_delong"]["auc"] == 0.75
    assert [error["num_cases"] for error in idh["calibration_errors"]] == [4, 4]
    assert sum(bar["num_cases"] for bar in idh["reliability"]) == 4
    for one in idh["calibrations"]:
        bars, error = one["after"]["reliability"], one["after"]["calibration_error"]
        assert one["before"]["reliability"] == idh["reliability"] != bars
        assert sum(bar["num_cases"] for bar in bars) == 4
        gaps = [
            bar["num_cases"] / 4 * abs(bar["accuracy"]["estimate"] - bar["mean_confidence"])
            for bar in bars
            if bar["num_cases"]
        ]
        assert error["ece"] == pytest.approx(sum(gaps))
    names = [fitted["name"] for fitted in idh["calibrations"]]
    assert names == ["temperature", "temperature + bias"]
    assert idh["fitted_on"] == {"cases": "validation", "num_cases": 2, "notes": []}
    for fitted in idh["calibrations"]:
        assert fitted["before"]["brier"] == default["brier"]
        assert fitted["after"]["brier"] != default["brier"]


def test_reliability_is_drawn_before_and_after_each_calibration(write_predictions, evaluate):
    found = evaluate(write_predictions("a"))
    figure = draw_pictures([], [], found.summary)["reliability"]
    titles = [axes.get_title().splitlines() for axes in figure.axes if axes.get_title()]
    assert [title for title, _ in titles] == [
        "before calibration, n = 4",
        "temperature, n = 4",
        "temperature + bias, n = 4",
    ]
    shown = [float(said.split()[1]) for _, said in titles]
    idh = found.summary["idh"]
    wanted = [idh["calibration_errors"][0], *(one["after"]["calibration_error"] for one in idh["calibrations"])]
    assert shown == pytest.approx([one["ece"] for one in wanted], abs=5e-4)


def test_without_validation_cases_the_reason_is_there(write_predictions, evaluate, cohort):
    only_test = write_predictions("a", cases=cohort.split("test"))
    summary = evaluate(only_test).summary
    assert len(summary["idh"]["at_thresholds"]) == 1
    assert summary["idh"]["calibrations"] == []
    assert "0 mutant and 0 wild type" in summary["idh"]["not_fitted"]
    assert any("threshold 0.5 only" in line for line in describe_cases(summary))


def test_validation_cases_are_not_scored_with_what_was_fitted_on_them(write_predictions, evaluate):
    summary = evaluate(write_predictions("a"), split="val").summary
    assert [one["chosen_on"] for one in summary["idh"]["at_thresholds"]] == ["default"]
    assert (summary["idh"]["fitted_on"]["num_cases"], summary["idh"]["calibrations"]) == (0, [])
    assert summary["baselines"]["fitted_on"] == 2


def test_baselines_are_fitted_on_the_other_splits(write_predictions, evaluate):
    report = evaluate(write_predictions("a")).summary["baselines"]
    found = {one["name"]: one for one in report["baselines"]}
    assert (report["fitted_on"], found["grade"]["num_training"]) == (4, 4)
    assert {name for name, one in found.items() if one["post_operative"]} == {"grade", "age + grade"}
    assert (found["grade"]["auc"]["auc"], found["site"]["auc"]["auc"]) == (1.0, 1.0)
    assert found["grade"]["against_network"]["difference"] == -0.25
    assert report["within_grade"]["low"]["num_mutant"] == 2
    assert evaluate(write_predictions("a"), baselines=False).summary["baselines"] is None


def test_two_systems_are_tested_pair_by_pair(write_predictions, evaluate):
    better = write_predictions("better", 0, (0.9, 0.1, 0.8, 0.2, 0.3, 0.1, 0.9, 0.1))
    worse = write_predictions("worse", 2)
    report = evaluate(better, compare=worse).summary["comparison"]
    assert (report["first"], report["second"]) == ("better", "worse")
    tests = {(one["region"], one["score"], one["name"]): one for one in report["segmentation"]}
    assert len(tests) == 3 * 2 * 3
    wt = tests["wt", "dice", "paired t"]
    assert (wt["n"], wt["pairs_left_out"]) == (4, 0)
    assert wt["difference"] > 0 < wt["interval_of_difference"]["low"]
    assert wt["p"] <= wt["p_holm"] <= 1
    assert tests["wt", "hd95_mm", "paired t"]["p"] is None  # always 2 mm: no spread to test against
    assert tests["wt", "hd95_mm", "Wilcoxon signed-rank"]["p"] == pytest.approx(2 / 2**4)
    assert report["idh"]["auc"]["difference"] == 0.25
    assert (report["idh"]["accuracy"]["statistic"], report["idh"]["accuracy"]["p"]) == (2.0, 0.5)


def test_pairs_without_a_score_are_left_out_and_counted(write_predictions, evaluate):
    full = write_predictions("full")
    missing = write_predictions("missing", change=lambda seg: np.where(seg == 4, 1, seg))
    for empty, left_out in (("exclude-empty", 4), ("brats2023", 0)):
        tests = evaluate(full, compare=missing, empty=empty).summary["comparison"]
        et = next(one for one in tests["segmentation"] if (one["region"], one["score"]) == ("et", "hd95_mm"))
        assert (et["n"], et["pairs_left_out"]) == (4 - left_out, left_out)


def test_a_baseline_that_is_perfect_is_not_tested_and_the_reason_is_shown(write_predictions, evaluate):
    summary = evaluate(write_predictions("a")).summary
    (table,) = [table for table in build_tables(summary) if "Without images" in str(table.title)]
    assert "against grade: no p, an AUC's own variance is 0" in str(table.caption)
    alike = evaluate(write_predictions("b"), compare=write_predictions("c")).summary
    assert alike["comparison"]["idh"]["auc"]["p"] == 1.0
    assert build_tables(alike)[-1].caption is None


def test_synthetic_data_are_called_so(write_predictions, evaluate, cohort, tmp_path):
    told = "the data are synthetic: these scores say nothing about patients"
    for synthetic in (True, False):
        write_manifest(replace(cohort, synthetic=synthetic), tmp_path / "m.parquet")
        summary = evaluate(write_predictions("a"), tmp_path / "m.parquet").summary
        assert (told in describe_cases(summary)) == synthetic


def test_failed_cases_are_named_and_in_no_score(write_predictions, evaluate, cohort):
    broken = cohort.split("test")[0].case_id
    summary = evaluate(write_predictions("a", failed=[broken])).summary
    assert summary["cases"]["failed"] == {"a": [broken]}
    assert (summary["cases"]["masks_scored"], summary["cases"]["idh_scored"]) == (3, 3)
    assert f"a: predictions that failed, in no score: {broken}" in describe_cases(summary)


def test_what_is_written_can_be_read_again_and_is_replaced_whole(write_predictions, evaluate, tmp_path, monkeypatch):
    out = tmp_path / "out"
    found = evaluate(write_predictions("a"), compare=write_predictions("b", 2))
    for save in (save_empty, save_figure):  # the second takes the place of the first
        monkeypatch.setattr("mttu.report.files.save_figure", save)
        tables = found.fact_rows, found.baseline_rows
        write_evaluation(out, found.region_rows, found.idh_rows, found.summary, *tables)
        assert sorted(path.name for path in out.iterdir()) == sorted(OWN_FILES)
    assert min(path.stat().st_size for path in out.iterdir()) > 100
    table = pq.read_table(out / "case_scores.parquet")
    assert table.to_pylist() == found.region_rows
    assert table.num_rows == 2 * 4 * 3
    assert table.schema.metadata[b"format_version"] == b"2"
    assert pyarrow.csv.read_csv(out / "case_scores.csv")["dice"].to_pylist() == pytest.approx(table["dice"].to_pylist())
    assert pq.read_table(out / "case_idh.parquet").to_pylist() == found.idh_rows
    assert pq.read_table(out / "case_facts.parquet").to_pylist() == found.fact_rows
    assert pq.read_table(out / "case_baselines.parquet").to_pylist() == found.baseline_rows
    content = json.loads((out / "summary.json").read_text())
    assert content == {**json.loads(json.dumps(found.summary)), "format_version": 2}


def test_a_network_without_an_idh_head(write_predictions, evaluate):
    found = evaluate(write_predictions("a", probabilities=[None] * 8))
    assert (found.summary["idh"], found.summary["baselines"], found.idh_rows) == (None, None, [])
    assert len(build_tables(found.summary)) == 1


def test_a_cohort_without_masks(write_predictions, evaluate, cohort, tmp_path):
    bare = replace(cohort, cases=tuple(replace(case, seg=None) for case in cohort.cases))
    write_manifest(bare, tmp_path / "bare.parquet")
    found = evaluate(write_predictions("a"), tmp_path / "bare.parquet")
    assert (found.summary["segmentation"], found.region_rows) == (None, [])
    assert found.summary["cases"]["without_true_mask"] == 4
    assert found.summary["idh"]["at_thresholds"][0]["num_cases"] == 4


def test_conventions_come_with_the_predictions_unless_they_are_named(write_predictions, manifest, tmp_path):
    """No true enhancing tumour and none predicted: what validation counted as 1 is 1 here, too."""
    about = {"labels": "brats", "checkpoint": "run/best"}
    kept = {name: write_predictions(name, metadata=about) for name in ("old", "same")}
    excluding = {**about, "metrics": json.dumps({"empty_dice": "exclude", "empty_hd95": "brats2020"})}
    kept["other"] = write_predictions("other", metadata=excluding)
    found = {
        name: plan_evaluation(folder, manifest, tmp_path / "out").metrics.model_dump() for name, folder in kept.items()
    }
    assert found["old"] == {"empty_dice": "brats", "empty_hd95": "exclude"}
    assert found["other"] == {"empty_dice": "exclude", "empty_hd95": "brats2020"}
    named = plan_evaluation(kept["other"], manifest, tmp_path / "out", empty="brats2023", empty_dice="exclude").metrics
    assert (named.empty_dice, named.empty_hd95) == ("exclude", "brats2023")
    with pytest.raises(InputError) as caught:
        plan_evaluation(kept["old"], manifest, tmp_path / "out", compare=kept["other"])
    assert caught.value.problems == [
        "comparison: empty masks would count as Dice brats, HD95 exclude for old; Dice exclude, HD95 brats2020 for "
        "other; choose one for both: --empty-dice and --empty-hd95"
    ]
    plan_evaluation(kept["old"], manifest, tmp_path / "out", compare=kept["other"], empty="brats2020")


def test_every_row_is_counted_by_the_convention_that_it_names(write_predictions, evaluate, monkeypatch):
    def say(case, system, looks):
        voxels = RegionScores("both-empty", specificity=1.0, predicted_ml=0.0, truth_ml=0.0)
        return {"et": vars(voxels) | vars(LesionScores(1.0, 0.0, 0, 0, 0))}

    monkeypatch.setattr("mttu.report.evaluation.score_masks", say)
    predictions = write_predictions("a")
    for empty_dice, dice in (("brats", 1.0), ("exclude", None)):
        found = evaluate(predictions, empty_dice=empty_dice)
        assert {(row["status"], row["dice"], row["empty_dice"]) for row in found.region_rows} == {
            ("both-empty", dice, empty_dice)
        }
        assert found.summary["segmentation"]["et"]["metrics"]["dice"]["mean"] == dice
        assert found.summary["empty_masks"] == f"Dice {empty_dice}, HD95 exclude"


def test_a_head_that_never_learned_is_named_and_not_compared(write_predictions, evaluate):
    reason = "no IDH probability: no training case had a known IDH status"
    about = {"labels": "brats", "checkpoint": "run/best"}
    about |= {"missing": json.dumps({"idh": reason}), "notes": json.dumps([reason])}
    silent = write_predictions("silent", probabilities=[None] * 8, metadata=about)
    found = evaluate(write_predictions("full"), compare=silent)
    assert (found.summary["comparison"]["idh"], len(found.summary["comparison"]["segmentation"])) == ({}, 18)
    assert f"silent: {reason}" in describe_cases(found.summary)
    assert len(build_tables(found.summary)) == 5
