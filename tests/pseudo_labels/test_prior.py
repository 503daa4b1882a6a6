"""Calibration and the share of mutants in a pool, against independent computations and simulated pools."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from mttu.errors import InputError
from mttu.metrics.calibration import fit_calibration, to_logits
from mttu.pseudo_labels import prior
from mttu.pseudo_labels.prior import correct, estimate_precision, estimate_share, move_share


def simulate(number, share, seed, temperature=1.0, bias=0.0):
    """Probabilities of a network whose evidence for mutant is N(+-1.2, 2.4), so exact log odds, and the classes.

    Its output is overconfident by the temperature and has a prior of its own by the bias.
    """
    generator = np.random.default_rng(seed)
    idh = (generator.random(number) < share).astype(int)
    evidence = generator.normal(2.88 * (idh - 0.5), np.sqrt(2.88))  # log likelihood ratio of the two classes
    return expit(evidence * temperature + bias), idh


def run_em(calibrated, source, steps=20000):
    """Expectation and maximisation, as Saerens et al. write them."""
    share = source
    for _ in range(steps):
        mutant = share / source * calibrated
        wild = (1 - share) / (1 - source) * (1 - calibrated)
        share = (mutant / (mutant + wild)).mean()
    return share


@pytest.mark.parametrize(("source", "share"), [(0.385, 0.05), (0.5, 0.3), (0.385, 0.9)])
def test_the_share_is_that_of_em_and_of_the_largest_likelihood(source, share):
    evidence = logit(simulate(150, share, seed=3)[0])
    calibrated = expit(evidence + logit(source))
    found = float(estimate_share(calibrated, source))

    def cost(value):
        return -np.log(value * calibrated / source + (1 - value) * (1 - calibrated) / (1 - source)).sum()

    direct = minimize_scalar(cost, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-10}).x
    assert found == pytest.approx(run_em(calibrated, source), abs=1e-6)
    assert found == pytest.approx(direct, abs=1e-6)


def test_many_pools_at_once_are_each_alone():
    pools = np.stack([simulate(40, share, seed)[0] for seed, share in enumerate((0.1, 0.5, 0.9))])
    sources = np.array([0.5, 0.4, 0.6])
    alone = [float(estimate_share(pool, float(source))) for pool, source in zip(pools, sources, strict=True)]
    assert estimate_share(pools, sources).tolist() == alone


def test_half_a_case_of_each_class_is_left():
    assert float(estimate_share(np.full(20, 1e-6), 0.4)) == pytest.approx(0.025)
    assert float(estimate_share(np.full(20, 1.0), 0.4)) == pytest.approx(0.975)


def test_bayes_rule_by_hand():
    # odds 4:1 at even shares are likelihood ratios of 4; at 1 mutant in 10 the odds are 4/9
    assert float(move_share(0.8, 0.5, 0.1)) == pytest.approx(4 / 13)
    assert move_share(np.array([0.0, 1.0, 0.3]), 0.3, 0.3).tolist() == pytest.approx([0.0, 1.0, 0.3])


def minus_likelihood(values, probability, idh):
    """Of inverse temperature and bias, with Platt's targets."""
    mutants, wild = idh.sum(), (1 - idh).sum()
    targets = np.where(idh == 1, (mutants + 1) / (mutants + 2), 1 / (wild + 2))
    called = expit(values[0] * logit(probability) + values[1])
    return -(targets * np.log(called) + (1 - targets) * np.log(1 - called)).sum()


@pytest.mark.parametrize("seed", range(3))
def test_temperature_and_bias_against_another_optimiser(seed):
    probability, idh = simulate(30, 0.4, seed, temperature=2.0, bias=0.7)
    found = fit_calibration(probability, idh, with_bias=True, smooth=True)
    other = minimize(
        minus_likelihood, [1.0, 0.0], (probability, idh), "Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}
    )
    assert [1 / found.temperature, found.bias] == pytest.approx(other.x, abs=1e-5)


def test_separated_classes_have_a_temperature_too():
    probability, idh = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), np.array([0, 0, 0, 1, 1, 1])
    found = fit_calibration(probability, idh, with_bias=True, smooth=True)
    assert found.determined
    assert found.apply(probability).mean() == pytest.approx(0.5)
    assert found.apply(probability).max() < 0.95
    assert not fit_calibration(probability, idh, with_bias=True).determined
    close = np.array([0.4999, 0.49995, 0.49999, 0.50001, 0.50005, 0.5001])  # no allowed temperature is low enough
    found = fit_calibration(close, idh, with_bias=True, smooth=True)
    assert (found.temperature, found.determined) == (pytest.approx(0.05), True)


