"""The plan of a phantom cohort: the recipe, and from it each case's split, true IDH status and clinical facts.

Splits and classes are dealt over the whole cohort, so their numbers are exact. All else about a case comes from its own
generators, one per purpose, and depends on seed, case number and IDH status only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mttu.cohort.splits import draw_validation
from mttu.data.labels import IDH_MUTANT, IDH_WILD
from mttu.errors import raise_if_any
from mttu.phantom.signs import draw_age

SMALLEST_SIZE, LARGEST_SIZE, MOST_CASES, MOST_SITES = 24, 256, 9999, 20


class Purpose(IntEnum):
    """Last number of a seed; never 0, because NumPy pads seeds with zeros."""

    SPLIT = 1
    CLINICAL = 2
    SIGNS = 3
    PLACE = 4
    HEAD = 5
    LESION = 6
    SCAN = 7
    PROTOCOL = 8
    MASKS = 9
    DEFECTS = 10


@dataclass(frozen=True)
class Recipe:
    """All that decides a phantom."""

    cases: int = 24
    """Number of cases, each a patient."""
    size: int = 64
    """Voxels along each axis, of 1 mm. The head is scaled into the grid; it is life-size from 200 on."""
    seed: int = 0
    """Same seed, same bytes."""
    difficulty: float = 0.6
    """0, IDH is plain to see; 1, the images say nothing of it. The ideal observer's AUC is
    Phi(6 (1 - difficulty) / sqrt(2)): 0.955 at 0.6, 0.9997 at 0.2."""
    mutant_fraction: float = 0.385
    """Of the cases with IDH status; the default is that of the paper's labelled cases, 57 of 148."""
    unlabelled_fraction: float = 0.2
    """Share of the cases without IDH status."""
    unlabelled_mutant_fraction: float = 0.15
    """Of the cases without IDH status; low, because 209 of the 221 cases of the paper's pool are high-grade."""
    test_fraction: float = 0.2
    """Share of the test split. Of the rest, a fifth validates."""
    missing_masks: float = 0.0
    """Share of the cases without tumour mask, in every split."""
    sites: int = 1
    """Hospitals, each with its own contrasts, brightness and noise; IDH doesn't depend on them."""
    thick_slices: float = 0.5
    """Share of the images taken in slices of 3 to 6 mm of a life-size head, and resampled."""
    defects: int = 0
    """Number of cases broken on purpose, listed in `defects.csv`; see `mttu.phantom.writing`."""


@dataclass(frozen=True)
class Subject:
    """One case before it is drawn."""

    index: int
    case_id: str
    patient_id: str
    split: str
    idh: int
    """True status, also of the unlabelled cases."""
    age: int
    sex: str
    grade: str
    site: int
    has_mask: bool
    defect: int | None
    """Number among the damaged cases; None if the case is sound."""


def check_recipe(recipe: Recipe) -> None:
    """Raises an InputError that lists all values out of range."""
    problems = []
    ranges = {
        "cases": (1, MOST_CASES, ""),
        "size": (SMALLEST_SIZE, LARGEST_SIZE, " voxels"),
        "sites": (1, MOST_SITES, ""),
        "defects": (0, max(0, recipe.cases), " (the number of cases)"),
    }
    for name, (low, high, unit) in ranges.items():
        value = getattr(recipe, name)
        if not low <= value <= high:
            problems.append(f"{name}: {value}; expected {low} to {high}{unit}")
    if recipe.seed < 0:
        problems.append(f"seed: {recipe.seed}; expected 0 or more")
    values = vars(recipe).items()
    shares = {name: value for name, value in values if name not in (*ranges, "seed")}
    problems += [f"{name}: {value}; expected 0 to 1" for name, value in shares.items() if not 0 <= value <= 1]
    held_back = recipe.unlabelled_fraction + recipe.test_fraction
    if held_back >= 1:
        problems.append(f"unlabelled_fraction + test_fraction: {held_back:g}; expected below 1")
    raise_if_any(problems)


def stream(recipe: Recipe, purpose: Purpose, index: int | None = None) -> np.random.Generator:
    """The generator of one purpose, for one case or for the whole cohort."""
    return np.random.default_rng([recipe.seed, *([] if index is None else [index]), purpose])


def plan_subjects(recipe: Recipe) -> list[Subject]:
    """Deals splits, classes, missing masks and defects, and draws each case's clinical facts."""
    order = stream(recipe, Purpose.SPLIT).permutation(recipe.cases).tolist()
    unlabelled = round(recipe.unlabelled_fraction * recipe.cases)
    test = round(recipe.test_fraction * recipe.cases)
    groups = {
        "unlabelled": order[:unlabelled],
        "test": order[unlabelled : unlabelled + test],
        "train": order[unlabelled + test :],
    }
    fractions = {"unlabelled": recipe.unlabelled_mutant_fraction}
    split = {index: name for name, members in groups.items() for index in members}
    mutants = {
        index
        for name, members in groups.items()
        for index in members[: _count_mutants(len(members), fractions.get(name, recipe.mutant_fraction))]
    }
    idh = [IDH_MUTANT if index in mutants else IDH_WILD for index in range(recipe.cases)]
    strata = {_name(index): idh[index] for index in groups["train"]}
    validation = draw_validation(strata, 0.2, recipe.seed)
    bare = _pick(recipe, Purpose.MASKS, round(recipe.missing_masks * recipe.cases))
    damaged = _pick(recipe, Purpose.DEFECTS, recipe.defects)
    subjects = []
    for index in range(recipe.cases):
        facts = stream(recipe, Purpose.CLINICAL, index)
        sex, grade, where = int(facts.integers(2)), int(facts.integers(2)), float(facts.random())
        subjects.append(
            Subject(
                index=index,
                case_id=_name(index),
                patient_id=f"patient_{index:03d}",
                split="val" if _name(index) in validation else split[index],
                idh=idh[index],
                age=draw_age(facts, idh[index]),
                sex=("female", "male")[sex],
                grade=("LGG", "HGG")[grade],
                site=int(where * recipe.sites),
                has_mask=index not in bare,
                defect=damaged.index(index) if index in damaged else None,
            )
        )
    return subjects


def _name(index: int) -> str:
    return f"phantom_{index:03d}"


def _count_mutants(cases: int, fraction: float) -> int:
    """The rounded share, but at least one case of each class where the fraction allows both and there are two cases."""
    mutants = round(fraction * cases)
    return min(max(mutants, 1), cases - 1) if cases > 1 and 0 < fraction < 1 else mutants


def _pick(recipe: Recipe, purpose: Purpose, count: int) -> Sequence[int]:
    return list(stream(recipe, purpose).permutation(recipe.cases)[:count].tolist())
