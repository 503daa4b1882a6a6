import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from mttu.metrics.delong import compare_auc, estimate_auc, measure_auc

SCORES = [0.9, 0.8, 0.6, 0.55, 0.4, 0.3, 0.55, 0.1]
OTHERS = [0.7, 0.9, 0.2, 0.6, 0.5, 0.3, 0.4, 0.2]
IDH = [1, 1, 1, 1, 0, 0, 0, 0]


def structural_components(scores, idh):
    """DeLong's own definition: the kernel over all pairs."""
    mutants, wilds = (np.array([s for s, own in zip(scores, idh, strict=True) if own == k]) for k in (1, 0))
    kernel = (mutants[:, None] > wilds) + 0.5 * (mutants[:, None] == wilds)
    return kernel.mean(axis=1), kernel.mean(axis=0)


def draw(seed, n=60, signal=1.0):
    """Rounded scores of two systems, so that there are ties, on the same cases."""
    generator = np.random.default_rng(seed)
    idh = np.arange(n) % 2
    shared = signal * idh + generator.normal(size=n)
    first, second = (np.round(shared + generator.normal(size=n), 1) for _ in range(2))
    return first, second, idh


def test_iris_has_the_reference_variance():
    """The example of yandexdataschool/roc_comparison (MIT)."""
    features, species = load_iris(return_X_y=True)
    train, test, known, status = train_test_split(features, (species == 1).astype(int), test_size=0.8, random_state=42)
    scores = LogisticRegression(solver="lbfgs").fit(train, known).predict_proba(test)[:, 1]
    found = estimate_auc(scores, status)
    assert found.auc == pytest.approx(roc_auc_score(status, scores), rel=1e-14)
    assert found.variance == pytest.approx(0.0015359814789736538, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_midranks_give_what_all_pairs_give(seed):
    first, second, idh = draw(seed)
    one, other = structural_components(first, idh), structural_components(second, idh)
    found = estimate_auc(first, idh)
    assert found.auc == pytest.approx(one[0].mean()) == pytest.approx(roc_auc_score(idh, first))
    assert found.variance == pytest.approx(sum(np.var(part, ddof=1) / len(part) for part in one))
    covariance = sum(np.cov(a, b)[0, 1] / len(a) for a, b in zip(one, other, strict=True))
    variances = [sum(np.var(part, ddof=1) / len(part) for part in parts) for parts in (one, other)]
    test = compare_auc(first, second, idh)
    difference = one[0].mean() - other[0].mean()
    error = np.sqrt(sum(variances) - 2 * covariance)
    assert (test.first - test.second, test.difference) == pytest.approx((difference, difference))
    assert test.z == pytest.approx(difference / error)
    assert (test.low, test.high) == pytest.approx((difference - 1.959964 * error, difference + 1.959964 * error))


def test_a_small_table_by_hand():
    # ties 0.55: pairs in the right order 4 + 4 + 4 + 3.5 of 16
    found = estimate_auc(SCORES, IDH)
    assert found.auc == 15.5 / 16
    # placements 1 1 1 7/8 and 1 1 7/8 1: variance of each (3/4)(1/8)^2/3 = 1/256, over 4
    assert found.variance == pytest.approx(2 / (256 * 4))
    assert (found.num_mutant, found.num_wild) == (4, 4)
    assert found.high == 1.0  # cut off
    assert found.low == pytest.approx(15.5 / 16 - 1.959964 * np.sqrt(2 / 1024))


def test_identical_scores_have_p_one():
    found = compare_auc(SCORES, SCORES, IDH)
    assert (found.difference, found.z, found.p, found.low, found.high) == (0.0, 0.0, 1.0, 0.0, 0.0)
    first, _, idh = draw(7)
    stretched = compare_auc(first, 3 * first**3 - 1, idh)  # another scale, the same order
    assert (stretched.z, stretched.p) == (0.0, 1.0)


def test_swapping_systems_swaps_the_sign():
    one, other = compare_auc(SCORES, OTHERS, IDH), compare_auc(OTHERS, SCORES, IDH)
    assert (one.z, one.low, one.p) == pytest.approx((-other.z, -other.high, other.p))


def test_what_is_not_defined_is_none():
    assert measure_auc([0.1, 0.2], [1, 1]) is None
    assert estimate_auc([0.1], [0]).auc is None
    one_mutant = estimate_auc([0.9, 0.1, 0.2], [1, 0, 0])
    assert (one_mutant.auc, one_mutant.variance, one_mutant.low) == (1.0, None, None)
    perfect = estimate_auc([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0])
    assert (perfect.auc, perfect.variance, perfect.low, perfect.high) == (1.0, 0.0, None, None)
    without_spread = compare_auc([0.9, 0.8, 0.1, 0.2], [0.5] * 4, [1, 1, 0, 0])
    assert (without_spread.difference, without_spread.p) == (0.5, None)
    assert without_spread.not_tested == "an AUC's own variance is 0"
    one_class = compare_auc([0.5], [0.5], [1])
    assert (one_class.p, one_class.not_tested) == (None, "both classes are needed")
    few = compare_auc([0.5, 0.4, 0.3], [0.1, 0.2, 0.3], [1, 0, 0])
    assert (few.p, few.not_tested) == (None, "fewer than two cases of a class")


def test_a_perfect_system_is_not_tested_against_another():
    perfect = [float(status) for status in IDH]
    for found in (compare_auc(perfect, OTHERS, IDH), compare_auc(OTHERS, perfect, IDH)):
        assert (found.z, found.p, found.low, found.high) == (None, None, None, None)
        assert found.difference != 0
        assert found.not_tested == "an AUC's own variance is 0"
    alike = compare_auc(perfect, [2 * value for value in perfect], IDH)
    assert (alike.p, alike.not_tested) == (1.0, "")


@pytest.mark.parametrize(
    ("scores", "idh", "message"),
    [([0.5], [1, 0], "one each per case"), ([0.5], [-1], "allowed are 1"), ([np.nan, 0.5], [1, 0], "finite")],
)
def test_what_are_no_scores_is_refused(scores, idh, message):
    with pytest.raises(ValueError, match=message):
        estimate_auc(scores, idh)


@pytest.mark.slow
def test_under_the_null_one_in_twenty_is_significant():
    significant = 0
    for seed in range(2000):
        generator = np.random.default_rng(seed)
        idh = np.array([1] * 32 + [0] * 38)  # as the paper's test cases
        shared = 1.5 * idh + generator.normal(size=70)
        first, second = (shared + generator.normal(size=70) for _ in range(2))
        significant += compare_auc(first, second, idh).p < 0.05
    print(f"p < 0.05 in {significant} of 2000")
    assert significant / 2000 == pytest.approx(0.05, abs=0.015)
