"""How well a phantom's IDH status can be told: by the best possible reader, by simple features, by age alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mttu.data.phantom.signs import expected_auc, log_likelihood_ratio

_FOLDS = 5


@dataclass(frozen=True)
class Truth:
    """What is known of a phantom case and of no patient."""

    case_id: str
    split: str
    idh: int
    age: int
    latents: tuple[float, ...]
    """Strengths of the four signs, see `mttu.data.phantom.signs.Signs`."""
    volume_ml: float
    """Whole tumour, as measured on the grid."""
    means: tuple[float, ...]
    """Mean z-score inside the tumour of each modality, z-scores being over the brain as in preparation."""


@dataclass(frozen=True)
class Learnability:
    """AUC of three readers, mutant being positive; None with one class only, or too few cases for cross-validation."""

    cases: int
    mutants: int
    expected_auc: float
    """Ideal observer, in an endless cohort: no reader of the images does better than this on average."""
    ideal_auc: float | None
    """Ideal observer in this cohort: log-likelihood ratio of the four latent strengths."""
    simple_auc: float | None
    """Cross-validated logistic regression on log volume and the mean z-scores inside the tumour."""
    age_auc: float | None
    """Age alone, the younger the likelier a mutant."""

    def describe(self) -> list[str]:
        """One line per reader."""
        cohort = f"{self.cases} cases, {self.mutants} mutant; {self.expected_auc:.3f} expected"
        return [
            f"IDH AUC, ideal observer of the signs: {_show(self.ideal_auc)} ({cohort})",
            f"IDH AUC, logistic regression on volume and mean intensities: {_show(self.simple_auc)}",
            f"IDH AUC, age alone: {_show(self.age_auc)}",
        ]


def measure_learnability(truths: Sequence[Truth], difficulty: float) -> Learnability:
    """Measures how well IDH can be told in a cohort, unlabelled cases included.

    Args:
        truths: One per case.
        difficulty: What the latents were drawn with.
    """
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
