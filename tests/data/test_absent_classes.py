import numpy as np
import pytest

from mttu.data.absent_classes import (
    Absence,
    count_classes,
    describe_classes,
    find_held_classes,
    note_absences,
    read_absences,
    without_absences,
)


def mask(*classes):
    return np.array(classes, np.uint8).reshape(-1, 1, 1)


def test_no_more_masks_are_read_than_it_takes():
    def masks():
        yield from (None, mask(0, 1, 2), mask(0, 3), None)
        raise AssertionError

    assert find_held_classes(masks()) == ("background", "ncr_net", "edema", "enhancing")
    assert find_held_classes([mask(0, 2), mask(0, 0)]) == ("background", "edema")
    assert find_held_classes([mask(0, 4)]) == ("background",)  # a tumour of unknown parts
    assert find_held_classes([None]) == ()


def test_classes_are_counted_over_the_cases_with_a_mask():
    rows = [
        describe_classes(mask(0, 1, 2, 3), mask(0, 1, 2, 2)),
        describe_classes(mask(0, 0, 2, 2), mask(0, 0, 2, 3)),
        {"dice_wt": None},
    ]
    counts = count_classes(rows)
    assert [counts[f"val/predicted_{name}"] for name in ("background", "ncr_net", "edema", "enhancing")] == [2, 1, 2, 1]
    assert [counts[f"val/true_{name}"] for name in ("background", "ncr_net", "edema", "enhancing")] == [2, 1, 2, 1]
    assert count_classes(rows[2:]) == {}


PREDICTED = "val/predicted_enhancing"


@pytest.mark.parametrize(
    ("earlier", "since"),
    [
        ([], 10),
        ([{"epoch": 5, PREDICTED: 0.0}, {"epoch": 6}], 5),
        ([{"epoch": 2, PREDICTED: 0.0}, {"epoch": 4, PREDICTED: 1.0}, {"epoch": 6, PREDICTED: 0.0}, {"epoch": 8}], 6),
        ([{"epoch": 9, PREDICTED: 3.0}], 10),
    ],
)
def test_an_absence_says_since_when(earlier, since):
    metrics = {PREDICTED: 0.0, "val/predicted_edema": 0.0, "val/true_enhancing": 2.0, "val/predicted_background": 4.0}
    noted = note_absences(metrics, ("background", "enhancing"), earlier, 10)
    assert noted == {"val/absent_since_enhancing": since}  # no training mask holds edema
    assert read_absences(metrics | noted) == [Absence("enhancing", since, 2)]
    assert without_absences(metrics | noted | {"val/dice": 0.5}) == {"val/dice": 0.5}
    assert read_absences({"train/loss": 1.0}) is None
    assert read_absences(metrics) == []
