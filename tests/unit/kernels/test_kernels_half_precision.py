"""float16 conversion against NumPy's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amctc.kernels.half_precision import narrow, widen
from amctc.kernels.integer_epilogue import add_float16
from amctc.numerics.rounding import to_float16

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def bits(x):
    return np.ascontiguousarray(x).view(np.uint16)


def numpy_half(x, overflow):
    with np.errstate(all="ignore"):
        limited = np.clip(x, -65504, 65504) if overflow == "saturate" else x
        return limited.astype(np.float16)


def around_every_half_and_midpoint():
    with np.errstate(all="ignore"):
        exact = EVERY_HALF[np.isfinite(EVERY_HALF)].astype(np.float32)
        middle = (exact[:-1] + exact[1:]) / 2
        points = np.concatenate([exact, middle, np.float32([65519.996, 65520, 65536, 1e38, np.inf, -np.inf, 2**-25])])
        near = [np.nextafter(points, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([points, *near]).astype(np.float32)


@pytest.mark.parametrize("overflow", ["saturate", "inf"])
def test_narrow_rounds_every_tie_and_its_neighbours_as_numpy(overflow):
    x = around_every_half_and_midpoint()
    np.testing.assert_array_equal(bits(narrow(x, overflow)), bits(numpy_half(x, overflow)))
    np.testing.assert_array_equal(bits(narrow(x, overflow)), bits(to_float16(x, overflow)))


@given(arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)), st.sampled_from(["saturate", "inf"]))
def test_narrow_is_numpy_on_any_float32(x, overflow):
    with np.errstate(invalid="ignore"):
        y, expected = narrow(x, overflow), numpy_half(x, overflow)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(y, expected)


def test_widen_is_exact_for_every_half_in_any_layout():
    with np.errstate(invalid="ignore"):
        expected = EVERY_HALF.astype(np.float32)
    np.testing.assert_array_equal(widen(EVERY_HALF), expected)
    strided = EVERY_HALF.reshape(4, 128, 128)[:, ::2].transpose(1, 0, 2)
    np.testing.assert_array_equal(widen(strided), expected.reshape(4, 128, 128)[:, ::2].transpose(1, 0, 2))
    np.testing.assert_array_equal(widen(np.float32([1.5])), [1.5])


def test_float16_sum_is_correctly_rounded_for_every_summand():
    rng = np.random.default_rng(0)
    finite = EVERY_HALF[np.isfinite(EVERY_HALF)]
    special = np.float16([0, 1, 2**-24, 2**-14, 0.5, 1024, 2048, 32768, 65504, 1 + 2**-10, -1, -65504, -(2**-14)])
    for b in np.concatenate([special, rng.choice(finite, 60)]):
        exact = finite.astype(np.float64) + np.float64(b)  # both in 53 bits: exact
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(add_float16(finite, b.reshape(1)), exact.astype(np.float16))


@given(arrays(np.float16, 6, elements=st.floats(width=16)), arrays(np.float16, 6, elements=st.floats(width=16)))
def test_float16_sum_is_numpys(a, b):
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(add_float16(a, b), a + b)


def test_float16_sum_overflow():
    big = np.float16([65504, -65504])
    np.testing.assert_array_equal(add_float16(big, big), [np.inf, -np.inf])
    np.testing.assert_array_equal(add_float16(big, big, overflow="saturate"), big)
    # The spacing is 32 here: less than half of it changes nothing, half of it is a tie and goes to even.
    np.testing.assert_array_equal(add_float16(big, np.float16([15.99, 15.99])), big)
    np.testing.assert_array_equal(add_float16(big, np.float16([-16, 16])), [65472, -65472])
