"""Clipping ranges: the loss against plain loops, the search against brute force on the raw data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.histogram import Histogram
from amctc.numerics.thresholds import METHODS, QuantizationLoss, min_max, mse, percentile


def observed(values: object, bins: int = 4096) -> Histogram:
    return Histogram.empty(bins).updated(np.asarray(values, np.float32))


def grid(low: float, high: float, bits: int, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point from the calibration formulas, written again."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        steps = 2 ** (bits - 1) if -low > high else 2 ** (bits - 1) - 1
        return float(np.float32(max(-low, high) / steps)), 0
    scale = float(np.float32((high - low) / (2**bits - 1)))
    return scale, int(-np.rint(low / scale)) - 2 ** (bits - 1)


def raw_loss(values: np.ndarray, low: float, high: float, bits: int, symmetric: bool) -> float:
    """Mean squared error of quantize-dequantize on the data itself."""
    scale, zero_point = grid(low, high, bits, symmetric)
    codes = np.clip(np.rint(values / scale) + zero_point, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return float(np.mean((values - (codes - zero_point) * scale) ** 2))


def samples(kind: str, n: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(5)
    data = {
        "normal": rng.standard_normal(n),
        "relu": np.maximum(rng.standard_normal(n), 0),
        "relu6": np.clip(3 * rng.standard_normal(n) + 2, 0, 6),
        "laplace": rng.laplace(size=n),
        "skewed": rng.gamma(1.0, 2.0, n) - 0.3,
        "negative": -rng.gamma(2.0, 1.0, n),
        "offset": rng.uniform(5, 6, n),
        "outlier": np.append(rng.standard_normal(n), [60.0]),
        "two-sided outliers": np.append(rng.standard_normal(n), [40.0, -90.0]),
    }[kind]
    return data.astype(np.float32).astype(np.float64)


KINDS = ["normal", "relu", "relu6", "laplace", "skewed", "negative", "offset", "outlier", "two-sided outliers"]


def test_min_max_is_exact() -> None:
    assert min_max(observed([-1.25, 0.5, 3.75])) == (-1.25, 3.75)
    assert min_max(observed([2.0, 3.0])) == (2.0, 3.0)


@pytest.mark.parametrize("method", [min_max, percentile, mse])
def test_no_data_is_an_error(method: object) -> None:
    with pytest.raises(InputError, match="no data"):
        method(Histogram.empty())  # type: ignore[operator]


def test_registry() -> None:
    assert set(METHODS) == {"min-max", "percentile", "mse", "entropy", "ifmr", "hfmg"}
    h = observed(samples("normal"))
    assert METHODS["min-max"](h) == min_max(h)
    assert METHODS["percentile"](h) == percentile(h)
    assert METHODS["mse"](h) == mse(h)
    with pytest.raises(TypeError):
        METHODS["other"] = min_max  # type: ignore[index]


@pytest.mark.parametrize("p", [50.0, 0.0, 100.1, math.nan])
def test_percentile_out_of_range(p: float) -> None:
    with pytest.raises(InputError):
        percentile(observed([1.0]), p)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [60.0, 99.0, 99.99])
def test_percentile_leaves_the_tail_outside(kind: str, p: float) -> None:
    values = samples(kind)
    h = observed(values)
    low, high = percentile(h, p)
    tail, width = values.size * (1 - p / 100), h.width
    assert h.low <= low <= high <= h.high
    # up to the width of a bin, exactly the tail lies outside
    assert (values > high + width).sum() <= tail <= (values >= high - width).sum()
    assert (values < low - width).sum() <= tail <= (values <= low + width).sum()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), st.floats(min_value=50.001, max_value=100.0))
def test_percentile_stays_inside_and_is_monotone(values: list[float], p: float) -> None:
    h = observed(values, bins=64)
    low, high = percentile(h, p)
    assert h.low <= low <= high <= h.high
    assert percentile(h, 100.0) == (h.low, h.high)
    wider_low, wider_high = percentile(h, 50 + p / 2)
    assert wider_low <= low
    assert high <= wider_high


@settings(max_examples=40)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30),
    st.sampled_from([2, 3, 4]),
    st.booleans(),
    st.lists(st.tuples(st.floats(-12, 0), st.floats(0, 12)), min_size=1, max_size=4),
)
def test_loss_equals_a_plain_double_loop(
    values: list[float], bits: int, symmetric: bool, ranges: list[tuple[float, float]]
) -> None:
    ranges = [(low, high) for low, high in ranges if high - low > 1e-3]
    assume(ranges)
    h = observed(values, bins=32)
    lows, highs = (np.array(ends) for ends in zip(*ranges, strict=True))
    losses = QuantizationLoss(h, bits=bits, symmetric=symmetric)(lows, highs)
    for (low, high), loss in zip(ranges, losses, strict=True):
        scale, zero_point = grid(low, high, bits, symmetric)
        total = 0.0
        for i, count in enumerate(h.counts.tolist()):
            centre = (i - 16 + 0.5) * 2.0**h.exponent / 16
            points = [(min(max(centre, h.low), h.high), count)]
            if i == 16:
                points = [(points[0][0], count - h.zeros), (0.0, h.zeros)]
            for x, weight in points:
                levels = [(q - zero_point) * scale for q in range(-(2 ** (bits - 1)), 2 ** (bits - 1))]
                total += weight * min((x - level) ** 2 for level in levels)
        # eps64 · (terms summed) · (largest square), the magnitude that cancels in the prefix-sum form
        magnitude = max(abs(h.low), abs(h.high), *(abs(v) * 2 for v in (low, high))) ** 2
        assert abs(loss - total / len(values)) <= 2.0**-52 * 64 * magnitude


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_mse_against_brute_force_on_the_raw_data(kind: str, symmetric: bool, bits: int) -> None:
    values = samples(kind)
    h = observed(values)
    low, high = mse(h, bits=bits, symmetric=symmetric)
    chosen = math.sqrt(raw_loss(values, low, high, bits, symmetric))
    fractions = 2.0 ** -np.linspace(0, 7, 36)
    wide_low, wide_high = min(h.low, 0.0), max(h.high, 0.0)
    if symmetric:
        bounds = max(-wide_low, wide_high) * fractions
        candidates = [(max(wide_low, -b), min(wide_high, b)) for b in bounds]
    else:
        low_fractions = fractions if wide_low < 0 else [1.0]
        high_fractions = fractions if wide_high > 0 else [1.0]
        candidates = [(wide_low * a, wide_high * b) for a in low_fractions for b in high_fractions]
    best = math.sqrt(min(raw_loss(values, a, b, bits, symmetric) for a, b in candidates))
    full = math.sqrt(raw_loss(values, wide_low, wide_high, bits, symmetric))
    # Moving a value by at most half a bin moves its error by as much (distance to a set is 1-Lipschitz), so by
    # Minkowski the histogram's RMS error is within width/2 of the raw one, for the chosen range and for its rival.
    assert chosen <= full + h.width
    # The brute-force grid may hit a better point than the search by its spacing of half a percent per end.
    assert chosen <= best * 1.01 + h.width


def test_mse_clips_an_outlier_and_keeps_an_atom() -> None:
    low, high = mse(observed(np.append(samples("relu", 50_000), [40.0])), bits=4)
    assert low == 0.0
    assert high < 10.0
    half_at_six = np.append(np.linspace(0, 6, 500), np.full(500, 6.0))
    low, high = mse(observed(half_at_six))
    assert low == 0.0
    # a grid whose top is off by e costs e² on half the data; s²/12 with s = 6/255 is the whole error otherwise
    assert abs(high - 6.0) <= 6.0 / 255


def test_mse_of_symmetric_ranges() -> None:
    low, high = mse(observed(samples("two-sided outliers")), symmetric=True)
    assert -90.0 <= low < 0.0 < high <= 40.0
    assert mse(observed([1.0]), symmetric=True) == (0.0, 1.0)


@pytest.mark.parametrize("values", [[0.0], [0.0] * 9, [3.0], [-3.0], [1e-40], [1e38, -1e38], [3e38], [-1e-45, 0.0]])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_of_degenerate_data(values: list[float], symmetric: bool) -> None:
    low, high = mse(observed(values), symmetric=symmetric)
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low <= 0.0 <= high


@pytest.mark.parametrize("values", [[1e-9, 2e-9], [-1e-8, 1e-8], [0.0]])
def test_mse_prefers_the_full_range_among_equals(values: list[float]) -> None:
    """Below the smallest scale every range has scale 1, so all losses are equal."""
    h = observed(values)
    assert mse(h) == (min(h.low, 0.0), h.high)


def test_mse_of_too_many_codes_is_min_max() -> None:
    h = observed(samples("outlier"))
    assert mse(h, bits=16) == min_max(h)
    with pytest.raises(InputError):
        mse(h, bits=1)


@pytest.mark.parametrize("exponent", [-6, 1, 11])
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_scale_with_the_data(exponent: int, symmetric: bool) -> None:
    """A power of two only moves exponents, so every step of every method commutes with it, to the bit."""
    values, factor = samples("laplace"), 2.0**exponent
    h, scaled = observed(values), observed(values * factor)
    for method in (min_max, percentile, lambda g: mse(g, symmetric=symmetric)):
        assert method(scaled) == tuple(end * factor for end in method(h))


@settings(max_examples=30)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), st.booleans(), st.sampled_from([2, 4]))
def test_mse_is_never_worse_than_the_full_range(values: list[float], symmetric: bool, bits: int) -> None:
    h = observed(values, bins=64)
    loss = QuantizationLoss(h, bits=bits, symmetric=symmetric)
    low, high = mse(h, bits=bits, symmetric=symmetric)
    wide_low, wide_high = min(h.low, 0.0), max(h.high, 0.0)
    assert wide_low <= low <= 0.0 <= high <= wide_high
    assert loss(np.array([low]), np.array([high])) <= loss(np.array([wide_low]), np.array([wide_high]))
