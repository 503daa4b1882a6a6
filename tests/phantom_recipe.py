"""The recipe of a small phantom, for tests that draw cases in memory."""

from mttu.phantom.subjects import Recipe

RECIPE = Recipe(cases=148, size=24)
