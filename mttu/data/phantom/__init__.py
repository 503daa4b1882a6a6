"""A synthetic glioma cohort in BraTS layout."""

from mttu.data.phantom.learnability import Learnability, measure_learnability
from mttu.data.phantom.writing import measure_phantom, write_phantom

__all__ = ["Learnability", "measure_learnability", "measure_phantom", "write_phantom"]
