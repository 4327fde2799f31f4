"""Kills writers and calibrations, or fails them, at chosen steps; ``python -m tools.kills --help``."""
