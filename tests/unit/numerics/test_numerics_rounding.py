"""Rounding, saturation, float16 and the 19-bit multiplier, against hand-computed numbers and exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.rounding import round_half_even, round_multiplier, saturate, to_float16, truncate_multiplier

finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
normal32 = finite32.filter(lambda v: 2.0**-126 <= abs(v) < 2.0**127)


def test_ties_go_to_even() -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4999998, 2.5000002], np.float32)
    np.testing.assert_array_equal(round_half_even(x), [-2, -2, 0, 0, 2, 2, 2, 3])
    assert round_half_even(x).dtype == np.float32


def test_saturate_clips_infinities_and_maps_nan_to_zero() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 200.0, -129.0, 127.0, -128.0, -0.0], np.float32)
    q = saturate(x, -128, 127, np.int8)
    assert q.dtype == np.int8
    np.testing.assert_array_equal(q, [0, 127, -128, 127, -128, 127, -128, 0])


def test_saturate_of_float32_at_int32_bounds_is_exact() -> None:
    # float32(2**31 - 1) is 2**31, so a clip in float32 would let 2**31 overflow.
    x = np.array([2.0**31, 1e30, -1e30, 2147483520.0], np.float32)
    q = saturate(x, -(2**31), 2**31 - 1, np.int32)
    np.testing.assert_array_equal(q, [2**31 - 1, 2**31 - 1, -(2**31), 2147483520])


def test_saturate_of_float16_at_bounds_it_does_not_hold() -> None:
    q = saturate(np.array([np.inf, 2049, -np.inf], np.float16), -32768, 32767, np.int16)
    np.testing.assert_array_equal(q, [32767, 2048, -32768])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int64, np.uint64])
def test_saturate_of_integers_of_any_width(kind: type) -> None:
    info = np.iinfo(kind)
    x = np.array([info.min, 0, 5, info.max], kind)
    expected = [min(max(int(v), -100), 300) for v in x]
    np.testing.assert_array_equal(saturate(x, -100, 300, np.int16), expected)


def test_saturate_with_bounds_beyond_the_input_type() -> None:
    x = np.array([1, 2], np.int8)
    np.testing.assert_array_equal(saturate(x, 200, 300, np.int16), [200, 200])
    np.testing.assert_array_equal(saturate(x, -300, -200, np.int16), [-200, -200])


def test_bounds_that_no_value_meets_give_the_type_asked_for() -> None:
    for x, low, high, expected in ((np.int8([5]), 200, 300, 200), (np.uint8([5]), -300, -200, -200)):
        result = saturate(x, low, high, np.int32)
        assert (result.dtype, result.tolist()) == (np.int32, [expected])
    assert saturate(np.int8([5, 127]), 127, 300, np.int32).tolist() == [127, 127]


def test_saturate_accepts_scalars_and_empty_arrays() -> None:
    assert saturate(300.0, -128, 127, np.int8) == 127
    assert saturate(np.empty((0, 3), np.float32), -128, 127, np.int8).shape == (0, 3)


def test_saturate_refuses_bad_bounds() -> None:
    with pytest.raises(InputError):
        saturate(np.zeros(1), -129, 127, np.int8)
    with pytest.raises(InputError):
        saturate(np.zeros(1), 5, 4, np.int8)
    with pytest.raises(InputError):
        saturate(np.zeros(1), -(2**63), 2**63 - 1, np.int64)
    with pytest.raises(InputError):
        saturate(np.zeros(1, np.bool_), -1, 1, np.int8)


def test_float16_overflow_modes() -> None:
    x = np.array([65504.0, 65519.0, 65520.0, 1e38, np.inf, -65520.0, 1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11], np.float32)
    saturated = to_float16(x)
    infinite = to_float16(x, overflow="inf")
    assert saturated.dtype == np.float16
    np.testing.assert_array_equal(saturated[:6], [65504, 65504, 65504, 65504, 65504, -65504])
    np.testing.assert_array_equal(infinite[:6], [65504, 65504, np.inf, np.inf, np.inf, -np.inf])
    # ties to even in the tenth mantissa bit
    np.testing.assert_array_equal(saturated[6:], [1.0, 1.0 + 2.0**-9])
    assert np.isnan(to_float16(np.array([np.nan])))[0]
    assert to_float16(np.array([2**31 - 1, 7], np.int32)).tolist() == [65504.0, 7.0]


def test_float16_refuses_an_unknown_mode() -> None:
    with pytest.raises(InputError):
        to_float16(np.zeros(1), overflow="wrap")  # type: ignore[arg-type]


def test_truncation_drops_the_low_13_bits_toward_zero() -> None:
    below_two = np.float32(2.0) - np.float32(2.0**-23)  # all 23 mantissa bits set
    assert truncate_multiplier(below_two) == 2.0 - 2.0**-10
    assert truncate_multiplier(-below_two) == -(2.0 - 2.0**-10)
    assert round_multiplier(below_two) == 2.0
    assert truncate_multiplier(np.float32(1.0)) == 1.0


def test_multiplier_rounding_takes_ties_to_even() -> None:
    ties = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-23, 1 + 3 * 2.0**-11 - 2.0**-23], np.float32)
    np.testing.assert_array_equal(round_multiplier(ties), [1, 1 + 2.0**-9, 1 + 2.0**-10, 1 + 2.0**-10])


def test_multipliers_keep_special_values() -> None:
    payload_in_dropped_bits = np.array([0x7F800001], np.uint32).view(np.float32)
    for function in (truncate_multiplier, round_multiplier):
        assert np.isnan(function(payload_in_dropped_bits))[0]
        np.testing.assert_array_equal(function(np.array([np.inf, -np.inf, 0.0])), [np.inf, -np.inf, 0.0])
        assert np.signbit(function(np.float32(-0.0)))
    assert round_multiplier(np.finfo(np.float32).max) == np.inf
    assert np.isfinite(truncate_multiplier(np.finfo(np.float32).max))


@given(normal32)
def test_truncation_is_toward_zero_and_within_2_to_minus_10(value: float) -> None:
    truncated = float(truncate_multiplier(np.float32(value)))
    assert abs(truncated) <= abs(value)
    assert Fraction(abs(value)) - Fraction(abs(truncated)) < Fraction(abs(value)) / 1024
    assert truncate_multiplier(np.float32(truncated)) == np.float32(truncated)


@given(normal32)
def test_multiplier_rounding_is_nearest(value: float) -> None:
    """Of the two 19-bit neighbours the nearer one is chosen, and of two equally near the even one."""
    x, rounded = Fraction(value), Fraction(float(round_multiplier(np.float32(value))))
    unit = Fraction(2) ** (int(np.frexp(abs(value))[1]) - 11)  # 10 stored bits below the leading one
    quotient = abs(x) / unit
    assert abs(rounded) == round(quotient) * unit  # Python rounds fractions half to even


@given(finite32, finite32)
def test_truncation_and_rounding_are_monotone(a: float, b: float) -> None:
    pair = np.array([min(a, b), max(a, b)], np.float32)
    for function in (truncate_multiplier, round_multiplier):
        low, high = function(pair)
        assert low <= high
