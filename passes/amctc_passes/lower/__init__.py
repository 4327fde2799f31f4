"""Passes that lower a quantized graph to the integer op set of the target."""
