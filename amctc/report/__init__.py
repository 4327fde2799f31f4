"""Floor 6: what a compression did, as data, as text on a terminal, as JSON."""
