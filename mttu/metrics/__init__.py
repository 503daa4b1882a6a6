"""Scores as pure functions of arrays: segmentation and classification."""
