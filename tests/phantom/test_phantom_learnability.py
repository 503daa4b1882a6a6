from dataclasses import astuple, replace

import numpy as np
import pytest
from phantom_recipe import RECIPE
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from mttu.phantom.signs import draw_age, draw_signs, expected_auc, log_likelihood_ratio, measure_learnability
from mttu.phantom.subjects import plan_subjects
from mttu.phantom.writing import draw_case


def draw(difficulty, count):
    generator = np.random.default_rng(0)
    idh = np.arange(count) % 2
    return idh, np.array([astuple(draw_signs(generator, int(status), difficulty)) for status in idh])


@pytest.mark.parametrize(("difficulty", "auc"), [(0.0, 0.99999), (0.2, 0.9997), (0.6, 0.955), (0.8, 0.802), (1.0, 0.5)])
def test_difficulty_decides_the_ideal_observers_auc(difficulty, auc):
    assert expected_auc(difficulty) == pytest.approx(auc, abs=0.001)
    idh, latents = draw(difficulty, 4000)
    assert roc_auc_score(idh, log_likelihood_ratio(latents, difficulty)) == pytest.approx(auc, abs=0.02)


def test_the_log_likelihood_ratio_is_that_of_the_densities():
    difficulty = 0.7
    idh, latents = draw(difficulty, 8000)
    means = [latents[idh == status].mean(axis=0) for status in (0, 1)]
    within = np.cov((latents - np.array(means)[idh]).T)
    densities = [multivariate_normal(mean, within).logpdf(latents[:200]) for mean in means]
    expected = densities[1] - densities[0]
    found = log_likelihood_ratio(latents[:200], difficulty)
    slope, intercept = np.polyfit(found, expected, 1)
    assert slope == pytest.approx(1, abs=0.1)
    assert intercept == pytest.approx(0, abs=0.1)
    assert np.corrcoef(found, expected)[0, 1] > 0.995
    signs = means[1] - means[0]
    assert (signs[:2] > 0).all()
    assert (signs[2:] < 0).all()
    assert within[2, 3] == pytest.approx(0.4, abs=0.04)


def test_age_alone_reaches_the_auc_of_the_papers_cases():
    generator = np.random.default_rng(0)
    ages = {idh: [draw_age(generator, idh) for _ in range(3000)] for idh in (0, 1)}
    assert roc_auc_score([0] * 3000 + [1] * 3000, [-age for age in ages[0] + ages[1]]) == pytest.approx(0.766, abs=0.02)
    assert min(ages[1]) >= 18
    assert max(ages[0]) <= 89


def test_simple_features_stay_below_the_ideal_observer():
    recipe = replace(RECIPE, cases=70)
    measured = measure_learnability([draw_case(recipe, subject).truth for subject in plan_subjects(recipe)], 0.6)
    assert 0.9 < measured.ideal_auc < 1
    assert 0.6 < measured.simple_auc < measured.ideal_auc - 0.05
    assert 0.65 < measured.age_auc < 0.9
    lines = measured.describe()
    assert lines[0].startswith(f"IDH AUC, ideal observer of the signs: {measured.ideal_auc:.3f} (70 cases, ")
    assert lines[1].endswith(f"{measured.simple_auc:.3f}")


def test_one_class_alone_has_no_auc():
    recipe = replace(RECIPE, cases=3, mutant_fraction=0.0, unlabelled_fraction=0.0)
    measured = measure_learnability([draw_case(recipe, subject).truth for subject in plan_subjects(recipe)], 0.6)
    assert (measured.ideal_auc, measured.simple_auc, measured.age_auc) == (None, None, None)
