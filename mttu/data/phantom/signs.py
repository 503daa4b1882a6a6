"""What IDH does to the phantom: four imaging signs of overlapping strength, and the age.

Each sign has a latent strength. Given the IDH status the four strengths are normal with the same covariance, around
means that lie `separation(difficulty)` Mahalanobis units apart; so the best any reader of the latents can do has an AUC
of Phi(separation / sqrt(2)), and its score, the log-likelihood ratio, is linear.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import norm

from mttu.data.labels import IDH_MUTANT, IDH_WILD

LARGEST_SEPARATION = 6.0
"""At difficulty 0: an ideal AUC of 0.99999."""

_WEIGHTS = np.array([0.6, 0.45, -0.6, -0.45])
"""How far the classes are apart in mismatch, sharpness, enhancement and necrosis, relative to each other."""
_COVARIANCE = np.eye(4)
_COVARIANCE[2, 3] = _COVARIANCE[3, 2] = 0.4  # what enhances tends to die in the middle, whatever its IDH status

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
    """Mahalanobis distance of the two classes' means: 6 at difficulty 0, 0 at difficulty 1."""
    return LARGEST_SEPARATION * (1 - difficulty)


def expected_auc(difficulty: float) -> float:
    """AUC of the ideal observer of the latents in an endless cohort."""
    return float(norm.cdf(separation(difficulty) / math.sqrt(2)))


def draw_signs(generator: np.random.Generator, idh: int, difficulty: float) -> Signs:
    """Draws the latent strengths of a case given its IDH status."""
    side = 0.5 if idh == IDH_MUTANT else -0.5
    mismatch, sharpness, enhancement, necrosis = (
        side * _gap(difficulty) + np.linalg.cholesky(_COVARIANCE) @ generator.standard_normal(4)
    ).tolist()
    return Signs(mismatch, sharpness, enhancement, necrosis)


def log_likelihood_ratio(latents: ArrayLike, difficulty: float) -> NDArray[np.float64]:
    """Log of how much likelier each case's latents are for a mutant: the ideal observer's score.

    Args:
        latents: (N, 4), columns in the order of `Signs`.
        difficulty: What they were drawn with; at 1 the answer is 0 for all.
    """
    return np.asarray(latents, np.float64).reshape(-1, 4) @ np.linalg.solve(_COVARIANCE, _gap(difficulty))


def _gap(difficulty: float) -> NDArray[np.float64]:
    """From the wild types' mean to the mutants'."""
    unit = _WEIGHTS / math.sqrt(_WEIGHTS @ np.linalg.solve(_COVARIANCE, _WEIGHTS))
    return np.asarray(separation(difficulty) * unit)


def draw_age(generator: np.random.Generator, idh: int) -> int:
    """Whole years. Wild types are older: age alone reaches an AUC of 0.77, as in the TCGA cases of BraTS 2020."""
    age = generator.normal(_AGE_MEAN[idh], _AGE_DEVIATION)
    return round(min(max(age, _AGE_RANGE[0]), _AGE_RANGE[1]))
