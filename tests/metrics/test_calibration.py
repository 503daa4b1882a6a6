import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mttu.errors import InputError
from mttu.metrics.calibration import (
    Calibration,
    fit_calibration,
    measure_calibration_error,
    tabulate_reliability,
)
from mttu.metrics.classification import score_classification

# case:        a     b     c     d     e     f
PROBABILITY = [0.95, 0.92, 0.15, 0.25, 0.65, 0.62]
IDH = [1, 0, 0, 1, 1, 0]
PATIENTS = list("abcdef")
# called:      1     1     0     0     1     1     right: yes no yes no yes no
# confidence:  0.95  0.92  0.85  0.75  0.65  0.62


def measure(probability, idh, **settings):
    return measure_calibration_error(probability, idh, [str(index) for index in range(len(idh))], **settings)


def test_top_label_by_hand_with_wrong_calls():
    # bins (0.6, 0.7]: 2 cases, 1 right, confidences 1.27; (0.7, 0.8]: 0 right, 0.75; (0.8, 0.9]: 1 right, 0.85;
    # (0.9, 1]: 1 right of 2, 1.87
    assert measure(PROBABILITY, IDH).ece == pytest.approx((0.27 + 0.75 + 0.15 + 0.87) / 6)
    # (0.5, 1]: 3 right of 6, confidences 4.74
    assert measure(PROBABILITY, IDH, num_bins=2).ece == pytest.approx(1.74 / 6)


def positive_class_error(probability, idh, num_bins):
    """What it is not: mutant probability against share of mutants."""
    bins = np.ceil(np.array(probability) * num_bins).astype(int)
    gaps = [(np.array(idh) - probability)[bins == index].sum() for index in range(num_bins + 1)]
    return np.abs(gaps).sum() / len(idh)


@pytest.mark.parametrize(
    ("probability", "idh", "num_bins", "top_label", "positive_class"),
    [
        # wrong calls of mutant (0.85) and of wild type (0.35) share bins with right ones of the other class. Top-label:
        # (0.6, 0.7]: 1 of 2, 1.30; (0.8, 0.9]: 2 of 3, 2.55; (0.9, 1]: 1 of 1, 0.95
        ([0.85, 0.15, 0.85, 0.65, 0.35, 0.95], [0, 0, 1, 1, 1, 1], 10, 0.90 / 6, 1.90 / 6),
        # the example of torchmetrics, where every call is right, so that both definitions give its 0.29 ...
        ([0.25, 0.25, 0.55, 0.75, 0.75], [0, 0, 1, 1, 1], 2, 0.29, 0.29),
        # ... and with one wrong call
        ([0.25, 0.25, 0.55, 0.75, 0.75], [1, 0, 1, 1, 1], 2, (4 - 3.55) / 5, 0.29),
    ],
)
def test_top_label_is_not_positive_class(probability, idh, num_bins, top_label, positive_class):
    assert positive_class_error(probability, idh, num_bins) == pytest.approx(positive_class)
    assert measure(probability, idh, num_bins=num_bins).ece == pytest.approx(top_label)


def test_a_bin_holds_its_upper_edge_and_one_half_is_called_mutant():
    bars = tabulate_reliability([0.9, 0.5, 0.5], [1, 1, 0])
    assert [(bar.low, bar.high, bar.num_cases) for bar in bars if bar.num_cases] == [(0.4, 0.5, 2), (0.8, 0.9, 1)]
    assert bars[4].accuracy.estimate == 0.5


def test_adaptive_bins_hold_equal_numbers():
    # sorted 0.62 0.65 | 0.75 0.85 | 0.92 0.95: right 1, 1, 1
    expected = (abs(1 - 1.27) + abs(1 - 1.60) + abs(1 - 1.87)) / 6
    found = measure(PROBABILITY, IDH, num_bins=3, binning="adaptive")
    assert found.ece == pytest.approx(expected)
    bars = tabulate_reliability(PROBABILITY, IDH, num_bins=3, binning="adaptive")
    assert [bar.num_cases for bar in bars] == [2, 2, 2]
    assert (bars[0].low, bars[-1].high) == (0.0, 1.0)


@pytest.mark.parametrize(("num_cases", "num_bins"), [(4, 1), (14, 2), (49, 9), (200, 10)])
def test_adaptive_bins_have_five_cases_at_least(num_cases, num_bins):
    probability = [0.5 + 0.4 * index / num_cases for index in range(num_cases)]
    idh = [index % 2 for index in range(num_cases)]
    assert measure(probability, idh, binning="adaptive").num_bins == num_bins
    bars = tabulate_reliability(probability, idh, binning="adaptive")
    assert len(bars) == num_bins
    assert min(bar.num_cases for bar in bars) >= min(5, num_cases)
    assert measure(probability, idh).num_bins == len(tabulate_reliability(probability, idh)) == 10


def test_equal_confidences_share_an_adaptive_bin_in_any_order():
    probability, idh = [0.8, 0.8, 0.8, 0.8, 0.9], [1, 0, 1, 1, 1]
    bars = tabulate_reliability(probability, idh, num_bins=3, binning="adaptive")
    assert [(bar.num_cases, bar.accuracy.estimate) for bar in bars] == [(4, 0.75), (1, 1.0)]
    again = measure(probability[::-1], idh[::-1], num_bins=3, binning="adaptive").ece
    assert again == pytest.approx(measure(probability, idh, num_bins=3, binning="adaptive").ece)
    alike = tabulate_reliability([0.7] * 4, [1, 1, 0, 1], binning="adaptive")
    assert [(bar.num_cases, bar.accuracy.estimate) for bar in alike] == [(4, 0.75)]


