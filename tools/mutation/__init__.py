"""Mutants, and preconditions switched off: does a test notice? ``python -m tools.mutation --help``."""
