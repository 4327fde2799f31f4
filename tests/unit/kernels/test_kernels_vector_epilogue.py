"""The float16 epilogue of the first generation (N15) and the shift (N16): numbers by hand, a scalar definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amctc.errors import InputError
from amctc.kernels.accumulator_shift import shift_of_field, shifted
from amctc.kernels.integer_epilogue import dequantize_full_scale, requantize_fixpipe
from amctc.kernels.vector_epilogue import dequantize_f16, split_dequant_scale

f16, f32 = np.float16, np.float32
INF = np.inf


@pytest.mark.parametrize(
    ("acc", "scale", "y"),
    [
        (1, 1, 1), (-1, 1, -1), (7, 0.5, 3.5),
        (2049, 1, 2048), (2051, 1, 2052), (-2049, 1, -2048),  # ties to even where acc becomes float16
        (2049, 0.5, 1024), (2051, 0.5, 1026),
        (3, 1 + 2**-10, 3.00390625),  # 3 · 1025/1024 = 3.0029…, a tie between 3.001953125 and 3.00390625
        (100_000, 0.125, 12496),  # 100000 / 64 = 1562.5, a tie: 1562 · 64 = 99968
        (2**31 - 1, 2.0**-15, 65504), (-(2**31), 2.0**-16, -32768),  # the guard holds every int32
        (65504, 1, 65504), (65520, 1, 65504), (-(2**31), 1, -65504),
        (1, 2.0**-24, 2.0**-24), (1, 2.0**-25, 0), (0, 3, 0),
    ],
)  # fmt: skip
def test_guarded_dequantization_by_hand(acc: int, scale: float, y: float) -> None:
    result = dequantize_f16(np.int32([acc]), scale)
    assert result.dtype == f16
    assert result[0] == f16(y)


def test_without_the_guard_large_accumulators_overflow() -> None:
    """f16(acc) comes first: 2^17 · 2^-7 is 1024, but float16 ends at 65504."""
    acc = np.int32([2**17, -(2**17), 65519, 65520, 2049])
    np.testing.assert_array_equal(dequantize_f16(acc, 2.0**-7), f16([1024, -1024, 511.75, 512, 16]))
    direct = dequantize_f16(acc, 2.0**-7, guard=False)
    np.testing.assert_array_equal(direct, f16([511.75, -511.75, 511.75, 511.75, 16]))
    infinite = dequantize_f16(acc, 2.0**-7, guard=False, overflow="inf")
    np.testing.assert_array_equal(infinite, f16([INF, -INF, 511.75, INF, 16]))
    np.testing.assert_array_equal(dequantize_f16(acc, 1, overflow="inf"), f16([INF, -INF, 65504, INF, 2048]))


def test_relu_comes_before_the_second_multiplication() -> None:
    acc = np.int32([-1000, -1, 0, 1, 1000])
    y = dequantize_f16(acc, 0.1, relu=True)
    np.testing.assert_array_equal(y, [0, 0, 0, f16(f32(f16(0.1))), f16(f32(1000) * f32(f16(0.1)))])
    assert not np.signbit(y).any()
    assert not np.signbit(dequantize_f16(np.int32([-1]), 2.0**-24 / 4, relu=True)).any()  # not even of -0
    first = f16(f32(1000) * f32(f16(0.1)))
    twice = dequantize_f16(acc, 0.1, relu=True, sqrt_mode=True)
    np.testing.assert_array_equal(twice[[0, 4]], [0, f16(f32(first) * f32(f16(0.1)))])


def test_sqrt_mode_saturates_after_the_first_multiplication_too() -> None:
    acc = np.int32([10_000_000])
    assert dequantize_f16(acc, 2.0**-5, sqrt_mode=True)[0] == f16(65504 / 32)
    assert dequantize_f16(acc, 2.0**-5, sqrt_mode=True, overflow="inf")[0] == INF


def test_a_scale_is_a_float32_before_it_is_a_float16() -> None:
    """1 + 2^-11 + 2^-30 is 1 + 2^-11 in float32, a tie of float16 that rounds to 1."""
    assert dequantize_f16(np.int32([1024]), 1 + 2.0**-11 + 2.0**-30)[0] == 1024


def test_scales_are_split_together_as_soon_as_one_is_no_normal_float16() -> None:
    scales, sqrt_mode = split_dequant_scale(f32([2.0**-14, 0.5]))
    assert not sqrt_mode
    np.testing.assert_array_equal(scales, f32([2.0**-14, 0.5]))
    scales, sqrt_mode = split_dequant_scale(f32([2.0**-16, 0.25]))
    assert sqrt_mode
    np.testing.assert_array_equal(scales, f32([2.0**-8, 0.5]))
    assert split_dequant_scale(f32([1 << 18])) == (f32(512), True)
    with pytest.raises(InputError, match="N15"):
        dequantize_f16(np.int32([1]), 1e6)


@settings(deadline=None)
@given(
    arrays(np.int32, st.tuples(st.integers(0, 3), st.just(2)), elements=st.integers(-(2**31), 2**31 - 1)),
    arrays(np.float32, 2, elements=st.floats(2.0**-14, 8, width=32)),
    st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["saturate", "inf"]),
)  # fmt: skip
def test_it_is_its_scalar_definition(acc, scale, guard, relu, sqrt_mode, overflow) -> None:
    def half(value: float) -> np.float16:
        with np.errstate(over="ignore"):
            return f16(np.clip(value, -65504, 65504) if overflow == "saturate" else value)

    y = dequantize_f16(acc, scale, guard=guard, relu=relu, sqrt_mode=sqrt_mode, overflow=overflow)
    for index, value in np.ndenumerate(acc):
        s = np.float64(f16(scale[index[1]]))
        power = 2.0**17 if guard else 1.0
        expected = half(np.float64(half(np.float64(f32(value)) / power)) * s * power)
        if relu and expected <= 0:
            expected = f16(0)
        if sqrt_mode:
            expected = half(np.float64(expected) * s)
        assert y[index] == expected


@pytest.mark.parametrize("layout", ["C", "F"])
def test_layout_and_batch_do_not_matter(layout) -> None:
    acc = np.random.default_rng(0).integers(-200_000, 200_000, (3, 3, 5, 7)).astype(np.int32)
    scale = f32([1e-3, 2e-3, 3e-3])
    expected = dequantize_f16(acc, scale)
    np.testing.assert_array_equal(dequantize_f16(np.asarray(acc, order=layout), scale), expected)
    np.testing.assert_array_equal(np.concatenate([dequantize_f16(a[None], scale) for a in acc]), expected)


# ---------------------------------------------------------------- N16


def test_the_shift_is_arithmetic_and_saturates_to_int16() -> None:
    acc = np.int32([-1, -3, 1 << 20, -(1 << 20), 100, 2**31 - 1])
    np.testing.assert_array_equal(shifted(acc, 1, 0), [-1, -2, 32767, -32768, 50, 32767])
    np.testing.assert_array_equal(shifted(acc, 255, 0), [-1, -1, 0, -1, 0, 0])
    assert shifted(acc, 0, 0) is acc
    both = shifted(np.int32([[100_000, 100_000]]), [0, 4], 1)
    np.testing.assert_array_equal(both, [[32767, 6250]])


def test_the_field_stands_for_the_shift_or_one_more_but_0_for_none() -> None:
    field = np.array([0, 1, 15])
    np.testing.assert_array_equal(shift_of_field(field, plus_one=False), [0, 1, 15])
    np.testing.assert_array_equal(shift_of_field(field, plus_one=True), [0, 2, 16])


def test_every_epilogue_shifts_first() -> None:
    acc = np.int32([[-9, 9, 1 << 20]])
    np.testing.assert_array_equal(dequantize_f16(acc, 0.5, shift=2), f16([[-1.5, 1, 16384]]))  # 16383.5 is no float16
    np.testing.assert_array_equal(dequantize_full_scale(acc, 0.5, shift=2, dtype=f32), [[-1.5, 1, 16383.5]])
    np.testing.assert_array_equal(requantize_fixpipe(acc, 1, 10, shift=2), [[7, 12, 127]])
    assert dequantize_full_scale(np.int32([[70_000]]), 1, overflow="saturate")[0, 0] == 65504
