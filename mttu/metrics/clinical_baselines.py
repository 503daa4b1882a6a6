"""IDH prediction without any image, from age, grade, both, or the site; to be reported beside the AUC of a network.

Grade is known only after surgery, so the fair comparison for a pre-operative image is age alone. Site stands for what a
network could learn from the scanner: a high AUC is a warning about the cohort, not a result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.errors import name_some, raise_if_any, say_count
from mttu.metrics.delong import AucEstimate, estimate_auc

SITE_SMOOTHING = 1.0
"""Cases with the overall mutant share that are added to each site's own."""

LOW_GRADE = frozenset({"lgg", "low", "2", "3", "ii", "iii", "g2", "g3"})
HIGH_GRADE = frozenset({"hgg", "high", "4", "iv", "g4", "gbm"})
"""Low grade is WHO 2 and 3, high grade is 4, as in the paper and in BraTS to 2020."""


@dataclass(frozen=True)
class Subject:
    """Clinical facts of a case; None where the table has none."""

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
    """Whether it uses what is known only after surgery."""
    num_training: int = 0
    """Cases it was fitted on; 0 if they did not allow a fit, and then there are no probabilities."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Case to probability of mutant; without the cases that lack a fact which the baseline needs."""


def is_high_grade(grade: str | None) -> bool | None:
    """True for WHO grade 4, False for 2 and 3, None for anything else."""
    word = (grade or "").strip().lower().removesuffix(".0")
    word = word.removeprefix("who").strip().removeprefix("grade").strip()
    return True if word in HIGH_GRADE else False if word in LOW_GRADE else None


def check_grades(subjects: Sequence[Subject]) -> None:
    """Refuses grades that are not understood.

    Raises:
        InputError: Lists each of them with its cases.
    """
    odd: dict[str, list[str]] = {}
    for subject in subjects:
        if subject.grade is not None and is_high_grade(subject.grade) is None:
            odd.setdefault(subject.grade, []).append(subject.case_id)
    raise_if_any(
        [
            f"grade {grade!r} of {say_count(len(cases), 'case', 'cases')} ({name_some(cases, 3)}): expected LGG, 2 or "
            "3, HGG or 4; correct the clinical table, or leave the baselines out"
            for grade, cases in odd.items()
        ]
    )


LOGISTIC: Mapping[str, Sequence[str]] = {"age": ["age"], "grade": ["grade"], "age + grade": ["age", "grade"]}
"""Logistic baselines, and the facts that they use."""


def fit_baselines(training: Sequence[Subject], subjects: Sequence[Subject]) -> list[Baseline]:
    """Fits every baseline on the training cases with known IDH status, and applies it.

    Age, grade and both: scikit-learn's logistic regression with its default L2 penalty on standardised values. Site:
    the mutant share of the training cases of that site, smoothed towards the overall share by `SITE_SMOOTHING` cases; a
    site without training cases has the overall share.

    Args:
        training: Cases to fit on; their grades passed `check_grades`.
        subjects: Other cases; same.

    Raises:
        InputError: A case is in both.
    """
    own = {subject.case_id for subject in subjects}
    both = [subject.case_id for subject in training if subject.case_id in own]
    raise_if_any([f"case {case_id}: a baseline would be fitted on it and scored on it" for case_id in both])
    known = [subject for subject in training if subject.idh != IDH_UNKNOWN]
    return [*(_fit_logistic(name, known, subjects) for name in LOGISTIC), _fit_site(known, subjects)]


def _describe(subject: Subject, facts: Sequence[str]) -> list[float] | None:
    """Age in years, and 1 for a high grade; None if the subject lacks one of the facts."""
    values = {"age": subject.age, "grade": is_high_grade(subject.grade)}
    known = [float(value) for fact in facts if (value := values[fact]) is not None]
    return known if len(known) == len(facts) else None


def _fit_logistic(name: str, training: Sequence[Subject], subjects: Sequence[Subject]) -> Baseline:
    facts = LOGISTIC[name]
    post_operative = "grade" in facts
    usable = [(values, subject.idh) for subject in training if (values := _describe(subject, facts)) is not None]
    if {idh for _, idh in usable} != {IDH_WILD, IDH_MUTANT}:
        return Baseline(name, post_operative)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(np.array([values for values, _ in usable]), np.array([idh for _, idh in usable]))
    described = {subject.case_id: values for subject in subjects if (values := _describe(subject, facts)) is not None}
    found = model.predict_proba(np.array(list(described.values())))[:, 1].tolist() if described else []
    return Baseline(name, post_operative, len(usable), dict(zip(described, found, strict=True)))


def _fit_site(training: Sequence[Subject], subjects: Sequence[Subject]) -> Baseline:
    usable = [(subject.site, subject.idh) for subject in training if subject.site is not None]
    if not usable:
        return Baseline("site", False)
    overall = sum(idh for _, idh in usable) / len(usable)
    shares = {}
    for subject in subjects:
        if subject.site is not None:
            own = [idh for site, idh in usable if site == subject.site]
            shares[subject.case_id] = (sum(own) + SITE_SMOOTHING * overall) / (len(own) + SITE_SMOOTHING)
    return Baseline("site", False, len(usable), shares)


def estimate_auc_by_grade(scores: Mapping[str, float], subjects: Sequence[Subject]) -> Mapping[str, AucEstimate]:
    """AUC within `low` and within `high` grade: what a score tells beyond the grade.

    Args:
        scores: Case to score; larger for mutant.
        subjects: Cases; those without a score, grade or IDH status are left out.
    """
    estimates = {}
    for name, wanted in (("low", False), ("high", True)):
        own = [
            subject
            for subject in subjects
            if subject.case_id in scores and subject.idh != IDH_UNKNOWN and is_high_grade(subject.grade) is wanted
        ]
        estimates[name] = estimate_auc([scores[subject.case_id] for subject in own], [subject.idh for subject in own])
    return estimates
