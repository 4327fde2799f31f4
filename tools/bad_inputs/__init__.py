"""Bad and hostile inputs through the real command line; ``python -m tools.bad_inputs --help``."""
