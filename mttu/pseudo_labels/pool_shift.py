"""How a pool differs from the labelled cases, as far as a manifest shows before anything is trained."""

from collections import Counter
from collections.abc import Sequence

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN
from mttu.data.manifest import Case, Manifest
from mttu.errors import say_count

_LEAST_CASES = 10
"""Cases of known grade on either side; fewer say little."""
_LEAST_SHIFT = 0.1
"""Difference of shares of mutants that is worth a sentence."""


def find_bare_cases(manifest: Manifest) -> list[str]:
    """A sentence on cases of the pool without a mask; none if there are none."""
    pool = manifest.split("unlabelled")
    bare = sum(case.seg is None for case in pool)
    if not bare:
        return []
    return [
        f"{say_count(bare, 'case', 'cases')} of {len(pool)} in the pool have no mask: used only if selected, or "
        "with teacher.masks=true"
    ]


def find_pool_shift(manifest: Manifest) -> list[str]:
    """Sentences on another mixture of grades in the pool (split unlabelled); none if it is alike.

    The share of mutants that the pool would have is that of the labelled cases of each grade (train and val), weighted
    by the pool's grades.
    """
    pool = manifest.split("unlabelled")
    labelled = [
        case
        for case in (*manifest.split("train"), *manifest.split("val"))
        if case.idh != IDH_UNKNOWN and not case.pseudo_label and case.grade is not None
    ]
    graded = [case for case in pool if case.grade in {one.grade for one in labelled}]
    found = []
    if min(len(labelled), len(graded)) >= _LEAST_CASES:
        here, there = _shares(labelled), _shares(graded)
        mutants = {
            grade: _mutant_share([case for case in labelled if case.grade == grade])
            for grade in here
            if grade is not None
        }
        expected = sum(there.get(grade, 0.0) * share for grade, share in mutants.items())
        known = _mutant_share(labelled)
        if abs(expected - known) >= _LEAST_SHIFT:
            grade = max(sorted(mutants), key=lambda name: there.get(name, 0.0) - here[name])
            found.append(
                f"the pool is {there.get(grade, 0.0):.0%} {grade}, the labelled cases are {here[grade]:.0%}; with "
                f"their mutants by grade {expected:.0%} of the pool would be mutant, not {known:.0%}, and labels of "
                "the rarer class are wrong more often than on validation; selection.calibrate=temperature+bias with "
                "selection.prior=estimate allows for that"
            )
    return found


def _shares(cases: Sequence[Case]) -> dict[str, float]:
    return {grade: count / len(cases) for grade, count in sorted(Counter(str(case.grade) for case in cases).items())}


def _mutant_share(cases: Sequence[Case]) -> float:
    return sum(case.idh == IDH_MUTANT for case in cases) / len(cases)
