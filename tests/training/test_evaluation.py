import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mttu.config import override
from mttu.data.cache import open_cached
from mttu.inference.windows import VolumePrediction
from mttu.networks import build_network
from mttu.training.evaluation import score_case, summarise


def row(case_id, dice, idh, probability):
    regions = dict(zip(("dice_wt", "dice_tc", "dice_et"), dice, strict=True))
    status = {name.replace("dice", "status"): value and "normal" for name, value in regions.items()}
    return {"case_id": case_id, "idh": idh, "mutant_probability": probability, **regions, **status}


M = "dice_plus_auc"
ROWS = [
    row("a", (0.9, 0.8, 0.7), 1, 0.8),
    row("b", (0.5, 0.4, 0.3), 0, 0.4),
    row("c", (None, None, None), 1, 0.3),
    row("d", (0.1, 0.0, 0.2), -1, 0.9),
]


def test_each_label_counts_where_it_is_known():
    metrics, score = summarise(ROWS, "dice_minus_ce")
    assert metrics["val/dice_wt"] == pytest.approx(0.5)
    assert metrics["val/dice_tc"] == pytest.approx(0.4)
    assert metrics["val/dice_et"] == pytest.approx(0.4)
    assert metrics["val/dice"] == pytest.approx(1.3 / 3)
    assert metrics["val/idh_ce"] == pytest.approx(-(math.log(0.8) + math.log(0.6) + math.log(0.3)) / 3)
    assert metrics["val/idh_accuracy"] == pytest.approx(2 / 3)
    assert metrics["val/idh_auc"] == pytest.approx(0.5)
    assert metrics["val/idh_sensitivity"] == pytest.approx(1 / 2)
    assert metrics["val/idh_specificity"] == 1.0
    assert metrics["val/idh_brier"] == pytest.approx((0.04 + 0.16 + 0.49) / 3)
    assert score == pytest.approx(metrics["val/dice"] - metrics["val/idh_ce"]) == metrics["val/score"]


@pytest.mark.parametrize(("metric", "expected"), [("dice", 1.3 / 3), ("idh_auc", 0.5), ("negative_idh_ce", -0.64598)])
def test_named_scores(metric, expected):
    assert summarise(ROWS, metric)[1] == pytest.approx(expected, abs=1e-4)


def test_dice_plus_auc_is_bounded_and_the_calibrated_cross_entropy_only_breaks_ties():
    low, high = (row(name, (0.5, 0.5, 0.5), idh, p) for name, idh, p in (("a", 0, 0.001), ("b", 1, 0.002)))
    metrics, ordered = summarise([low, high], "dice_plus_auc")  # one confident error, yet the order is right
    assert metrics["val/idh_ce"] > 3.0
    assert ordered == pytest.approx(0.5 + 1.0, abs=0.001)
    assert summarise([replace_probability(low, 0.003), high], "dice_plus_auc")[1] == pytest.approx(0.5, abs=0.001)
    wrong = row("c", (None,) * 3, 0, 0.95)
    sure, unsure = (
        summarise([row("a", (None,) * 3, 0, 0.1), row("b", (None,) * 3, 1, mutant), wrong], M) for mutant in (0.9, 0.2)
    )
    assert sure[0]["val/idh_auc"] == unsure[0]["val/idh_auc"] == 0.5
    for _, score in (sure, unsure):
        assert 0.5 - 0.00075 < score < 0.5
    assert sure[1] > unsure[1]  # b is nearer to its side, at any temperature
    assert summarise([low], M)[1] == 0.5  # one class: no AUC
    assert summarise([row("a", (None,) * 3, 0, 0.1)], M)[1] is None


def replace_probability(one, probability):
    return {**one, "mutant_probability": probability}


def test_what_is_not_defined_is_absent():
    metrics, score = summarise([row("a", (0.9, 0.8, 0.7), -1, None)], "dice_minus_ce")
    counts = {
        f"val/{status}_{region}" for status in ("both_empty", "missed", "spurious") for region in ("wt", "tc", "et")
    }
    assert set(metrics) - counts == {"val/dice_wt", "val/dice_tc", "val/dice_et", "val/dice", "val/score"}
    assert {metrics[name] for name in counts} == {0.0}
    assert score == pytest.approx(0.8)
    assert summarise([], "dice_minus_ce") == ({}, None)
    assert summarise([row("a", (0.9, 0.8, 0.7), 1, 0.8)], "idh_auc")[1] is None


def test_empty_masks_are_counted_beside_the_mean():
    rows = [
        {**row("a", (0.9, 0.8, 1.0), -1, None), "status_et": "both-empty"},
        {**row("b", (0.9, 0.8, 0.0), -1, None), "status_et": "missed"},
        {**row("c", (0.9, 0.0, 0.0), -1, None), "status_et": "missed", "status_tc": "spurious"},
    ]
    metrics, _ = summarise(rows, "dice")
    assert metrics["val/dice_et"] == pytest.approx(1 / 3)
    counts = {"val/both_empty_et": 1, "val/missed_et": 2, "val/spurious_tc": 1, "val/missed_wt": 0}
    assert {name: metrics[name] for name in counts} == counts


def test_a_whole_tumour_mask_scores_the_whole_tumour_only(tiny, phantom_manifest, phantom_cache):
    case = phantom_manifest.cases[0]
    cached, network = open_cached(phantom_cache, case.case_id), build_network(tiny.network)
    for labels, defined in (("brats", {"wt", "tc", "et"}), ("whole-tumour", {"wt"})):
        scores = score_case(network, replace(case, labels=labels), cached, tiny, torch.device("cpu"), "float32")
        assert {name for name in ("wt", "tc", "et") if scores[f"dice_{name}"] is not None} == defined
        assert {name for name in ("wt", "tc", "et") if scores[f"status_{name}"] is not None} == defined


@pytest.mark.parametrize(
    ("convention", "dice", "mean"), [("brats", {"both-empty": 1.0, "spurious": 0.0}, 0.5), ("exclude", {}, None)]
)
def test_empty_masks_count_as_the_setting_says(
    tiny, phantom_manifest, phantom_cache, monkeypatch, convention, dice, mean
):
    """Two cases without enhancing tumour: one where the network finds none, one where it does."""
    case = phantom_manifest.cases[0]
    cached = open_cached(phantom_cache, case.case_id)
    truth = np.where(np.asarray(cached.seg) == 3, 1, np.asarray(cached.seg))
    config = override(tiny, {"metrics.empty_dice": convention})
    rows = []
    for status, change in (("both-empty", []), ("spurious", [3])):
        classes = truth.copy()
        classes.flat[: len(change)] = change
        probabilities = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), 4).permute(3, 0, 1, 2).float()
        prediction = VolumePrediction(probabilities, None)
        monkeypatch.setattr("mttu.training.evaluation.predict_volume", lambda *_, said=prediction: said)
        monkeypatch.setattr("mttu.training.evaluation.read_prepared", lambda *_: None)
        network, known = SimpleNamespace(learned_parts=True), replace(cached, seg=truth)
        row = score_case(network, case, known, config, torch.device("cpu"), "float32")
        assert (row["status_et"], row["dice_et"]) == (status, dice.get(status))
        rows.append({**row, "case_id": status})
    metrics, _ = summarise(rows, "dice")
    assert metrics.get("val/dice_et") == mean
    assert (metrics["val/both_empty_et"], metrics["val/spurious_et"]) == (1.0, 1.0)  # the counts are there anyway