def test_reliability_has_counts_and_wilson_intervals():
    bars = tabulate_reliability(PROBABILITY, IDH)
    assert [bar.num_cases for bar in bars] == [0, 0, 0, 0, 0, 0, 2, 1, 1, 2]
    top = bars[-1]
    assert (top.mean_confidence, top.accuracy.estimate) == (pytest.approx(0.935), 0.5)
    assert (top.accuracy.low, top.accuracy.high) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert (bars[0].mean_confidence, bars[0].accuracy.estimate, bars[0].accuracy.low) == (None, None, None)


def test_the_error_comes_with_n_and_an_interval():
    found = measure(PROBABILITY, IDH)
    assert (found.num_cases, found.num_bins, found.binning) == (6, 10, "equal-width")
    assert found.interval.estimate == found.ece
    assert 0 <= found.interval.low < found.interval.high <= 1
    assert found.interval.num_resamples == 2000
    with_unknown = measure([*PROBABILITY, 0.99], [*IDH, -1])
    assert with_unknown == found


def test_patients_are_drawn_whole():
    probability, idh = PROBABILITY * 2, IDH * 2
    together = measure_calibration_error(probability, idh, PATIENTS * 2)
    assert together.interval.low == pytest.approx(measure_calibration_error(PROBABILITY, IDH, PATIENTS).interval.low)
    apart = measure(probability, idh)
    assert apart.interval.high - apart.interval.low < together.interval.high - together.interval.low


def test_few_cases_of_a_calibrated_network_show_an_error():
    """The reason why n stands beside it: about 0.13 for 30 cases, and what is reported as expected says so."""
    errors, expected = [], []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        probability = generator.random(30)
        idh = (generator.random(30) < probability).astype(int).tolist()
        found = measure(probability.tolist(), idh, num_resamples=100)
        errors.append(found.ece)
        expected.append(found.expected_when_calibrated)
    assert np.mean(errors) == pytest.approx(0.13, abs=0.02)
    assert np.mean(expected) == pytest.approx(np.mean(errors), abs=0.02)


def test_nothing_and_nonsense():
    nothing = measure([], [])
    assert (nothing.ece, nothing.num_cases, nothing.expected_when_calibrated) == (None, 0, None)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        measure([1.2], [1])
    with pytest.raises(ValueError, match="num_bins is 0"):
        measure([0.5], [1], num_bins=0)


def draw(temperature, bias=0.0, n=4000, seed=0):
    """Probabilities of a network that is off by a temperature and a bias, and the truth."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=1.5, size=n)
    idh = (generator.random(n) < 1 / (1 + np.exp(-(logits + bias)))).astype(int)
    return 1 / (1 + np.exp(-logits * temperature)), idh


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature):
    probability, idh = draw(temperature)
    found = fit_calibration(probability, idh)
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    assert (found.bias, found.num_cases, found.determined) == (0.0, 4000, True)


def test_temperature_and_bias_are_those_of_logistic_regression():
    probability, idh = draw(2.0, bias=0.7, n=300)
    logits = np.log(probability / (1 - probability))[:, None]
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(logits, idh)
    found = fit_calibration(probability, idh, with_bias=True)
    assert 1 / found.temperature == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert found.bias == pytest.approx(reference.intercept_[0], rel=1e-4)


def test_calibration_lowers_the_loss_and_keeps_the_order():
    probability, idh = draw(4.0, bias=1.0, n=200)
    losses = [log_loss(idh, probability)]
    for with_bias in (False, True):
        found = fit_calibration(probability, idh, with_bias)
        calibrated = found.apply(probability)
        assert score_classification(calibrated, idh).auc == score_classification(probability, idh).auc
        losses.append(log_loss(idh, calibrated))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[1] + 0.1 > losses[2]


def test_temperature_alone_keeps_the_calls():
    calibrated = Calibration(2.5, 0.0, 10, True).apply([0.2, 0.5, 0.9])
    assert (calibrated >= 0.5).tolist() == [False, True, True]
    assert calibrated[2] == pytest.approx(1 / (1 + 9 ** (-1 / 2.5)))
    assert Calibration(1.0, 1.0, 10, True).apply([0.5])[0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_certain_probabilities_stay_finite():
    found = fit_calibration([0.0, 1.0, 0.9, 0.2], [0, 1, 0, 1])
    assert np.isfinite(found.apply([0.0, 1.0])).all()
    assert found.determined


@pytest.mark.parametrize("with_bias", [False, True])
def test_what_validation_does_not_determine_is_said(with_bias):
    # all calls right: no temperature is low enough
    assert not fit_calibration([0.9, 0.8, 0.2], [1, 1, 0], with_bias).determined
    backwards = fit_calibration([0.9, 0.8, 0.2], [0, 0, 1], with_bias)
    assert (backwards.determined, backwards.temperature) == (False, 20.0)


def test_separated_by_another_threshold_only_a_bias_is_not_determined():
    probability, idh = [0.6, 0.7, 0.8, 0.9], [0, 0, 1, 1]
    assert not fit_calibration(probability, idh, with_bias=True).determined
    assert fit_calibration(probability, idh).determined


def test_the_same_cases_give_the_same_bits_and_unknown_ones_do_not_count():
    probability, idh = draw(2.0, n=50)
    found = fit_calibration(probability, idh, with_bias=True)
    assert found == fit_calibration(probability, idh, with_bias=True)
    assert found == fit_calibration([*probability, 0.3], [*idh, -1], with_bias=True)


def test_one_class_or_no_probability_is_refused():
    with pytest.raises(InputError, match="are 2 mutant and 0 wild type; both are needed"):
        fit_calibration([0.5, 0.6], [1, 1])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fit_calibration([0.5, 1.5], [1, 0])
    with pytest.raises(ValueError, match="one each per case"):
        fit_calibration([0.5], [1, 0])
