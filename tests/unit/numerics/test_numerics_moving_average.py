"""Moving averages of ranges: by hand, and bounds that hold for any order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.histogram import Histogram
from amctc.numerics.moving_average import MovingAverageRange

batches = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), min_size=1, max_size=5)


def test_by_hand() -> None:
    average = MovingAverageRange(rate=0.25).updated([-1.0, 3.0]).updated([[-5.0, 11.0]])
    assert average.range() == (-2.0, 5.0)
    assert average.batches == 2
    assert average.updated([]) is average
    assert MovingAverageRange(rate=0.25).updated([-5.0, 11.0]).updated([-1.0, 3.0]).range() == (-4.0, 9.0)


def test_percentile() -> None:
    x = np.append(np.linspace(-1, 1, 10_001), [500.0])
    low, high = MovingAverageRange(p=99.0).updated(x).range()
    # bins of 512/2048
    assert abs(low + 0.98) <= 0.25
    assert abs(high - 0.98) <= 0.25
    assert MovingAverageRange(p=100.0).updated(x).range() == (-1.0, 500.0)


@given(batches, st.floats(0.001, 1.0))
def test_it_stays_between_the_ranges_of_the_batches(data: list[list[float]], rate: float) -> None:
    average = MovingAverageRange(rate=rate)
    for batch in data:
        average = average.updated(batch)
    low, high = average.range()
    lows, highs = [min(b) for b in data], [max(b) for b in data]
    assert min(lows) <= low <= max(lows)
    assert min(highs) <= high <= max(highs)
    if rate == 1.0:
        assert (low, high) == (lows[-1], highs[-1])


@given(batches, st.sampled_from((90.0, 100.0)))
def test_histograms_of_batches_will_do(data: list[list[float]], p: float) -> None:
    values = histograms = MovingAverageRange(rate=0.3, p=p)
    for batch in data:
        values, histograms = values.updated(batch), histograms.moved(Histogram.empty().updated(batch))
    assert values == histograms
    assert histograms.moved(Histogram.empty()) is histograms


def test_bad_averages() -> None:
    for options in ({"rate": 0.0}, {"rate": 1.5}, {"p": 50.0}, {"p": 101.0}):
        with pytest.raises(InputError):
            MovingAverageRange(**options)
    with pytest.raises(InputError):
        MovingAverageRange().range()
    with pytest.raises(InputError):
        MovingAverageRange().updated([np.nan])
    with pytest.raises(dataclasses.FrozenInstanceError):
        MovingAverageRange().low = 1.0  # type: ignore[misc]
