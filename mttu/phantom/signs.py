"""How IDH shows in the phantom, by four imaging signs and the age, and how well it can be told from them.

Each sign has a latent strength. Given the IDH status, the four strengths are normal with the same covariance, and the
means of the classes lie `separation(difficulty)` Mahalanobis units apart. The ideal observer of the latents then has an
AUC of Phi(separation / sqrt(2)), and its score, the log-likelihood ratio, is linear.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mttu.data.labels import IDH_MUTANT, IDH_WILD

_WEIGHTS = np.array([0.6, 0.45, -0.6, -0.45])
"""How far the classes are apart in mismatch, sharpness, enhancement and necrosis, relative to each other."""
_COVARIANCE = np.eye(4)
_COVARIANCE[2, 3] = _COVARIANCE[3, 2] = 0.4  # enhancing tumours tend to have a necrotic centre, in both classes

_AGE_MEAN = {IDH_WILD: 56.0, IDH_MUTANT: 42.5}
_AGE_DEVIATION = 13.0
_AGE_RANGE = (18, 89)


@dataclass(frozen=True)
class Signs:
    """Latent strengths, each about -4 to 4; the mutants' mean is above 0 in the first two, below 0 in the others."""

    mismatch: float
    """T2-FLAIR mismatch: core bright in T2, dark in FLAIR, with a bright edge."""
    sharpness: float
    """Of the margin; low is infiltrative."""
    enhancement: float
    """Completeness and brightness of what enhances."""
    necrosis: float
    """Share of the core."""

    def visible(self) -> "Signs":
        """The strengths as the image shows them, 0 to 1."""
        mismatch, sharpness, enhancement, necrosis = expit(1.3 * np.array(astuple(self))).tolist()
        return Signs(mismatch, sharpness, enhancement, necrosis)


def separation(difficulty: float) -> float:
    """Mahalanobis distance of the two classes' means: 6 (an AUC of 0.99999) at difficulty 0, 0 at difficulty 1."""
    return 6.0 * (1 - difficulty)


def expected_auc(difficulty: float) -> float:
    """AUC of the ideal observer of the latents in an infinite cohort."""
    return float(norm.cdf(separation(difficulty) / math.sqrt(2)))


def draw_signs(generator: np.random.Generator, idh: int, difficulty: float) -> Signs:
    """Draws the latent strengths of a case given its IDH status."""
    side = 0.5 if idh == IDH_MUTANT else -0.5
    mismatch, sharpness, enhancement, necrosis = (
        side * _gap(difficulty) + np.linalg.cholesky(_COVARIANCE) @ generator.standard_normal(4)
    ).tolist()
    return Signs(mismatch, sharpness, enhancement, necrosis)


def log_likelihood_ratio(latents: ArrayLike, difficulty: float) -> NDArray[np.float64]:
    """Log-likelihood ratio of mutant to wild type, (N,), for latents (N, 4) of `Signs`: the ideal observer's score."""
    return np.asarray(latents, np.float64).reshape(-1, 4) @ np.linalg.solve(_COVARIANCE, _gap(difficulty))


def _gap(difficulty: float) -> NDArray[np.float64]:
    """From the wild types' mean to the mutants'."""
    unit = _WEIGHTS / math.sqrt(_WEIGHTS @ np.linalg.solve(_COVARIANCE, _WEIGHTS))
    return np.asarray(separation(difficulty) * unit)


def draw_age(generator: np.random.Generator, idh: int) -> int:
    """Whole years. Wild types are older: age alone reaches an AUC of 0.77, as in the TCGA cases of BraTS 2020."""
    return round(float(np.clip(generator.normal(_AGE_MEAN[idh], _AGE_DEVIATION), *_AGE_RANGE)))


_FOLDS = 5
"""Of the cross-validation."""


@dataclass(frozen=True)
class Truth:
    """What is known of a phantom case but never of a patient."""

    case_id: str
    split: str
    idh: int
    age: int
    latents: tuple[float, ...]
    """Strengths of the four signs, see `mttu.phantom.signs.Signs`."""
    volume_ml: float
    """Whole tumour, as measured on the grid."""
    means: tuple[float, ...]
    """Mean z-score inside the tumour of each modality, z-scores being over the brain as in preparation."""


@dataclass(frozen=True)
class Learnability:
    """AUC of three readers for mutants; None with one class only, or too few cases for cross-validation."""

    cases: int
    mutants: int
    expected_auc: float
    """Ideal observer in an infinite cohort: the upper bound, on average, for any reader of the images."""
    ideal_auc: float | None
    """Ideal observer in this cohort: log-likelihood ratio of the four latent strengths."""
    simple_auc: float | None
    """Cross-validated logistic regression on log volume and the mean z-scores inside the tumour."""
    age_auc: float | None
    """Age alone; mutants are younger."""

    def describe(self) -> list[str]:
        """One line per reader."""
        cohort = f"{self.cases} cases, {self.mutants} mutant; {self.expected_auc:.3f} expected"
        return [
            f"IDH AUC, ideal observer of the signs: {_show(self.ideal_auc)} ({cohort})",
            f"IDH AUC, logistic regression on volume and mean intensities: {_show(self.simple_auc)}",
            f"IDH AUC, age alone: {_show(self.age_auc)}",
        ]


def measure_learnability(truths: Sequence[Truth], difficulty: float) -> Learnability:
    """Measures how well IDH can be told in a cohort, unlabelled cases included, drawn with that difficulty."""
    idh = np.array([truth.idh for truth in truths])
    features = np.array([[math.log(truth.volume_ml), *truth.means] for truth in truths])
    folds = min(_FOLDS, int(np.bincount(idh, minlength=2).min()))
    simple = None
    if folds > 1:
        model = make_pipeline(StandardScaler(), LogisticRegression())
        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        simple = _auc(idh, cross_val_predict(model, features, idh, cv=split, method="predict_proba")[:, 1])
    return Learnability(
        cases=len(truths),
        mutants=int(idh.sum()),
        expected_auc=expected_auc(difficulty),
        ideal_auc=_auc(idh, log_likelihood_ratio([truth.latents for truth in truths], difficulty)),
        simple_auc=simple,
        age_auc=_auc(idh, [-truth.age for truth in truths]),
    )


def _auc(idh: ArrayLike, score: ArrayLike) -> float | None:
    return float(roc_auc_score(idh, score)) if len(np.unique(idh)) == 2 else None


def _show(auc: float | None) -> str:
    return "cannot be said" if auc is None else f"{auc:.3f}"
