"""Measures how fast amctc is against its peers, in ratios taken in one run; ``python -m tools.bench --help``."""