def test_the_resamples_are_fitted_as_one_is():
    generator = np.random.default_rng(0)
    probability, idh = simulate(24, 0.5, seed=1, temperature=3.0)
    rows = np.stack([generator.integers(0, 24, 24) for _ in range(20)])
    rows = rows[[0 < idh[one].sum() < 24 for one in rows]]
    inverse, bias = prior._fit_many(to_logits(probability[rows]), idh[rows] == 1)
    for one, *found in zip(rows, inverse, bias, strict=True):
        alone = fit_calibration(probability[one], idh[one], with_bias=True, smooth=True)
        assert found == pytest.approx([1 / alone.temperature, alone.bias], abs=1e-4)


def test_a_pool_of_known_share_through_an_overconfident_network():
    """Class weights of the loss and confidence are in both sets of scores, and leave no trace."""
    known, idh = simulate(400, 0.385, seed=5, temperature=2.0, bias=0.5)
    pool, truth = simulate(1000, 0.05, seed=6, temperature=2.0, bias=0.5)
    found = correct(pool, known, idh, "estimate", num_resamples=100)
    assert found.calibration.temperature == pytest.approx(2.0, abs=0.4)
    assert found.source_share == pytest.approx(idh.mean(), abs=0.002)
    assert found.moved_to == pytest.approx(0.05, abs=0.02)
    assert found.pool_share.low < 0.05 < found.pool_share.high < 0.15
    moved = np.array([found.move(value) for value in pool])
    assert moved.mean() == pytest.approx(found.moved_to, abs=1e-6)
    sure = moved > 0.5
    assert truth[sure].mean() == pytest.approx(moved[sure].mean(), abs=0.15)
    raw = pool > 0.5
    assert truth[raw].mean() < 0.25  # of those that the network itself calls mutant, hardly any is


def test_the_interval_covers():
    """In 15 small studies the true share is in all but a few intervals."""
    inside = 0
    for seed in range(15):
        known, idh = simulate(40, 0.4, seed=2 * seed)
        pool, _ = simulate(120, 0.2, seed=2 * seed + 1)
        share = correct(pool, known, idh, "none", num_resamples=60).pool_share
        inside += share.low <= 0.2 <= share.high
    assert inside >= 13


def test_a_prior_that_is_given_and_none():
    known, idh = simulate(40, 0.4, seed=0)
    pool, _ = simulate(50, 0.1, seed=1)
    given, none = (correct(pool, known, idh, value, num_resamples=20) for value in (0.07, "none"))
    assert given.moved_to == 0.07
    assert given.pool_share == none.pool_share
    assert none.move(0.3) == pytest.approx(none.calibrate(0.3))
    calibrated = given.calibrate(0.3)
    odds = calibrated / (1 - calibrated) * (0.07 / 0.93) / (given.source_share / (1 - given.source_share))
    assert given.move(0.3) == pytest.approx(odds / (1 + odds))
    assert correct(pool, known, idh, 0.07, num_resamples=20) == given  # the same every time


def test_a_share_is_detected_where_its_interval_leaves_out_that_of_the_calibration_cases():
    known, idh = simulate(60, 0.4, seed=0)
    other, same = simulate(200, 0.05, seed=1)[0], simulate(200, 0.4, seed=2)[0]
    moved, kept = (correct(pool, known, idh, "detect", num_resamples=50) for pool in (other, same))
    assert moved == correct(other, known, idh, "estimate", num_resamples=50)
    assert moved.pool_share.high < moved.source_share
    assert kept == correct(same, known, idh, "none", num_resamples=50)
    assert kept.pool_share.low < kept.source_share < kept.pool_share.high


def test_the_estimated_precision_is_the_mean_of_the_moved_probabilities():
    known, idh = simulate(60, 0.4, seed=0)
    pool, _ = simulate(50, 0.1, seed=1)
    found = correct(pool, known, idh, "estimate", num_resamples=300)
    chosen, labels = pool[:12], [1, 1, *[0] * 10]
    moved = [found.move(value) for value in chosen]
    precision = estimate_precision(chosen, labels, found)
    assert precision["mutant"].estimate == pytest.approx(np.mean(moved[:2]))
    assert precision["wild type"].estimate == pytest.approx(1 - np.mean(moved[2:]))
    assert precision["all"].estimate == pytest.approx((sum(moved[:2]) + 10 - sum(moved[2:])) / 12)
    assert {precision["mutant"].low, precision["mutant"].high} <= {0.0, 0.5, 1.0}  # of two labels
    assert set(estimate_precision(chosen[2:], labels[2:], found)) == {"wild type", "all"}


def test_too_few_cases_and_chance_are_refused():
    with pytest.raises(
        InputError,
        match=r"calibration: the calibration \(val\) cases are 4 mutant and 6 wild type; at least 5 of each class",
    ):
        correct([0.5], [0.6] * 10, [1] * 4 + [0] * 6, "none")
    with pytest.raises(InputError, match=r"tells the 12 calibration cases \(6 mutant\) no better than chance"):
        correct([0.5], [0.1] * 6 + [0.9] * 6, [1] * 6 + [0] * 6, "none")
