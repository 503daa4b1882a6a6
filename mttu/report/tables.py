"""The summary of an evaluation as tables for a terminal; what is not defined is a dash, never an empty cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from mttu.config import MetricSettings
from mttu.errors import name_some
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
"""Cases of a class below which DeLong's normal approximation is not to be trusted; a rule of thumb."""


def build_tables(summary: Summary) -> list[Table]:
    """All tables of a summary, in the order in which they are read; what was not scored has none."""
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
    """One sentence each: what was scored, what failed, and what to keep in mind."""
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
    lines += [f"{system['name']}: {note}" for system in summary["systems"] for note in system["notes"]]
    idh = summary["idh"]
    if idh and min(idh["auc_delong"]["num_mutant"], idh["auc_delong"]["num_wild"]) < FEW:
        lines.append(f"fewer than {FEW} cases of an IDH class: DeLong's intervals and p-values are too optimistic")
    if idh and idh["not_fitted"]:
        lines.append(f"threshold 0.5 only, no calibration: {idh['not_fitted']}")
    if idh and not idh["not_fitted"]:
        fitted = idh["fitted_on"]
        lines.append(f"threshold and calibration: fitted on {fitted['num_cases']} {fitted['cases']} cases")
        lines += [f"about that: {note}" for note in fitted["notes"]]
    if idh and idh["several_cases_per_patient"]:
        lines.append(
            "several cases per patient: DeLong and the tests take them as independent; use the bootstrap's intervals"
        )
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return _DASH if value is None else f"{value:.{digits}f}"


def _range(interval: Mapping[str, Any], digits: int = 3) -> str:
    low, high = interval["low"], interval["high"]
    return _DASH if low is None else f"{low:.{digits}f} to {high:.{digits}f}"


def show_p(value: float | None) -> str:
    """A p-value with four decimals; a small one is not shown as 0."""
    return _DASH if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _with_range(value: float | None, interval: Mapping[str, Any]) -> str:
    return f"{_number(value)} ({_range(interval)})" if value is not None else _DASH


def _median(spread: Summary) -> str:
    return _with_range(spread["median"], {"low": spread["lower_quartile"], "high": spread["upper_quartile"]})


def _segmentation(summary: Summary) -> Table:
    regions = summary["segmentation"]
    table = Table("", *(region.upper() for region in regions))
    table.title = f"Segmentation, empty masks: {summary['empty_masks']}"
    conventions = MetricSettings(empty_dice=summary["empty_dice"], empty_hd95=summary["empty_hd95"])
    table.caption = f"{explain_dice(conventions)} {explain_hd95(conventions)}"
    for name, title in _METRICS.items():
        metrics = [region["metrics"][name] for region in regions.values()]
        table.add_row(f"{title}, mean ± std", *(f"{_number(one['mean'])} ± {_number(one['std'])}" for one in metrics))
        if name in ("dice", "hd95_mm"):
            table.add_row("  95 % interval of the mean", *(_range(one["interval_of_mean"]) for one in metrics))
            table.add_row("  median (quartiles)", *(_median(one) for one in metrics))
        table.add_row("  n", *(str(one["n"]) for one in metrics))
    for status in STATUSES:
        table.add_row(f"{status.replace('-', ' ')}, cases", *(str(one["counts"][status]) for one in regions.values()))
    return table


def _idh(idh: Summary) -> Table:
    columns = idh["at_thresholds"]
    first = columns[0]
    table = Table("", *(f"threshold {one['threshold']:.3f} ({one['chosen_on']})" for one in columns))
    table.title = f"IDH, {first['num_cases']} cases, {first['num_mutant']} mutant; 95 % intervals"
    delong = idh["auc_delong"]
    table.add_row("AUC (DeLong)", *(_with_range(delong["auc"], delong) for _ in columns))
    for name, title in _SCORES.items():
        kind = "wilson_intervals" if name in first["wilson_intervals"] else "intervals"
        how = "Wilson" if kind == "wilson_intervals" else "bootstrap"
        table.add_row(f"{title} ({how})", *(_with_range(one[name], one[kind][name]) for one in columns))
    return table


def _calibration(idh: Summary) -> Table:
    table = Table("", "ECE (95 % interval)", "if calibrated", "n", "cross entropy", "Brier")
    table.title = "Calibration, top-label expected calibration error"
    scores = idh["at_thresholds"][0]
    for error in idh["calibration_errors"]:
        title = f"as predicted, {error['num_bins']} {error['binning']} bins"
        table.add_row(title, *_error(error), _number(scores["cross_entropy"]), _number(scores["brier"]))
    for fitted in idh["calibrations"]:
        after = fitted["after"]
        bias = f", bias {fitted['bias']:.2f}" if "bias" in fitted["name"] else ""
        doubt = "" if fitted["determined"] else ", which do not determine it"
        cases = f"{fitted['num_cases']} {idh['fitted_on']['cases']} cases"
        title = f"after temperature {fitted['temperature']:.2f}{bias} ({cases}{doubt})"
        table.add_row(
            title, *_error(after["calibration_error"]), _number(after["cross_entropy"]), _number(after["brier"])
        )
    return table


def _error(error: Summary) -> Sequence[str]:
    return (
        _with_range(error["ece"], error["interval"]),
        _number(error["expected_when_calibrated"]),
        str(error["num_cases"]),
    )


def _baselines(report: Summary) -> Table:
    table = Table("", "known", "n", "AUC (DeLong)", "within low grade", "network minus it", "p", "p (Holm)")
    table.title = f"Without images, fitted on {report['fitted_on']} training cases"
    for one in report["baselines"]:
        auc, against = one["auc"], one["against_network"]
        table.add_row(
            one["name"],
            "after surgery" if one["post_operative"] else "before surgery",
            str(auc["num_mutant"] + auc["num_wild"]),
            _with_range(auc["auc"], auc),
            _number(one["within_low_grade"]["auc"]),
            _number(against["difference"]),
            show_p(against["p"]),
            show_p(against["p_holm"]),
        )
    for grade, auc in report["within_grade"].items():
        count = auc["num_mutant"] + auc["num_wild"]
        table.add_row(f"network, {grade} grade", "", str(count), _with_range(auc["auc"], auc), "", "", "", "")
    table.caption = _say_untested({f"against {one['name']}": one["against_network"] for one in report["baselines"]})
    return table


def _comparison(report: Summary, empty_masks: str) -> Table:
    table = Table("", "test", "n", "left out", "difference", "p", "p (Holm)")
    table.title = f"{report['first']} minus {report['second']}, empty masks: {empty_masks}"
    for test in report["segmentation"]:
        score = _METRICS[test["score"]]
        table.add_row(
            f"{test['region'].upper()} {score}",
            test["name"],
            str(test["n"]),
            str(test["pairs_left_out"]),
            _number(test["difference"]),
            show_p(test["p"]),
            show_p(test["p_holm"]),
        )
    for name, test in report["idh"].items():
        n = test["n"] if "n" in test else test["num_mutant"] + test["num_wild"]
        title = test.get("name", "paired DeLong")
        difference, p = _number(test["difference"]), show_p(test["p"])
        table.add_row(f"IDH {name.replace('auc', 'AUC')}", title, str(n), "0", difference, p, show_p(test["p_holm"]))
    table.caption = _say_untested({"IDH AUC": report["idh"]["auc"]} if report["idh"] else {})
    return table


def _say_untested(tests: Mapping[str, Summary]) -> str | None:
    """Why tests by DeLong have no p, if any has none."""
    return (
        "; ".join(f"{name}: no p, {test['not_tested']}" for name, test in tests.items() if test["not_tested"]) or None
    )
