"""The shipped network with weights of few bits, from samples to the integer run."""

from __future__ import annotations

from functools import cache

import pytest

from amctc import Session, evaluate, examples, load, open_samples_for
from amctc.api import compress
from amctc.calibrate.samples import Samples
from amctc.report.model import Evaluation

MODEL = load(examples.model_path())


def samples(path: object) -> Samples:
    return open_samples_for(MODEL, path, preprocess="unit")


@cache
def scored(preset: str, *options: tuple[str, str, object]) -> Evaluation:
    """The integer run against the float one, on samples that did not calibrate."""
    chosen: dict[str, dict[str, object]] = {}
    for name, option, value in options:
        chosen.setdefault(name, {})[option] = value
    result = compress(MODEL, samples(examples.calibration_path()), preset=preset, options=chosen)
    return evaluate(Session(result.deploy_graph), samples(examples.test_path()), Session(MODEL))


def test_four_bits_lose_little_of_what_rounding_to_nearest_loses() -> None:
    nearest = scored("fast", ("quantize-weights", "bits", 4))
    found = scored("balanced", ("round-weights", "bits", 4), ("roll-back", "budget", 0.0))
    real = evaluate(Session(MODEL), samples(examples.test_path()))
    assert found.sqnr_db > nearest.sqnr_db + 6
    assert found.top1 >= real.top1 - 0.015
    assert found.agreement >= nearest.agreement


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_only_gain_from_samples(bits: int) -> None:
    option = ("quantize-weights-only", "bits", bits)
    assert scored("weight-only-calibrated", option).sqnr_db > scored("weight-only", option).sqnr_db
