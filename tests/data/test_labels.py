import numpy as np
import pytest

from mttu.data.labels import CONVENTIONS, REGIONS, WHOLE_TUMOUR, find_convention, from_classes, knows_parts, to_classes
from mttu.errors import InputError


def test_brats_labels_become_classes_and_come_back():
    seg = np.array([0, 1, 2, 4], np.float32)
    classes = to_classes(seg, "brats", "A")
    assert classes.dtype == np.uint8
    assert classes.tolist() == [0, 1, 2, 3]
    assert from_classes(classes, "brats").tolist() == [0, 1, 2, 4]


def test_brats_2013_joins_necrosis_and_non_enhancing_tumour():
    assert to_classes(np.array([0, 1, 2, 3, 4]), "brats2013", "A").tolist() == [0, 1, 2, 1, 3]
    assert from_classes(np.array([0, 1, 2, 3], np.uint8), "brats2013").tolist() == [0, 1, 2, 4]


def test_an_unknown_label_is_refused_in_one_sentence():
    with pytest.raises(InputError) as caught:
        to_classes(np.array([[0, 1], [2, 3], [4, 0]], np.int16), "brats", "pat0003")
    assert caught.value.problems == [
        "case pat0003: seg has labels {0, 1, 2, 3, 4}; expected a subset of {0, 1, 2, 4} (BraTS to 2021); "
        "pass --labels NAME for another convention"
    ]


@pytest.mark.parametrize(("value", "shown"), [(-1, "{-1, 0}"), (300, "{0, 300}"), (256, "{0, 256}")])
def test_labels_beyond_a_byte_are_refused_with_their_value(value, shown):
    with pytest.raises(InputError, match="case A: seg has labels") as caught:
        to_classes(np.array([0, value], np.int16), "brats", "A")
    assert shown in str(caught.value)


def test_a_scaled_file_may_miss_a_whole_number_by_a_little_but_not_by_much():
    assert to_classes(np.array([0, 0.99999994, 4.0001], np.float32), "brats", "A").tolist() == [0, 1, 3]
    with pytest.raises(InputError, match=r"case A: seg has values \{0.5\} that are not whole numbers"):
        to_classes(np.array([0, 0.5, 2], np.float32), "brats", "A")


def test_an_unknown_convention_names_the_known_ones():
    with pytest.raises(InputError, match=r"labels 'brats99': unknown .* brats \(BraTS to 2021\), brats2013"):
        find_convention("brats99")


def test_regions_are_nested():
    assert set(REGIONS["et"]) < set(REGIONS["tc"]) < set(REGIONS["wt"]) == {1, 2, 3, WHOLE_TUMOUR}


@pytest.mark.parametrize(
    ("convention", "labels", "classes", "written"),
    [
        ("brats2023", [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]),
        ("msd", [0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3]),
        ("brats2024", [0, 1, 2, 3, 4], [0, 1, 2, 3, 0], [0, 1, 2, 3, 0]),
        ("whole-tumour", [0, 1], [0, WHOLE_TUMOUR], [0, 1]),
    ],
)
def test_each_convention_has_its_own_labels(convention, labels, classes, written):
    found = to_classes(np.array(labels), convention, "A")
    assert found.tolist() == classes
    assert from_classes(found, convention).tolist() == written


@pytest.mark.parametrize("convention", ["brats2023", "brats2024-no-cavity"])
def test_a_resection_cavity_is_never_taken_for_enhancing_tumour(convention):
    with pytest.raises(InputError, match=r"labels \{0, 4\}; expected a subset of \{0, 1, 2, 3\}"):
        to_classes(np.array([0, 4]), convention, "A")


def test_predicted_parts_are_written_as_one_whole_tumour():
    assert from_classes(np.array([0, 1, 2, 3], np.uint8), "whole-tumour").tolist() == [0, 1, 1, 1]


def test_one_convention_knows_no_parts():
    assert [name for name in CONVENTIONS if not knows_parts(name)] == ["whole-tumour"]


OTHERS = "brats2013 or brats2023 or brats2024 or brats2024-no-cavity or msd, whichever the data set means"


@pytest.mark.parametrize(
    ("values", "scaling", "said"),
    [
        ([0, 85, 170, 255], (1, 0), f"85 times {{0, 1, 2, 3}}; divide by 85 and round, and pass --labels {OTHERS}"),
        ([0, 64, 128, 255], (1, 0), "they are 63.75 times {0, 1, 2, 4}; divide by 63.75 and round"),
        (
            [0, 127, 255],
            (1, 0),
            "127.5 times {0, 1, 2} or 63.75 times {0, 2, 4}; divide by the one that the data set means and round",
        ),
        ([0, 255], (1, 0), "255 times {0, 1}; divide by 255 and round, and pass --labels whole-tumour if 1 is"),
        ([0, 0.25, 0.5, 1], (1, 0), "they are 0.25 times {0, 1, 2, 4}; divide by 0.25 and round"),
        ([0, 1 / 255, 2 / 255], (1, 0), "they are 0.00392157 times {0, 1, 2}; divide by 0.00392157 and round"),
        ([0, 0.33, 0.67, 1], (1, 0), "they are 0.333333 times {0, 1, 2, 3}; divide by 0.333333 and round, and pass"),
        ([-1, 1, 3, 7], (2, -1), "(scl_slope 2, scl_inter -1), and stored are {0, 1, 2, 4}; set scl_slope to 1"),
        (
            [0, 85, 170, 255],
            (85, 0),
            "its header scales the voxels (scl_slope 85, scl_inter 0), and stored are {0, 1, 2, 3}; set scl_slope to 1 "
            f"and scl_inter to 0, and pass --labels {OTHERS}",
        ),
        ([0, 1, 2, 5], (1, 0), "a subset of {0, 1, 2, 4} (BraTS to 2021); no convention has these; correct the mask"),
        ([0, 10, 20], (1, 0), "a subset of {0, 1, 2, 4} (BraTS to 2021); no convention has these; correct the mask"),
        ([0, 0.5, 2, 4], (1, 0), "expected labels; resample masks by nearest neighbour only"),
        (np.linspace(0, 1, 50), (1, 0), "expected labels; cut a map of probabilities at 0.5; if it is a mask that"),
    ],
)
def test_why_labels_are_none_is_told_by_their_values(values, scaling, said):
    with pytest.raises(InputError) as caught:
        to_classes(np.array(values, np.float32), "brats", "A", scaling)
    assert said in str(caught.value)
