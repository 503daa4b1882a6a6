"""The summary of an evaluation as tables for a terminal; what is not defined is shown as a dash."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from mttu.config import MetricSettings
from mttu.data.labels import REGIONS
from mttu.errors import name_some, say_count
from mttu.metrics.empty_masks import STATUSES, explain_dice, explain_hd95

Summary = Mapping[str, Any]

_METRICS = {
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "volume_difference_ml": "volume difference (ml)",
    "relative_volume_difference": "relative volume difference",
}
_SCORES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "brier": "Brier",
}
_DASH = "-"
FEW = 10
"""Cases of a class below which DeLong's normal approximation is too rough; a rule of thumb."""


def build_tables(summary: Summary) -> list[Table]:
    """All tables of a summary, in reading order; there is none for what was not scored."""
    tables = []
    if summary["segmentation"]:
        tables.append(_segmentation(summary))
    if summary["idh"]:
        tables += [_idh(summary["idh"]), _calibration(summary["idh"])]
    if summary["baselines"]:
        tables.append(_baselines(summary["baselines"]))
    if summary["comparison"]:
        tables.append(_comparison(summary["comparison"], summary["empty_masks"]))
    return tables


def describe_cases(summary: Summary) -> list[str]:
    """Sentences on what was scored, what failed, and what limits the scores."""
    cases = summary["cases"]
    lines = [
        f"split {summary['split']}: {cases['in_split']} cases, {cases['masks_scored']} masks and "
        f"{cases['idh_scored']} IDH probabilities scored, {cases['without_true_mask']} without a true mask"
    ]
    if summary["synthetic"]:
        lines.append("the data are synthetic: these scores say nothing about patients")
    for name, failed in cases["failed"].items():
        if failed:
            lines.append(f"{name}: predictions that failed, in no score: {', '.join(failed)}")
    for name, known in cases["learned_from"].items():
        if known:
            lines.append(f"{name}: was trained on patients of the same ids as {name_some(known)}: no fair test")
    for name, silent in cases["learned_from_not_said"].items():
        if silent:
            lines.append(f"{name}: does not say whom it was trained on: whether this is a fair test is not known")
    for name, chose in cases.get("postprocessing_chosen_on", {}).items():
        if chose:
            lines.append(
                f"{name}: which components of masks are dropped was chosen on patients of the same ids as "
                f"{name_some(chose)}: their masks' scores are a little too good"
            )
    for name, silent in cases.get("postprocessing_chosen_not_said", {}).items():
        if silent:
            lines.append(
                f"{name}: does not say on whom it was chosen which components of {len(silent)} masks are dropped: "
                "whether their scores are a little too good is not known"
            )
    if count := cases.get("pseudo_labelled", 0):
        cases_of = say_count(count, "case", "cases")
        lines.append(f"the IDH status of {cases_of} of the manifest is a pseudo-label and counts as unknown")
    lines += [f"{system['name']}: {note}" for system in summary["systems"] for note in system["notes"]]
    return [*lines, *_describe_idh(summary["idh"])] if summary["idh"] else lines


def _describe_idh(idh: Summary) -> list[str]:
    lines = []
    if min(idh["auc_delong"]["num_mutant"], idh["auc_delong"]["num_wild"]) < FEW:
        lines.append(f"fewer than {FEW} cases of an IDH class: DeLong's intervals and p-values are too optimistic")
    if idh["not_fitted"]:
        lines.append(f"threshold 0.5 only, no calibration: {idh['not_fitted']}")
    else:
        fitted = idh["fitted_on"]
        lines.append(f"threshold and calibration: fitted on {fitted['num_cases']} {fitted['cases']} cases")
        lines += [f"about that: {note}" for note in fitted["notes"]]
    if idh["several_cases_per_patient"]:
        lines.append(
            "several cases per patient: DeLong and the tests take them as independent; use the bootstrap's intervals"
        )
    return lines


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return _DASH if low is None else f"{low:.3f} to {high:.3f}"


def show_p(value: float | None) -> str:
    """A p-value with four decimals; a small one is not shown as 0."""
    return _DASH if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _with_range(value: float | None, low: float | None, high: float | None) -> str:
    return _DASH if value is None else f"{value:.3f} ({_range(low, high)})"


def _with_interval(value: float | None, interval: Summary) -> str:
    return _with_range(value, interval["low"], interval["high"])


def _segmentation(summary: Summary) -> Table:
    regions = {name: summary["segmentation"][name] for name in REGIONS if name in summary["segmentation"]}
    table = Table("", *(region.upper() for region in regions))
    table.title = f"Segmentation, empty masks: {summary['empty_masks']}"
    conventions = MetricSettings(empty_dice=summary["empty_dice"], empty_hd95=summary["empty_hd95"])
    table.caption = f"{explain_dice(conventions)} {explain_hd95(conventions)}"
    for name, title in _METRICS.items():
        metrics = [region["metrics"][name] for region in regions.values()]
        table.add_row(f"{title}, mean ± std", *(f"{_number(one['mean'])} ± {_number(one['std'])}" for one in metrics))
        if name in ("dice", "hd95_mm"):
            intervals = [one["interval_of_mean"] for one in metrics]
            table.add_row("  95 % interval of the mean", *(_range(one["low"], one["high"]) for one in intervals))
            spreads = [(one["median"], one["lower_quartile"], one["upper_quartile"]) for one in metrics]
            table.add_row("  median (quartiles)", *(_with_range(*spread) for spread in spreads))
        table.add_row("  n", *(str(one["n"]) for one in metrics))
    _add_lesions(table, [summary["lesions"][name] for name in regions])
    for status in STATUSES:
        table.add_row(f"{status.replace('-', ' ')}, cases", *(str(one["counts"][status]) for one in regions.values()))
    return table


