"""Precision layer by layer: how sensitive each is, what must stay in float for a goal, what fits a budget.

A trial is a graph put together from graphs that a preset made whole (:mod:`.assembly`), so it costs a run and no
calibration; what is kept in the end is made by the preset itself, with options that say the precision of each layer.
"""
