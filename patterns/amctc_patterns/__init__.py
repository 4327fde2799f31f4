"""Rewrites and nothing else, one module per subject. Passes choose among them; they never choose passes."""
