"""Presets and ablations by name, search spaces, and the search of thresholds on stored scores. No Ray in it."""
