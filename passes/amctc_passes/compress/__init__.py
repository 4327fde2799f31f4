"""Passes that make a float model smaller before it is quantized: layers split in two, weights masked to zero."""
