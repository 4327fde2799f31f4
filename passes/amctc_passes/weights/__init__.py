"""Weights become integers."""
