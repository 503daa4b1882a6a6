"""Nothing sticks out of the page, and legends and small print lie on nothing: seen on busy, made-up tables."""

import numpy as np
import pytest
from figure_contents import find_collisions

from mttu.figures.case_scores import CaseScore, draw_case_scores
from mttu.figures.curves import PANELS, draw_curves
from mttu.figures.estimates import Estimate
from mttu.figures.features import FeatureCase, draw_feature_maps
from mttu.figures.reliability import (
    Reliability,
    ReliabilityBin,
    UncertaintyBin,
    UncertaintyCurve,
    draw_ece_by_uncertainty,
    draw_reliability,
)
from mttu.figures.roc import RocCurve, draw_roc
from mttu.figures.rounds import RoundScore, RoundSelection, draw_rounds
from mttu.figures.selection import (
    Candidate,
    MethodSelection,
    SelectionRow,
    draw_candidates,
    draw_pseudo_labels,
    draw_selection_error,
)
from mttu.figures.surface import SurfaceCase, draw_surface_distance

SYSTEMS = ("U-Net", "V-Net", "DMFNet", "UNETR", "SGPNet", "CMSVNet", "MA-MTLN", "MTTU-Net")


def reliability():
    bins = [
        ReliabilityBin(low / 10, (low + 1) / 10, 7, low / 10 + 0.05, Estimate(0.9, 0.1, 1.0)) for low in range(5, 10)
    ]
    return draw_reliability([Reliability("temperature + bias", bins, Estimate(0.1, 0.05, 0.2))] * 3)


def ece_by_uncertainty():
    bins = [UncertaintyBin(low / 20, (low + 1) / 20, 30 * (low % 2), Estimate(0.2, 0.1, 0.7), 0.15) for low in range(6)]
    return draw_ece_by_uncertainty([UncertaintyCurve(name, bins, Estimate(0.1, 0.05, 0.2)) for name in ("Val", "Test")])


def selection_error(columns=2):
    rows = [
        SelectionRow(level, uncertainty, 30 - place, place, 30)
        for level in (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
        for place, uncertainty in enumerate((0.01, 0.05, 0.1, 0.2))
    ]
    return draw_selection_error({f"Set {number}": rows for number in range(columns)}, (0.9, 0.05))


def candidates():
    rows = [
        Candidate(str(place), 0.5 + place / 24, place / 50, place % 2, place % 3 - 1, selected=place == 10)
        for place in range(12)
    ]
    return draw_candidates(rows, 0.9, 0.3, "Unlabelled", balanced=True)


def pseudo_labels():
    rows = [MethodSelection(name, 120, 101, 99, 88, Estimate(None, 0.8, 0.9)) for name in ("PL", "CPL", "UPS")]
    return draw_pseudo_labels({"Validation": rows, "Test": rows}, {"Validation": 221, "Test": 221})


def rounds():
    scores = [
        RoundScore(method, number, metric, [0.8, 0.9])
        for method in ("PL", "CPL", "UPS")
        for number in range(5)
        for metric in ("accuracy (%)", "AUC", "Dice WT")
    ]
    selections = [RoundSelection(method, 1, 120, 192) for method in ("PL", "CPL", "UPS")]
    return draw_rounds(scores, selections, {"UPS": 3})


def roc():
    curve = RocCurve("MTTU-Net", [0, 0.2, 1], [0, 0.9, 1], Estimate(0.9, 0.8, 0.95), 32, 38)
    return draw_roc([curve] * 4)


def case_scores():
    rows = [
        CaseScore(str(number), system, region, (number % 9) / 8, 373.12866 if number == 3 else number * 2.0)
        for system in SYSTEMS
        for region in ("wt", "tc", "et")
        for number in range(9)
    ]
    return draw_case_scores(rows, 373.12866)


def curves():
    names = [name for panel in PANELS for name in panel[2]]
    return draw_curves([{"epoch": epoch, **dict.fromkeys(names, 1 / epoch)} for epoch in range(1, 60)])


def lesion():
    classes = np.zeros((20, 24, 16), np.uint8)
    classes[4:15, 5:18, 3:12] = 2
    classes[6:12, 8:14, 5:9] = 1
    classes[7:10, 9:12, 5:8] = 3
    return np.random.default_rng(0).normal(5, 1, classes.shape).astype(np.float32), classes


def surface_distance(num_systems=5):
    truth = lesion()[1] > 0
    case = SurfaceCase("case-1, IDH mutant", truth, {name: np.roll(truth, 1, 0) for name in SYSTEMS[:num_systems]})
    return draw_surface_distance([case] * (2 if num_systems > 1 else 1), pixels=20)


def feature_maps():
    image, classes = lesion()
    levels = {f"F{level}": np.random.default_rng(0).normal(size=(512, 4, 4, 4)) for level in range(1, 6)}
    return draw_feature_maps([FeatureCase(f"case-{number},\nIDH mutant", image, classes, levels) for number in (1, 2)])


FIGURES = (
    reliability,
    ece_by_uncertainty,
    selection_error,
    lambda: selection_error(1),
    candidates,
    pseudo_labels,
    rounds,
    roc,
    case_scores,
    curves,
    surface_distance,
    lambda: surface_distance(1),
    feature_maps,
)


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__.strip("<>"))
def test_legends_and_small_print_lie_on_nothing(draw):
    assert find_collisions(draw()) == []
