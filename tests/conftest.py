"""Hypothesis profiles: ``AMCTC_PROFILE`` selects ``dev`` (few, random), ``ci`` (the default) or ``nightly`` (many)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Workers share busy cores: how long drawing takes says nothing about a test.
CALM = (HealthCheck.too_slow,)

settings.register_profile("dev", max_examples=25, deadline=None, suppress_health_check=CALM)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=CALM)
settings.register_profile("nightly", max_examples=2000, deadline=None, suppress_health_check=CALM)

PROFILE = os.environ.get("AMCTC_PROFILE", "ci")
settings.load_profile(PROFILE)
# check_rewrite and check_op draw this many graphs each.
os.environ.setdefault("AMCTC_EXAMPLES", {"dev": "25", "ci": "60", "nightly": "2000"}[PROFILE])
