"""float16 conversion against NumPy's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amctc.kernels.half_precision import clip_float16, narrow, round_tile, widen
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


halves = arrays(np.uint16, 6).map(lambda bits: bits.view(np.float16))


@given(halves, halves)
def test_float16_sum_is_numpys(a, b):
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(add_float16(a, b), a + b)


def test_float16_sum_overflow():
    big = np.float16([65504, -65504])
    np.testing.assert_array_equal(add_float16(big, big), [np.inf, -np.inf])
    np.testing.assert_array_equal(add_float16(big, big, overflow="saturate"), big)
    np.testing.assert_array_equal(add_float16(big, big[:1], overflow="saturate"), [65504, 0])
    # The spacing is 32 here: less than half of it changes nothing, half of it is a tie and goes to even.
    np.testing.assert_array_equal(add_float16(big, np.float16([15.99, 15.99])), big)
    np.testing.assert_array_equal(add_float16(big, np.float16([-16, 16])), [65472, -65472])


@pytest.mark.parametrize("overflow", ["saturate", "inf"])
def test_round_tile_leaves_in_float32_what_numpy_rounds_to_float16(overflow):
    x = around_every_half_and_midpoint()
    expected = numpy_half(x, overflow).astype(np.float32)
    inside = x[np.abs(x) <= 65504]
    for values, wanted in ((x, expected), (inside, numpy_half(inside, overflow).astype(np.float32))):
        rounded = values.copy()
        with np.errstate(over="ignore"):
            round_tile(rounded, overflow)
        np.testing.assert_array_equal(rounded, wanted)


def test_round_tile_of_multiples_of_the_least_half_needs_no_least_exponent():
    """Below 2^-14 they are float16 numbers, zeros come out as +0; above, every half, its midpoints and neighbours."""
    small = np.arange(-(1 << 10), (1 << 10) + 1, dtype=np.float32) * np.float32(2.0**-24)
    large = around_every_half_and_midpoint()
    for values in (small, np.float32([-0.0, 0.0]), large[np.abs(large) >= 2.0**-14]):
        expected = numpy_half(values, "inf").astype(np.float32) + np.float32(0)
        rounded = values.copy()
        round_tile(rounded, "inf", subnormal=False)
        np.testing.assert_array_equal(rounded.view(np.uint32), expected.view(np.uint32))


def test_round_tile_keeps_nan_and_takes_nothing():
    values = np.float32([1 + 2**-12, np.nan, -3])
    round_tile(values, "inf")
    np.testing.assert_array_equal(values, np.float32([1, np.nan, -3]))
    round_tile(values[:0], "inf")


@pytest.mark.parametrize("finite", [True, False])
def test_widen_gives_every_half_the_bits_that_numpy_gives_it(finite):
    x = EVERY_HALF[np.isfinite(EVERY_HALF)] if finite else EVERY_HALF
    np.testing.assert_array_equal(widen(x).view(np.uint32), x.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 6.0), (0.0, np.inf), (0.1, 0.3), (2.0, 1.0), (1e-7, 1e6), (-0.0, 2**-24)]
)
def test_clip_float16_is_the_clip_of_the_real_numbers_rounded_last(low, high):
    x = EVERY_HALF[~np.isnan(EVERY_HALF)]
    with np.errstate(over="ignore"):
        expected = np.minimum(np.maximum(x.astype(np.float64), low), high).astype(np.float16)
    clipped = clip_float16(x, low, high)
    np.testing.assert_array_equal(clipped, expected)
    assert not np.signbit(clipped).any()


def test_clip_float16_has_no_answer_for_nan_and_for_negative_bounds():
    half = np.float16([1, np.nan])
    assert clip_float16(half, 0.0, 6.0) is None
    assert clip_float16(-half, 0.0, 6.0) is None  # a NaN with its sign set
    assert clip_float16(half[:1], -1.0, 6.0) is None
    assert clip_float16(half[:1], 0.0, -6.0) is None


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 0, 4), (70001,)])
def test_add_float16_does_not_depend_on_the_memory_order_of_either_side(shape):
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(shape).astype(np.float16) for _ in range(2))
    expected = (a.astype(np.float64) + b).astype(np.float16)
    turned = np.asfortranarray(b)
    for left, right in ((a, b), (a, turned), (turned.copy("F"), a)):
        wanted = expected if left is a else (left.astype(np.float64) + right).astype(np.float16)
        np.testing.assert_array_equal(bits(add_float16(left, right)), bits(wanted))
