"""Figures as functions of arrays and tables; every figure is a matplotlib `Figure` without global state.

All but `draw_overlay` share one look (`style`): white, colour-blind safe, the width of a journal page, so that one
drawing serves as PDF in print and as PNG on screen. What a table leaves undefined is stated in words, never drawn as
zero.
"""
