import numpy as np
import pytest

from mttu.data.labels import REGIONS
from mttu.metrics.delong import estimate_auc
from mttu.metrics.empty_masks import BOTH, METRICS, STATUSES
from mttu.metrics.roc_bands import RocBand
from mttu.report.evaluation import report_segmentation
from mttu.report.files import draw_pictures

IDH = [0, 0, 0, 1, 1, 1]
FIRST, SECOND = [0.1, 0.3, 0.6, 0.4, 0.8, 0.9], [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]


def idh_rows(system, probabilities):
    return [
        {
            "case_id": f"c{index}",
            "patient_id": f"c{index}",
            "system": system,
            "idh": idh,
            "mutant_probability": probability,
        }
        for index, (idh, probability) in enumerate(zip(IDH, probabilities, strict=True))
    ]


def region_row(case_id, region, status, dice, hd95_mm):
    who = {"case_id": case_id, "patient_id": case_id, "system": "a", "region": region, "status": status}
    return {**dict.fromkeys(METRICS), **who, "dice": dice, "hd95_mm": hd95_mm}


def reliability_of(probabilities):
    bar = {"low": 0.5, "high": 1.0, "num_cases": 6, "mean_confidence": 0.75}
    return {
        "reliability": [{**bar, "accuracy": {"estimate": 0.5, "low": 0.2, "high": 0.8}}],
        "calibration_errors": [
            {"binning": "adaptive", "ece": 0.9, "interval": {"low": 0.8, "high": 1.0}},
            {"binning": "equal-width", "ece": 0.25, "interval": {"low": 0.1, "high": 0.4}},
        ],
        "calibrations": [],
    }


def test_curves_have_the_area_that_the_tables_give_and_every_system_is_drawn():
    rows = [*idh_rows("a", FIRST), *idh_rows("b", SECOND)]
    figures = draw_pictures([], rows, {"idh": None, "systems": [{"name": "a"}]})
    assert list(figures) == ["roc"]
    lines = [line for line in figures["roc"].axes[0].get_lines() if len(line.get_xdata()) > 2]
    areas = [float(np.trapezoid(line.get_ydata(), line.get_xdata())) for line in lines]
    assert areas == pytest.approx([8 / 9, 0.0])
    assert areas == pytest.approx([estimate_auc(FIRST, IDH).auc, estimate_auc(SECOND, IDH).auc])


@pytest.mark.parametrize(("summary", "drawn"), [({"num_resamples": 7}, 7), ({}, 500)])
def test_the_bands_of_curves_are_of_as_many_resamples_as_the_intervals(summary, drawn, monkeypatch):
    asked = []
    monkeypatch.setattr("mttu.report.files.bootstrap_roc", lambda *given: asked.append(given[3]) or RocBand())
    draw_pictures([], idh_rows("a", FIRST), {"idh": None, "systems": [{"name": "a"}], **summary})
    assert asked == [drawn]


def test_reliability_takes_the_bins_and_the_equal_width_error():
    figures = draw_pictures([], [], {"idh": reliability_of(FIRST), "systems": [{"name": "a"}]})
    assert list(figures) == ["reliability"]
    words = " ".join(text.get_text() for axes in figures["reliability"].axes for text in [axes.title, *axes.texts])
    assert "ECE 0.250 [0.100, 0.400]" in words
    assert "0.9" not in words


def test_regions_that_are_not_defined_are_not_drawn():
    rows = [region_row("c0", "wt", "normal", 0.9, 2.0), region_row("c0", "tc", "not-defined", None, None)]
    figures = draw_pictures(
        rows, [], {"idh": None, "systems": [{"name": "a"}], "empty_dice": "exclude", "empty_hd95": "exclude"}
    )
    assert list(figures) == ["segmentation"]
    points = [np.asarray(dots.get_offsets()) for dots in figures["segmentation"].axes[0].collections]
    assert [y for group in points for _, y in group.tolist()] == [0.9]


@pytest.mark.parametrize("convention", BOTH)
def test_means_and_numbers_are_those_of_the_summary(convention):
    """Every status in every region; a mean of the raw rows would differ under each convention."""
    scores = {
        "normal": (0.8, 2.0),
        "missed": (0.0, None),
        "spurious": (None, None),
        "both-empty": (None, None),
        "not-defined": (None, None),
    }
    rows = [
        region_row(f"{status}{number}", region, status, *scores[status])
        for number in range(3)
        for region in REGIONS
        for status in STATUSES
    ]
    summary = {"idh": None, "systems": [{"name": "a"}], **BOTH[convention].model_dump()}
    report = report_segmentation(rows, BOTH[convention], num_resamples=20)
    figure = draw_pictures(rows, [], summary)["segmentation"]
    panels, note = figure.axes, figure.get_supxlabel()
    assert f"({BOTH[convention].empty_dice})" in note
    assert f"({BOTH[convention].empty_hd95})" in note
    for axes, metric in zip(panels, ("dice", "hd95_mm"), strict=True):
        wanted = [report[region]["metrics"][metric] for region in REGIONS]
        assert [text.get_text() for text in axes.texts] == [str(one["n"]) for one in wanted]
        means = [float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "D"]
        assert means == pytest.approx([one["mean"] for one in wanted])
        assert axes.get_ylim()[0] < min(means) <= max(means) < axes.get_ylim()[1]
