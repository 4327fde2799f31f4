"""Hypothesis profiles: ``AMCTC_PROFILE`` selects ``dev`` (few, random), ``ci`` (the default) or ``nightly`` (many)."""

from __future__ import annotations

import os

import numpy as np
import pytest
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


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(request: pytest.FixtureRequest) -> None:
    """Rewind the generator ``RNG`` of a test module, so that no test depends on those that ran before it."""
    generator = getattr(request.module, "RNG", None)
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(generator.bit_generator.seed_seq).state
