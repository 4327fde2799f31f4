"""The int32 bias, the accumulator's headroom, and what is done when there is none (N8, N9, N10)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError, LimitError
from amctc.numerics.affine import (
    accumulator_scale,
    bias_scale_for_dead_channel,
    fits_int32,
    has_headroom,
    quantize_bias,
    quantize_weight,
    rescue_weight_scales,
    weight_scales,
)


def worst_accumulator(
    w: np.ndarray, scales: np.ndarray, bias: np.ndarray, scale_d: float, zero_point: int
) -> list[int]:
    """Per channel (axis 0) the bound of N9 in Python integers and fractions, written from the rule."""
    bounds = []
    for c in range(w.shape[0]):
        s = np.float32(scales[c] if len(scales) > 1 else scales[0])
        codes = [max(-128, min(127, round(float(np.float32(v) / s)))) for v in w[c].reshape(-1)]
        unit = Fraction(float(np.float32(s) * np.float32(scale_d)))
        bias_i32 = round(Fraction(float(bias[c])) / unit)
        folded = bias_i32 - zero_point * sum(codes)
        bounds.append(max(abs(folded) + 128 * sum(map(abs, codes)), abs(bias_i32)))
    return bounds


def test_bias_rounds_half_to_even() -> None:
    np.testing.assert_array_equal(quantize_bias([0.5, 1.5, 2.5, -0.5, -1.5], 1.0), [0, 2, 2, 0, -2])
    q = quantize_bias(np.float32([1.0, 1.0]), np.float32([0.25, 0.1]))
    assert q.dtype == np.int64
    np.testing.assert_array_equal(q, [4, 10])


def test_bias_is_not_clipped_to_int32() -> None:
    q = quantize_bias([3e9, 1e30, -1e30], 1.0)
    assert q[0] == 3_000_000_000
    np.testing.assert_array_equal(q[1:], [2**62, -(2**62)])
    np.testing.assert_array_equal(fits_int32(q), [False, False, False])
    np.testing.assert_array_equal(fits_int32([2**31 - 1, 2**31, -(2**31), -(2**31) - 1]), [True, False, True, False])


def test_bias_refuses_bad_input() -> None:
    for bias, scale in ((np.nan, 1.0), (1.0, 0.0), (1.0, np.inf), (1.0, -1.0)):
        with pytest.raises(InputError):
            quantize_bias([bias], [scale])
    with pytest.raises(InputError):
        accumulator_scale(1e-30, 1e-30)  # underflows to zero
    with pytest.raises(InputError):
        accumulator_scale(1e30, 1e30)


@given(st.floats(-1e4, 1e4, width=32), st.floats(min_value=2.0**-14, max_value=1.0, width=32))
def test_bias_rounds_as_the_exact_quotient_does(bias: float, scale: float) -> None:
    exact = Fraction(bias) / Fraction(scale)
    assert abs(exact) < 2**28
    assert quantize_bias([bias], [scale])[0] == round(exact)


def test_headroom_is_strict_and_counts_the_fold() -> None:
    def one(bias: int, total: int, magnitude: int, zero_point: int) -> bool:
        return bool(has_headroom(np.array([bias]), np.array([total]), np.array([magnitude]), zero_point)[0])

    assert one(2**31 - 1 - 128, 1, 1, 0)
    assert not one(2**31 - 128, 1, 1, 0)
    assert not one(2**31 - 1 - 128, -1, 1, 1)  # the fold adds 1
    assert one(-(2**31) + 129, 1, 1, 0)
    assert not one(2**31, 100, 100, 127)  # the fold helps by less than the products take
    assert not one(2**31, -100, 100, -128)


def test_layers_with_headroom_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    scales = weight_scales(w, axis=0)
    new, rescued = rescue_weight_scales(w, scales, rng.standard_normal(4), activation_scale=0.02, zero_point=-3, axis=0)
    np.testing.assert_array_equal(new, scales)
    assert not rescued.any()
    new, rescued = rescue_weight_scales(w, scales, None, activation_scale=0.02, zero_point=0, axis=0)
    assert not rescued.any()


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, -128, 127, 13]),
    st.floats(min_value=-8, max_value=0),
    st.booleans(),
)
def test_rescue_raises_just_enough(seed: int, zero_point: int, log_scale: float, shared: bool) -> None:
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal((5, 12)) * 10.0 ** rng.uniform(-6, 1, (5, 1))).astype(np.float32)
    bias = (rng.standard_normal(5) * 10.0 ** rng.uniform(-2, 7, 5)).astype(np.float32)
    scale_d = float(np.float32(10.0**log_scale))
    scales = weight_scales(w, axis=None if shared else 0)
    before = worst_accumulator(w, scales, bias, scale_d, zero_point)
    new, rescued = rescue_weight_scales(w, scales, bias, activation_scale=scale_d, zero_point=zero_point, axis=0)
    assert new.shape == scales.shape
    assert new.dtype == np.float32
    assert rescued.tolist() == [b >= 2**31 for b in before]
    after = worst_accumulator(w, new, bias, scale_d, zero_point)
    assert max(after) < 2**31
    # 2**-18 covers 2**-21 and the rounding of 12 weights.
    slightly_less = np.maximum(scales, (new * np.float32(1 - 2.0**-18)).astype(np.float32))
    tight = [b >= 2**31 for b in worst_accumulator(w, slightly_less, bias, scale_d, zero_point)]
    if shared:
        assert any(tight) == bool(rescued.any())
        assert (new[0] > scales[0]) == bool(rescued.any())
    else:
        assert tight == rescued.tolist()
        np.testing.assert_array_equal(new[~rescued], scales[~rescued])


def test_rescue_works_along_any_channel_axis() -> None:
    w = np.full((3, 2), 1e-3, np.float32)
    bias = np.array([0.0, 1e6], np.float32)
    new, rescued = rescue_weight_scales(w, weight_scales(w, axis=1), bias, activation_scale=1e-3, zero_point=0, axis=1)
    assert rescued.tolist() == [False, True]
    np.testing.assert_allclose(new[1], 1e6 / 1e-3 / 2**31, rtol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_rescue_because_of_the_weights_alone(sign: int) -> None:
    """140 000 weights of full scale: 128·127·K is above 2**31 although the bias is zero."""
    w = np.full((1, 140_000), sign, np.float32)
    new, rescued = rescue_weight_scales(w, weight_scales(w, axis=0), None, activation_scale=0.1, zero_point=0, axis=0)
    assert rescued.all()
    codes = quantize_weight(w, new, axis=0).astype(np.int64)
    assert set(codes.reshape(-1).tolist()) == {119 * sign}  # the largest code with 128·code·140000 < 2**31


def test_rescue_refuses_the_impossible_and_the_malformed() -> None:
    w, scales = np.ones((1, 2), np.float32), np.ones(1, np.float32)
    with pytest.raises(LimitError, match="N9"):
        rescue_weight_scales(w, scales, [1e30], activation_scale=1e-10, zero_point=0, axis=0)
    with pytest.raises(InputError):
        rescue_weight_scales(w, scales, [1.0, 2.0], activation_scale=1.0, zero_point=0, axis=0)
    with pytest.raises(InputError):
        rescue_weight_scales(w, scales, [1.0], activation_scale=1.0, zero_point=0, axis=2)
    with pytest.raises(InputError):
        rescue_weight_scales(w, scales, [np.nan], activation_scale=1.0, zero_point=0, axis=0)


@given(
    st.floats(min_value=2.0**-13, max_value=1e4, width=32),
    st.booleans(),
    st.floats(min_value=2.0**-16, max_value=2.0**10, width=32),
)
def test_dead_channel_bias_is_fine_and_survives_truncation(bias: float, negative: bool, scale_d: float) -> None:
    value = -bias if negative else bias
    scale = bias_scale_for_dead_channel([value], scale_d)
    product = scale[0] * np.float32(scale_d)
    code = round(Fraction(value) / Fraction(float(product)))
    assert 2**22 - 2 <= abs(code) < 2**23
    # What the chip computes: the code times the multiplier without its low 13 bits.
    kept = (np.array([product], np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)[0]
    assert abs(code * float(kept) - value) <= abs(value) * 2.0**-21
    # The existing tool's scale 1.0 has a step of scale_d; ours is never coarser where that step matters.
    assert float(product) <= abs(value) * 2.0**-21


def test_dead_channel_limits() -> None:
    scale = bias_scale_for_dead_channel(np.array([0.0, 1e-38, 1e38]), 1e-6)
    assert scale[0] == 1.0
    assert scale[1] == np.float32(2.2e-16)
    assert scale[2] == np.float32(4.5e15)
    for bias, scale_d in ((np.nan, 1.0), (1.0, 0.0), (1.0, np.inf)):
        with pytest.raises(InputError):
            bias_scale_for_dead_channel([bias], scale_d)


@pytest.mark.parametrize("axis", [0, 1])
def test_an_axis_counts_from_either_end(axis: int) -> None:
    weight, bias = np.float32([[1, -2], [3, 4]]), [2.0**40, 1.0]
    one, other = (
        rescue_weight_scales(weight, [1e-3, 1e-3], bias, activation_scale=1e-3, zero_point=0, axis=a)
        for a in (axis, axis - 2)
    )
    assert one[1].tolist() == other[1].tolist() == [True, False]
    np.testing.assert_array_equal(one[0], other[0])
