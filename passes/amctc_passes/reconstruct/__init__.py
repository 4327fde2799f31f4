"""Blocks learn the rounding of their weights, with PyTorch."""