_LESIONS = {"lesion_dice": "lesion-wise Dice", "lesion_hd95_mm": "lesion-wise HD95 (mm)"}


def _add_lesions(table: Table, regions: Sequence[Summary]) -> None:
    """Rows of the lesion-wise scores of BraTS 2023."""
    for name, title in _LESIONS.items():
        scores = [one[name] for one in regions]
        table.add_row(f"{title}, mean ± std", *(f"{_number(one['mean'])} ± {_number(one['std'])}" for one in scores))
        intervals = [one["interval_of_mean"] for one in scores]
        table.add_row("  95 % interval of the mean", *(_range(one["low"], one["high"]) for one in intervals))
        table.add_row("  n", *(str(one["n"]) for one in scores))
    counts = [[one[f"num_{name}lesions"] for name in ("", "missed_", "false_")] for one in regions]
    table.add_row("lesions (missed), false ones", *(f"{all_} ({missed}), {false}" for all_, missed, false in counts))


def _idh(idh: Summary) -> Table:
    columns = idh["at_thresholds"]
    first = columns[0]
    table = Table("", *(f"threshold {one['threshold']:.3f} ({one['chosen_on']})" for one in columns))
    table.title = f"IDH, {first['num_cases']} cases, {first['num_mutant']} mutant; 95 % intervals"
    delong = idh["auc_delong"]
    table.add_row("AUC (DeLong)", *(_with_interval(delong["auc"], delong) for _ in columns))
    for name, title in _SCORES.items():
        wilson = name in first["wilson_intervals"]
        kind, how = ("wilson_intervals", "Wilson") if wilson else ("intervals", "bootstrap")
        table.add_row(f"{title} ({how})", *(_with_interval(one[name], one[kind][name]) for one in columns))
    return table


def _calibration(idh: Summary) -> Table:
    table = Table("", "ECE (95 % interval)", "if calibrated", "n", "cross entropy", "Brier")
    table.title = "Calibration, top-label expected calibration error"
    scores = idh["at_thresholds"][0]
    for error in idh["calibration_errors"]:
        title = f"as predicted, {error['num_bins']} {error['binning']} bins"
        table.add_row(title, *_calibration_cells(error, scores))
    for fitted in idh["calibrations"]:
        after = fitted["after"]
        bias = f", bias {fitted['bias']:.2f}" if "bias" in fitted["name"] else ""
        doubt = "" if fitted["determined"] else ", which do not determine it"
        cases = f"{fitted['num_cases']} {idh['fitted_on']['cases']} cases"
        title = f"after temperature {fitted['temperature']:.2f}{bias} ({cases}{doubt})"
        table.add_row(title, *_calibration_cells(after["calibration_error"], after))
    return table


def _calibration_cells(error: Summary, scores: Summary) -> list[str]:
    expected, num_cases = _number(error["expected_when_calibrated"]), str(error["num_cases"])
    losses = [_number(scores[name]) for name in ("cross_entropy", "brier")]
    return [_with_interval(error["ece"], error["interval"]), expected, num_cases, *losses]


def _baselines(report: Summary) -> Table:
    table = Table("", "known", "n", "AUC (DeLong)", "within low grade", "network minus it", "p", "p (Holm)")
    table.title = f"Without images, fitted on {report['fitted_on']} training cases"
    for one in report["baselines"]:
        auc, against = one["auc"], one["against_network"]
        table.add_row(
            one["name"],
            "after surgery" if one["post_operative"] else "before surgery",
            str(auc["num_mutant"] + auc["num_wild"]),
            _with_interval(auc["auc"], auc),
            _number(one["within_low_grade"]["auc"]),
            *_test_cells(against),
        )
    for grade, auc in report["within_grade"].items():
        count = auc["num_mutant"] + auc["num_wild"]
        table.add_row(f"network, {grade} grade", "", str(count), _with_interval(auc["auc"], auc), "", "", "", "")
    table.caption = _say_untested({f"against {one['name']}": one["against_network"] for one in report["baselines"]})
    return table


def _comparison(report: Summary, empty_masks: str) -> Table:
    table = Table("", "test", "n", "left out", "difference", "p", "p (Holm)")
    table.title = f"{report['first']} minus {report['second']}, empty masks: {empty_masks}"
    for test in report["segmentation"]:
        title = f"{test['region'].upper()} {_METRICS[test['score']]}"
        table.add_row(title, test["name"], str(test["n"]), str(test["pairs_left_out"]), *_test_cells(test))
    for name, test in report["idh"].items():
        n = test["n"] if "n" in test else test["num_mutant"] + test["num_wild"]
        title = f"IDH {name.replace('auc', 'AUC')}"
        table.add_row(title, test.get("name", "paired DeLong"), str(n), "0", *_test_cells(test))
    table.caption = _say_untested({"IDH AUC": report["idh"]["auc"]} if report["idh"] else {})
    return table


def _test_cells(test: Summary) -> list[str]:
    return [_number(test["difference"]), show_p(test["p"]), show_p(test["p_holm"])]


def _say_untested(tests: Mapping[str, Summary]) -> str | None:
    """Why tests by DeLong have no p, if any has none."""
    reasons = [f"{name}: no p, {test['not_tested']}" for name, test in tests.items() if test["not_tested"]]
    return "; ".join(reasons) or None
