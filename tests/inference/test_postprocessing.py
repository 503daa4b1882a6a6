"""Components of masks: what a rule drops, and which rules validation chooses; all by hand."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mttu.config.data import MetricSettings
from mttu.errors import InputError
from mttu.inference.postprocessing import (
    POSTPROCESSING,
    KeptPostprocessing,
    Rule,
    ScoredMask,
    choose_rules,
    fit_postprocessing,
    postprocess,
    read_postprocessing,
    write_postprocessing,
)
from mttu.patients import PatientKey, drop_patients, name_patients

BRATS = MetricSettings(empty_dice="brats", empty_hd95="exclude")
ALL = ("wt", "tc", "et")


def line(text):
    """A mask (len, 1, 1), one digit a voxel."""
    return np.array([int(sign) for sign in text], np.uint8).reshape(-1, 1, 1)


def shown(mask):
    return "".join(map(str, mask.ravel()))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, "22200200233102"),
        ({"wt": Rule(largest_only=True)}, "00000000233100"),
        ({"wt": Rule(min_mm3=2.0)}, "22200000233100"),
        ({"wt": Rule(min_mm3=3.5)}, "00000000233100"),
        ({"wt": Rule(min_mm3=99.0)}, "00000000233100"),  # the largest of WT stays, however small
        ({"tc": Rule(min_mm3=4.0)}, "22200200222202"),
        ({"et": Rule(min_mm3=3.0)}, "22200200211102"),
        ({"tc": Rule(min_mm3=3.0), "et": Rule(min_mm3=3.0)}, "22200200211102"),
    ],
)
def test_a_rule_drops_components_of_its_region(rules, expected):
    mask = line("22200200233102")
    before = mask.copy()
    assert shown(postprocess(mask, rules, 1.0)) == expected
    assert np.array_equal(mask, before)


def test_volumes_are_in_mm3_and_the_first_of_equal_components_is_the_largest():
    assert shown(postprocess(line("220222"), {"wt": Rule(min_mm3=5.0)}, 2.0)) == "000222"
    assert shown(postprocess(line("220222"), {"wt": Rule(min_mm3=4.0)}, 2.0)) == "220222"
    assert shown(postprocess(line("22022"), {"wt": Rule(largest_only=True)}, 1.0)) == "22000"
    assert shown(postprocess(line("00000"), {"wt": Rule(largest_only=True)}, 1.0)) == "00000"


def test_voxels_that_share_a_corner_belong_together():
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 4  # whole tumour without parts
    assert np.array_equal(postprocess(mask, {"wt": Rule(largest_only=True)}, 1.0), mask)
    mask[1, 1, 1], mask[2, 2, 2] = 0, 4
    assert postprocess(mask, {"wt": Rule(largest_only=True)}, 1.0).nonzero() == ([0], [0], [0])


def specks(truth_second=False):
    """A tumour of 1200 mm3 and a speck of 80 mm3, which is true or not; voxels of 20 mm3."""
    predicted = line("2" * 60 + "0" * 10 + "2222")
    truth = predicted.copy()
    if not truth_second:
        truth[70:] = 0
    return ScoredMask(predicted, truth, (2.0, 2.0, 5.0), ALL)


def test_the_mildest_rule_that_drops_the_specks_is_chosen():
    rules = choose_rules([specks()], BRATS)
    assert rules == {"wt": Rule(min_mm3=100.0)}  # 500, 1000 and the largest alone are as good; 50 leaves the speck


def test_what_helps_no_case_is_not_chosen():
    assert choose_rules([specks(truth_second=True)], BRATS) == {}
    assert choose_rules([], BRATS) == {}


def test_a_rule_that_hurts_one_case_more_than_it_helps_another_is_not_chosen():
    assert choose_rules([specks(), specks(truth_second=True)], BRATS) == {}  # 120/124 each way: a tie, so nothing
    assert choose_rules([specks(), specks(), specks(truth_second=True)], BRATS) == {"wt": Rule(min_mm3=100.0)}


def test_enhancing_specks_become_necrosis_and_the_scores_stand_before_and_after():
    predicted = line("2" * 50 + "1" * 50 + "3")
    truth = line("2" * 50 + "1" * 51)
    kept = fit_postprocessing([ScoredMask(predicted, truth, (1.0, 1.0, 1.0), ALL)], BRATS, ["one left out"])
    assert kept.rules == {"et": Rule(min_mm3=10.0)}
    assert kept.before == {"dice_wt": 1.0, "dice_tc": 1.0, "dice_et": 0.0, "hd95_wt": 0.0, "hd95_tc": 0.0}
    assert kept.after == {"dice_wt": 1.0, "dice_tc": 1.0, "dice_et": 1.0, "hd95_wt": 0.0, "hd95_tc": 0.0}
    assert "ET no component below 10 mm3" in kept.describe()
    assert "Dice ET 0.000 before, 1.000 after" in kept.describe()


def test_hd95_tells_of_a_speck_far_away():
    kept = fit_postprocessing([specks()], BRATS)
    assert kept.before["hd95_wt"] > 5
    assert kept.after["hd95_wt"] == 0.0
    assert kept.before["dice_wt"] == pytest.approx(120 / 124)


def test_regions_that_a_mask_does_not_define_do_not_count():
    whole = ScoredMask(line("4444004"), line("4444000"), (10.0, 10.0, 10.0), ("wt",))
    kept = fit_postprocessing([whole], BRATS)
    assert set(kept.before) == {"dice_wt", "hd95_wt"}
    assert kept.rules == {"wt": Rule(largest_only=True)}  # voxels of 1000 mm3: no volume drops one


def test_what_is_kept_is_read_back_and_bound_to_its_weights(write_tiny, tmp_path):
    folder = write_tiny(tmp_path / "best")
    assert read_postprocessing(tmp_path) == KeptPostprocessing()
    settings, patients = {"inference.overlap": 0.5}, name_patients(["a"], PatientKey("0123456789abcdef", n=2))
    kept = fit_postprocessing([specks()], BRATS, ["two left out"], settings, patients)
    write_postprocessing(folder, kept)
    assert read_postprocessing(tmp_path) == kept
    shared = drop_patients(json.loads((folder / POSTPROCESSING).read_text()))
    (tmp_path / "other").mkdir()
    other = shutil.copytree(folder, tmp_path / "other" / "best")
    (other / POSTPROCESSING).write_text(json.dumps(shared))
    assert read_postprocessing(other) == replace(kept, patients=None)
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes() + b" ")
    with pytest.raises(InputError, match="chosen for other weights"):
        read_postprocessing(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"rules": {"brain": {"largest_only": True, "min_mm3": 0.0}}},
        {"rules": {"wt": {"largest_only": 1, "min_mm3": 0.0}}},
        {"rules": {"wt": {"largest_only": False, "min_mm3": -1.0}}},
        {"rules": {"wt": {"smallest": 3}}},
        {"rules": []},
        {"before": {"dice_wt": "high"}},
        {"settings": 3},
    ],
)
def test_a_damaged_file_is_refused(write_tiny, tmp_path, change):
    folder = write_tiny(tmp_path / "best")
    write_postprocessing(folder, fit_postprocessing([specks()], BRATS))
    content = json.loads((folder / POSTPROCESSING).read_text())
    content["postprocessing"].update(change)
    (folder / POSTPROCESSING).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"postprocessing\.json: damaged; write it again with `mttu postprocess`"):
        read_postprocessing(folder)
