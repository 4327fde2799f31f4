"""Passes that merge ops into the layer beside them."""
