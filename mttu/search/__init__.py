"""Presets and ablations by name, and search spaces. No Ray in it."""
