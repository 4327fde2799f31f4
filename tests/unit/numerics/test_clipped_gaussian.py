"""Clipped Gaussians: moments against quadrature and known values, histograms against what they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from amctc.numerics.clipped_gaussian import ClippedGaussians


def one(mean: float, deviation: float, low: float = -math.inf, high: float = math.inf) -> ClippedGaussians:
    return ClippedGaussians(np.array([mean]), np.array([deviation]), low, high)


def test_known_moments() -> None:
    """relu of a standard normal number: mean 1/√(2π), second moment 1/2."""
    (mean,), (variance,) = one(0, 1, 0.0).moments()
    assert mean == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-14)
    assert variance == pytest.approx(0.5 - 1 / (2 * math.pi), rel=1e-14)
    assert one(3, 2).moments() == (pytest.approx(3), pytest.approx(4))
    assert one(-50, 1, 0.0).moments() == (pytest.approx(0, abs=1e-300), pytest.approx(0, abs=1e-300))
    assert one(50, 1, 0.0, 6.0).moments() == (pytest.approx(6), pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize(("mean", "value"), [(-1.0, 0.0), (2.5, 2.5), (7.0, 6.0), (0.0, 0.0), (6.0, 6.0)])
def test_without_deviation(mean: float, value: float) -> None:
    assert one(mean, 0.0, 0.0, 6.0).moments() == (pytest.approx(value, abs=1e-300), pytest.approx(0, abs=1e-14))


@given(st.floats(-5, 5), st.floats(0.05, 4), st.floats(-3, 3), st.floats(0, 6))
def test_moments_against_quadrature(mean: float, deviation: float, low: float, width: float) -> None:
    """The density is smooth between the ends; beyond 12 deviations it is below 1e-31."""
    high = low + width

    def expected(power: int) -> float:
        def term(x: float) -> float:
            return float(np.clip(x, low, high)) ** power * math.exp(-0.5 * ((x - mean) / deviation) ** 2)

        ends = (mean - 12 * deviation, mean + 12 * deviation)
        points = [p for p in (low, high) if ends[0] < p < ends[1]]
        total = quad(term, *ends, points=points or None, epsabs=1e-11, epsrel=1e-11, limit=200)[0]
        return total / (deviation * math.sqrt(2 * math.pi))

    (found,), (variance,) = one(mean, deviation, low, high).moments()
    first, second = expected(1), expected(2)
    assert found == pytest.approx(first, abs=1e-8)
    assert variance == pytest.approx(max(second - first**2, 0.0), abs=1e-7)


def test_clips_add_up() -> None:
    both = one(0, 1).clipped(0.0, math.inf).clipped(-1.0, 6.0)
    assert (both.low, both.high) == (0.0, 6.0)
    assert (one(0, 1, 0.0, 6.0).clipped(7.0, 9.0).low, one(0, 1, 0.0, 6.0).clipped(7.0, 9.0).high) == (7.0, 7.0)


def test_ends() -> None:
    low, high = ClippedGaussians(np.array([0.0, 1.0]), np.array([1.0, 0.5]), 0.0, 5.0).ends()
    assert low.tolist() == [0.0, 0.0]
    assert high.tolist() == [5.0, 4.0]


@pytest.mark.parametrize(("low", "high"), [(-math.inf, math.inf), (0.0, math.inf), (0.0, 2.0), (-0.5, 0.75)])
def test_histogram_has_those_moments(low: float, high: float) -> None:
    """A bin stands for values at most its width away."""
    gaussians = ClippedGaussians(np.array([0.5, -1.0]), np.array([1.0, 2.0]), low, high)
    h = gaussians.histogram(1024)
    centres = (h.edges[:-1] + h.edges[1:]) / 2
    mean, variance = gaussians.moments()
    share = h.counts / h.count
    assert abs((share * centres).sum() - mean.mean()) <= h.width
    assert (share * centres**2).sum() == pytest.approx(
        (variance + mean**2).mean(), abs=2 * h.width * max(map(abs, centres))
    )
    assert (h.low, h.high) == (max(low, -13.0), min(high, 11.0))
    assert h.edges[0] <= h.low <= h.high < h.edges[-1]
    if low == 0.0:  # relu leaves P(z <= 0): half of Φ(-0.5) + Φ(0.5) = 1
        assert h.zeros / h.count == pytest.approx(0.5, abs=1e-9)
    else:
        assert h.zeros == 0


def test_degenerate_histograms() -> None:
    assert one(0.0, 0.0).histogram(256).count > 0
    nothing = ClippedGaussians(np.zeros(0), np.zeros(0)).histogram(256)
    assert (nothing.count, nothing.low, nothing.high) == (0, 0.0, 0.0)
