"""Scales, zero points, quantize and dequantize."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.errors import InputError
from amctc.numerics.affine import (
    affine_parameters,
    dequantize_linear,
    quantize_linear,
    quantize_weight,
    storage_range,
    weight_scales,
)

ends = st.floats(min_value=-1e6, max_value=1e6, width=32)
weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
    elements=st.floats(min_value=-100, max_value=100, width=32),
)


def test_relu_range_by_hand() -> None:
    scale, zero_point = affine_parameters(0.0, 255.0)
    assert (scale, zero_point) == (1.0, -128)
    assert type(scale) is np.float32
    assert type(zero_point) is int


def test_asymmetric_range_by_hand() -> None:
    # (4 + 1) / 255 = 1/51; -RNE(-1 · 51) - 128 = -77
    scale, zero_point = affine_parameters(-1.0, 4.0)
    assert scale == np.float32(5.0 / 255.0)
    assert zero_point == -77
    scale, zero_point = affine_parameters(-1.0, 2.0, bits=4)
    assert scale == np.float32(0.2)
    assert zero_point == -3  # 5 - 8


def test_range_is_widened_to_hold_zero() -> None:
    assert affine_parameters(3.0, 25.5) == affine_parameters(0.0, 25.5) == (np.float32(0.1), -128)
    assert affine_parameters(-25.5, -3.0) == (np.float32(0.1), 127)


def test_symmetric_divisor_follows_the_larger_side() -> None:
    assert affine_parameters(-1.0, 12.7, symmetric=True) == (np.float32(0.1), 0)
    assert affine_parameters(-12.8, 12.7, symmetric=True) == (np.float32(0.1), 0)
    assert affine_parameters(-12.7, 12.7, symmetric=True) == (np.float32(0.1), 0)
    assert affine_parameters(-0.8, 0.1, bits=4, symmetric=True) == (np.float32(0.1), 0)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-1e-30, 1e-6), (0.0, 3e-5)])
def test_degenerate_range_gives_scale_one(low: float, high: float) -> None:
    assert affine_parameters(low, high) == (1.0, -128)
    assert affine_parameters(low / 100, high / 100, symmetric=True) == (1.0, 0)


def test_smallest_scale_itself_is_not_degenerate() -> None:
    assert affine_parameters(0.0, 255 * 2.0**-23)[0] == 2.0**-23
    assert affine_parameters(0.0, 254.99 * 2.0**-23)[0] == 1.0


def test_whole_float32_range_does_not_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    scale, zero_point = affine_parameters(-largest, largest)
    assert scale == np.float32(2 * largest / 255)
    assert zero_point in (-1, 0)


@pytest.mark.parametrize("pair", [(math.nan, 1.0), (0.0, math.inf), (-math.inf, 0.0), (2.0, 1.0), (0.0, 1e300)])
def test_bad_ranges_are_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(InputError):
        affine_parameters(*pair)


def test_storage_range() -> None:
    assert storage_range(8) == (-128, 127)
    assert storage_range(4) == (-8, 7)
    for bits in (1, 17):
        with pytest.raises(InputError):
            storage_range(bits)


@given(ends, ends, st.sampled_from([4, 8, 16]), st.booleans())
def test_parameters_cover_the_range(a: float, b: float, bits: int, symmetric: bool) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, zero_point = affine_parameters(low, high, bits=bits, symmetric=symmetric)
    first, last = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert first <= zero_point <= last
    # The grid reaches both ends to within half a step; zero is a grid point. A symmetric grid chosen for the
    # negative side may leave the positive end up to a whole step outside.
    step = float(scale)
    slack = (1.0 if symmetric else 0.5) * step * (1 + 1e-4) + 1e-6 * max(high, -low)
    assert (first - zero_point) * step <= low + slack
    assert (last - zero_point) * step >= high - slack


@given(ends, ends, st.floats(min_value=0.0, max_value=1.0), st.sampled_from([4, 8]))
def test_error_inside_the_grid_is_at_most_half_a_step(a: float, b: float, t: float, bits: int) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, zero_point = affine_parameters(low, high, bits=bits)
    first, last = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    grid_low, grid_high = (first - zero_point) * float(scale), (last - zero_point) * float(scale)
    x = np.float32(grid_low + t * (grid_high - grid_low))
    q = quantize_linear(x, scale, zero_point, low=first, high=last)
    back = float(dequantize_linear(q, scale, zero_point))
    assert abs(back - float(x)) <= 0.5 * float(scale) * (1 + 1e-4)
    assert (
        float(dequantize_linear(quantize_linear(0.0, scale, zero_point, low=first, high=last), scale, zero_point)) == 0
    )


@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False)), st.integers(-128, 127))
def test_quantization_is_monotone(x: np.ndarray, zero_point: int) -> None:
    q = quantize_linear(np.sort(x), 0.037, zero_point, low=-128, high=127)
    assert (np.diff(q.astype(int)) >= 0).all()


@given(st.integers(-128, 127), st.integers(-128, 127), st.floats(min_value=2.0**-20, max_value=1e6, width=32))
def test_codes_survive_the_round_trip(code: int, zero_point: int, scale: float) -> None:
    real = dequantize_linear(np.int8(code), scale, zero_point)
    assert quantize_linear(real, scale, zero_point, low=-128, high=127) == code


@given(
    st.floats(min_value=-50, max_value=50, width=32),
    st.floats(min_value=2.0**-7, max_value=3, width=32),
    st.integers(-128, 127),
)
def test_quantize_linear_divides_in_float32(x: float, scale: float, zero_point: int) -> None:
    """Against exact fractions: the quotient is rounded to 24 bits first, then half to even."""
    exact = Fraction(x) / Fraction(scale)
    quotient = np.float32(float(exact))  # via float64: innocuous double rounding for a division (53 ≥ 2·24 + 2)
    expected = max(-128, min(127, round(Fraction(float(quotient))) + zero_point))
    assert quantize_linear(np.float32(x), scale, zero_point, low=-128, high=127) == expected


def test_quantize_linear_division_differs_from_the_reciprocal() -> None:
    # 45.5 / 7 is the tie 6.5; float32(1/7) is a little large, so the product of N2 rounds up to 7 (N5).
    x, scale = np.float32(45.5), np.float32(7.0)
    assert quantize_linear(x, scale, 0, low=-128, high=127) == 6
    assert np.rint(x * (np.float32(1) / scale)) == 7


def test_quantize_linear_special_values() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
    np.testing.assert_array_equal(quantize_linear(x, 1e-3, 0, low=-128, high=127), [-128, 127, -128, 127])
    q = quantize_linear(np.array([1.0, 400.0]), 1.0, 10, low=0, high=255, dtype=np.uint8)
    assert q.dtype == np.uint8
    np.testing.assert_array_equal(q, [11, 255])


def test_quantize_and_dequantize_per_axis() -> None:
    x = np.ones((2, 3, 2), np.float32)
    scale, zero_point = np.array([1.0, 0.5, 0.25], np.float32), np.array([0, 1, -1], np.int8)
    q = quantize_linear(x, scale, zero_point, low=-128, high=127, axis=1)
    np.testing.assert_array_equal(q[1, :, 0], [1, 3, 3])
    np.testing.assert_array_equal(dequantize_linear(q, scale, zero_point, axis=1), x)
    np.testing.assert_array_equal(dequantize_linear(q, scale, zero_point, axis=-2, dtype=np.float16), x)


def test_blocks_along_an_axis_have_parameters_of_their_own():
    """Rows 0 and 1 by the first entries, row 2, the short block, by the last ones."""
    codes = np.int8([[5, 5], [6, 6], [7, 7]])
    real = dequantize_linear(codes, [1, 2, 4, 8], [0, 5, 7, 0], axis=0, block=2)
    np.testing.assert_array_equal(real, [[5, 0], [6, 2], [0, 56]])
    np.testing.assert_array_equal(dequantize_linear(codes.T, [1, 4, 2, 8], [0, 7, 5, 0], axis=1, block=2), real.T)
    np.testing.assert_array_equal(dequantize_linear(codes, [2], [5], axis=0, block=4), (codes - 5) * 2)
    with pytest.raises(InputError, match="3 values for blocks of 2"):
        dequantize_linear(codes, [1, 2, 4], 0, axis=0, block=2)


def test_per_channel_scales_need_an_axis() -> None:
    x = np.ones((2, 3), np.float32)
    for axis in (None, 2):
        with pytest.raises(InputError):
            quantize_linear(x, np.ones(3, np.float32), 0, low=-128, high=127, axis=axis)
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError):
            quantize_linear(x, scale, 0, low=-128, high=127)
        with pytest.raises(InputError):
            dequantize_linear(x.astype(np.int8), scale, 0)


def test_dequantize_int8_extremes_does_not_wrap() -> None:
    q = np.array([-128, 127], np.int8)
    np.testing.assert_array_equal(dequantize_linear(q, 0.5, np.int8(127)), [-127.5, 0.0])
    np.testing.assert_array_equal(dequantize_linear(q, 0.5, np.int8(-128)), [0.0, 127.5])


def test_weight_scales_by_hand() -> None:
    w = np.array([[12.7, -1.0], [-12.8, 12.0], [-12.7, 12.7], [0.0, 0.0], [1e-9, 0.0]], np.float32)
    np.testing.assert_array_equal(weight_scales(w, axis=0), np.array([0.1, 0.1, 0.1, 1.0, 1.0], np.float32))
    plain = weight_scales(w, axis=0, sign_aware=False)
    assert plain[1] == np.float32(np.float64(np.float32(12.8)) / 127)
    np.testing.assert_array_equal(weight_scales(w, axis=None), np.array([0.1], np.float32))
    np.testing.assert_array_equal(weight_scales(w.T, axis=1), weight_scales(w, axis=0))
    np.testing.assert_array_equal(weight_scales(w.T, axis=-1), weight_scales(w, axis=0))
    np.testing.assert_array_equal(quantize_weight(w[1:2], np.float32(0.1), axis=0), [[-128, 120]])
    np.testing.assert_array_equal(weight_scales(np.zeros((2, 0)), axis=0), [1.0, 1.0])


def test_weights_must_be_finite_and_fit_int8() -> None:
    w = np.array([[1.0, np.nan]], np.float32)
    with pytest.raises(InputError):
        weight_scales(w, axis=0)
    with pytest.raises(InputError):
        quantize_weight(w, np.ones(1), axis=0)
    with pytest.raises(InputError):
        quantize_weight(np.ones((1, 1)), np.ones(1), axis=0, bits=16)


@given(weights, st.sampled_from([4, 8]), st.booleans())
def test_weight_error_is_at_most_half_a_step(w: np.ndarray, bits: int, sign_aware: bool) -> None:
    """One code is missing above zero, so only a positive value just under a larger negative one may lose more."""
    scale = weight_scales(w, axis=0, bits=bits, sign_aware=sign_aware)
    q = quantize_weight(w, scale, axis=0, bits=bits)
    assert q.dtype == np.int8
    step = scale.reshape(-1, *[1] * (w.ndim - 1)).astype(np.float64)
    error = np.abs(q * step - w)
    top = q == 2 ** (bits - 1) - 1
    assert (error[~top] <= (0.5 * step * (1 + 1e-5) + 0 * w)[~top]).all()
    assert (error <= (1.0 if sign_aware else 0.5) * step * (1 + 1e-5)).all()


@given(weights, st.integers(-8, 8))
def test_power_of_two_rescaling_leaves_the_codes_alone(w: np.ndarray, exponent: int) -> None:
    largest = np.abs(w).reshape(w.shape[0], -1).max(axis=1)
    assume((largest > 1.0).all())  # away from the dead-channel rule, which is not scale invariant
    scaled = np.ldexp(w, exponent).astype(np.float32)
    assume((np.ldexp(scaled, -exponent) == w).all())
    scales, scaled_scales = weight_scales(w, axis=0), weight_scales(scaled, axis=0)
    np.testing.assert_array_equal(scaled_scales, np.ldexp(scales, exponent))
    np.testing.assert_array_equal(quantize_weight(scaled, scaled_scales, axis=0), quantize_weight(w, scales, axis=0))
