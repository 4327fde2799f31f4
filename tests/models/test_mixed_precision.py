"""Goals and budgets on the shipped example, measured on images that no search saw."""

from __future__ import annotations

import math

import pytest

import amctc
from amctc.api import Samples
from amctc.examples import calibration_path, model_path, test_path


@pytest.fixture(scope="module")
def samples() -> Samples:
    return amctc.open_samples_for(amctc.load(model_path()), calibration_path(), preprocess="unit", limit=48)


def decibels(result: amctc.Compression) -> float:
    """SQNR of the integer model on the test images."""
    session, reference = amctc.Session(result.deploy_graph), amctc.Session(model_path())
    found = amctc.evaluate(session, amctc.open_samples_for(session, test_path(), preprocess="unit"), reference)
    assert found.sqnr_db is not None
    return found.sqnr_db


def test_a_budget_is_spent_better_than_evenly(samples: Samples) -> None:
    """Between int4 everywhere, which takes 42 % of the bytes of float16, and int8 everywhere, 65 %."""
    result = amctc.search(model_path(), samples, amctc.Budget.parse("bytes", "0.52x"), preset="fast")
    found = result.report.precision
    assert found is not None
    whole, preset, searched = found.trials
    assert found.kept == searched.name
    assert searched.bytes <= 0.52 * whole.bytes < preset.bytes
    even = amctc.compress(model_path(), samples, preset="fast", options={"quantize-weights": {"bits": 4}})
    assert decibels(even) < decibels(result)


def test_a_goal_holds_on_other_images(samples: Samples) -> None:
    """What reaches 44 dB on 12 images is nearer to the float model than what the preset makes, on 600 others too."""
    result = amctc.compress_to_goal(model_path(), samples, amctc.Goal(min_sqnr=44.0))
    found = result.report.precision
    assert found is not None
    assert found.reached
    assert 0 < len(found.floats) < 12
    assert decibels(result) > decibels(amctc.compress(model_path(), samples))


def test_the_sum_of_noises_is_the_noise(samples: Samples) -> None:
    """The front: noises that add up predict what the integer model loses, to a factor of two."""
    found = amctc.search(model_path(), samples, amctc.Budget.parse("bytes", "0.9x"), preset="fast").report.precision
    assert found is not None
    predicted = [(t.predicted_db, t.sqnr_db) for t in found.front if t.predicted_db is not None and t.predicted_db < 60]
    assert len(predicted) >= 5
    assert all(abs(a - b) < 10 * math.log10(2) for a, b in predicted)
