"""Formulas of the numerics rules in exact arithmetic, and cases that compare the interpreter with them.

Nothing here calls :mod:`amctc.numerics` or a kernel to say what is right: rules are written down again, element by
element, in Python integers and fractions.
"""
