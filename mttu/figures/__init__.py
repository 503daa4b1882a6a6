"""Figures as functions of arrays and tables; every figure is a matplotlib `Figure` without global state.

All but `draw_overlay` share one look (`style`): white, colour-blind safe, the width of a journal page, so that one
drawing serves as PDF in print and as PNG on screen. What a table does not define is said in words, never drawn as zero.
"""
