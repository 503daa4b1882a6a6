"""What IDH prediction reaches without any image: age, grade, both, and the site. An image AUC belongs beside these.

Grade is known only after surgery, so the fair comparison for a pre-operative image is age alone. Site stands for what a
network could learn from the scanner: a high value is a warning about the cohort, not a result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import raise_if_any
from mttu.metrics.delong import AucEstimate, estimate_auc

SITE_SMOOTHING = 1.0
"""Cases of the overall mutant share that are added to each site's own."""

LOW_GRADE = frozenset({"lgg", "low", "2", "3", "ii", "iii", "g2", "g3"})
HIGH_GRADE = frozenset({"hgg", "high", "4", "iv", "g4", "gbm"})
"""Low grade is WHO 2 and 3, high grade is 4, as in the paper and in BraTS to 2020."""


@dataclass(frozen=True)
class Subject:
    """What the clinical table says of a case; None is what it doesn't."""

    case_id: str
    idh: int
    """1 mutant, 0 wild type, -1 unknown."""
    age: float | None = None
    """Years."""
    grade: str | None = None
    site: str | None = None


@dataclass(frozen=True)
class Baseline:
    """One baseline, fitted on training and applied to other cases."""

    name: str
    post_operative: bool
    """Whether it uses what is only known after surgery."""
    num_training: int
    """Cases it was fitted on; 0 if they did not allow it, and then there are no probabilities."""
    probabilities: Mapping[str, float]
    """Case to probability of mutant; a case without the facts that the baseline needs is absent."""


def is_high_grade(grade: str | None) -> bool | None:
    """True for WHO grade 4, False for 2 and 3, None for what is neither or not known."""
    word = (grade or "").strip().lower().removesuffix(".0")
    word = word.removeprefix("who").strip().removeprefix("grade").strip()
    return True if word in HIGH_GRADE else False if word in LOW_GRADE else None


def check_grades(subjects: Sequence[Subject]) -> None:
    """Refuses words for a grade that are not understood.

    Raises:
        InputError: Lists each word with its cases.
    """
    odd: dict[str, list[str]] = {}
    for subject in subjects:
        if subject.grade is not None and is_high_grade(subject.grade) is None:
            odd.setdefault(subject.grade, []).append(subject.case_id)
    raise_if_any(
        [
            f"grade {grade!r} of {len(cases)} {'cases' if len(cases) > 1 else 'case'} ({', '.join(cases[:3])}"
            f"{', ...' if len(cases) > 3 else ''}): expected LGG, 2 or 3, HGG or 4; correct the clinical table, or "
            "leave the baselines out"
            for grade, cases in odd.items()
        ]
    )


Feature = Callable[[Subject], tuple[float, ...] | None]


def _age(subject: Subject) -> tuple[float, ...] | None:
    return None if subject.age is None else (subject.age,)


def _grade(subject: Subject) -> tuple[float, ...] | None:
    high = is_high_grade(subject.grade)
    return None if high is None else (float(high),)


def _both(subject: Subject) -> tuple[float, ...] | None:
    age, grade = _age(subject), _grade(subject)
    return None if age is None or grade is None else age + grade


LOGISTIC: Mapping[str, tuple[Feature, bool]] = {
    "age": (_age, False),
    "grade": (_grade, True),
    "age + grade": (_both, True),
}
"""Logistic baselines: what they look at, and whether that is known after surgery only."""


def fit_baselines(training: Sequence[Subject], subjects: Sequence[Subject]) -> list[Baseline]:
    """Fits every baseline on the training cases with known IDH status, and applies it.

    Age, grade and both: scikit-learn's logistic regression with its default L2 penalty on standardised values. Site:
    the mutant share of the training cases of that site, smoothed towards the overall share by `SITE_SMOOTHING` cases; a
    site that training never saw has the overall share.

    Args:
        training: Cases to fit on.
        subjects: Other cases.

    Raises:
        InputError: A grade that is not understood, or a case on both sides.
    """
    check_grades([*training, *subjects])
    own = {subject.case_id for subject in subjects}
    both = [subject.case_id for subject in training if subject.case_id in own]
    raise_if_any([f"case {case_id}: a baseline would be fitted on it and scored on it" for case_id in both])
    known = [subject for subject in training if subject.idh != IDH_UNKNOWN]
    fitted = [_fit_logistic(name, feature, late, known, subjects) for name, (feature, late) in LOGISTIC.items()]
    return [*fitted, _fit_site(known, subjects)]


def _fit_logistic(
    name: str, feature: Feature, post_operative: bool, training: Sequence[Subject], subjects: Sequence[Subject]
) -> Baseline:
    usable = [(values, subject.idh) for subject in training if (values := feature(subject)) is not None]
    if {idh for _, idh in usable} != {IDH_WILD, IDH_MUTANT}:
        return Baseline(name, post_operative, 0, {})
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(np.array([values for values, _ in usable]), np.array([idh for _, idh in usable]))
    described = {subject.case_id: values for subject in subjects if (values := feature(subject)) is not None}
    found: NDArray[np.float64] = (
        model.predict_proba(np.array(list(described.values())))[:, 1] if described else np.zeros(0)
    )
    return Baseline(name, post_operative, len(usable), dict(zip(described, found.tolist(), strict=True)))


def _fit_site(training: Sequence[Subject], subjects: Sequence[Subject]) -> Baseline:
    usable = [(subject.site, subject.idh) for subject in training if subject.site is not None]
    if not usable:
        return Baseline("site", False, 0, {})
    overall = sum(idh for _, idh in usable) / len(usable)
    shares = {}
    for subject in subjects:
        if subject.site is not None:
            own = [idh for site, idh in usable if site == subject.site]
            shares[subject.case_id] = (sum(own) + SITE_SMOOTHING * overall) / (len(own) + SITE_SMOOTHING)
    return Baseline("site", False, len(usable), shares)


def estimate_auc_by_grade(
    scores: Mapping[str, float], subjects: Sequence[Subject], level: float = 0.95
) -> Mapping[str, AucEstimate]:
    """AUC within low and within high grade: what a score knows beyond the grade.

    Args:
        scores: Case to score; larger for mutant.
        subjects: Cases; those without a score, grade or IDH status are left out.
        level: Coverage of DeLong's interval.

    Returns:
        `low` and `high`.
    """
    estimates = {}
    for name, wanted in (("low", False), ("high", True)):
        own = [
            subject
            for subject in subjects
            if subject.case_id in scores and subject.idh != IDH_UNKNOWN and is_high_grade(subject.grade) is wanted
        ]
        estimates[name] = estimate_auc(
            [scores[subject.case_id] for subject in own], [subject.idh for subject in own], level
        )
    return estimates
