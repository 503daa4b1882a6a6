import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mttu.errors import InputError
from mttu.metrics.calibration import Calibration, fit_calibration
from mttu.metrics.classification import score_classification


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
