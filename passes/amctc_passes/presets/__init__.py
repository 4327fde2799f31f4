"""Pipelines by name: one TOML file each."""
