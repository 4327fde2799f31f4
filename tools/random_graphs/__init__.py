"""Random models and pipelines, and judges of them; ``python -m tools.random_graphs --help``."""
