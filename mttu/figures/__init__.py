"""Figures as functions of arrays and tables; every figure is a matplotlib `Figure` without global state."""
