"""The recipe of a small phantom, for tests that draw cases in memory."""

from mttu.phantom.subjects import Recipe

RECIPE = Recipe(
    cases=148,
    size=24,
    seed=0,
    difficulty=0.6,
    mutant_fraction=0.385,
    unlabelled_fraction=0.2,
    unlabelled_mutant_fraction=0.15,
    test_fraction=0.2,
    missing_masks=0.0,
    sites=1,
    thick_slices=0.5,
    defects=0,
)
