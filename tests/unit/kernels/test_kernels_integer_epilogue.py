"""Epilogues: hand-computed numbers for every rule, an element-by-element float32 model, layout and batch."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amctc.errors import InputError
from amctc.kernels.integer_epilogue import (
    antiquantize,
    dequantize_fixpipe,
    dequantize_full_scale,
    quantize_fp16,
    quantize_fp32,
    requantize_fixpipe,
    split_fp16_scale,
)
from amctc.kernels.integer_pool import max_pool_int8, sum_pool_int8

f32, f16 = np.float32, np.float16
ACC_SHAPES = st.tuples(st.integers(0, 3), st.just(3), st.integers(1, 4))
ANY_INT32 = st.integers(-(2**31), 2**31 - 1)


def truncated(value):
    """A float32 without its low 13 mantissa bits, through its bytes: the independent form of N12."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return f32(struct.unpack("<f", struct.pack("<I", bits & 0xFFFFE000))[0])


def sat(value, low=-128, high=127):
    return int(min(max(value, low), high))


# ---------------------------------------------------------------- N2, N3: quantize


@pytest.mark.parametrize(
    ("x", "scale", "offset", "q"),
    [
        (0.5, 1, 0, 0), (1.5, 1, 0, 2), (2.5, 1, 0, 2), (-0.5, 1, 0, 0), (-1.5, 1, 0, -2),  # ties to even
        (0.5, 1, 1, 2), (0.5, 1, -1, 0),  # the offset is added before rounding: 1.5 -> 2, -0.5 -> 0
        (127.4, 1, 0, 127), (127.5, 1, 0, 127), (-128.5, 1, 0, -128), (-129, 1, 0, -128), (1e30, 1e30, 0, 127),
        (-np.inf, 1, 5, -128), (np.nan, 1, 5, 0), (3, 2, -128, -122), (255, 1, -128, 127),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kernel", [quantize_fp32, quantize_fp16])
def test_quantize_by_hand(kernel, x, scale, offset, q):
    result = kernel(f32([x]), scale, offset)
    assert result.dtype == np.int8
    assert result[0] == q


def test_quantize_rounds_product_and_sum_separately():
    """N2, no fused multiply-add: x · scale = 100.5 · (1 - 2^-26) rounds to 100.5; less 99 a tie, 1.5 -> 2, fused 1."""
    x, scale = f32([100.5 * (1 - 2.0**-13)]), f32(1 + 2.0**-13)
    assert float(x[0]) * float(scale) - 99 < 1.5
    assert quantize_fp32(x, scale, -99)[0] == 2


def test_quantize_sqrt_mode_multiplies_twice():
    x, root = f32([3.7]), f32(np.sqrt(f32(7.3)))
    assert quantize_fp32(x, root, 0, sqrt_mode=True)[0] == int(np.rint(f32(f32(x[0] * root) * root)))
    assert quantize_fp16(x, 2.0**-8, 0, sqrt_mode=True)[0] == 0
    assert quantize_fp16(f32([60000]), 2.0**-5, 0, sqrt_mode=True)[0] == 59  # 58.59
    assert split_fp16_scale(2.0**-16) == (2.0**-8, True)
    assert split_fp16_scale(2.0**-14) == (2.0**-14, False)
    assert split_fp16_scale(2.0**18) == (2.0**9, True)
    assert split_fp16_scale(65504.0) == (65504.0, False)
    assert split_fp16_scale(65504.5)[1]


@pytest.mark.parametrize(
    ("bits", "low", "high", "dtype"), [(4, -8, 7, np.int8), (8, -128, 127, np.int8), (16, -32768, 32767, np.int16)]
)
@pytest.mark.parametrize("kernel", [quantize_fp32, quantize_fp16])
def test_quantize_ranges(kernel, bits, low, high, dtype):
    q = kernel(f32([-1e9, 1e9, 1, -1]), 1, 0, bits=bits)
    assert q.dtype == dtype
    np.testing.assert_array_equal(q, [low, high, 1, -1])
    with pytest.raises(InputError, match="N1"):
        kernel(f32([1]), 1, 0, bits=5)


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(0, 8), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(2.0**-10, 2.0**10, width=32), st.integers(-128, 127), st.booleans(), st.booleans(),
)  # fmt: skip
def test_quantize_is_its_scalar_definition(x, scale, offset, sqrt_mode, half):
    if half:
        with np.errstate(over="ignore"):
            x = x.astype(f16)
    expected32, expected16 = [], []
    with np.errstate(all="ignore"):
        for value in x:
            t = f32(f32(value) * f32(scale))
            t = f32(t * f32(scale)) if sqrt_mode else t
            expected32.append(sat(np.rint(f32(t + f32(offset))) if offset else np.rint(t)))
            h = f16(f16(value) * f16(scale))
            h = f16(h * f16(scale)) if sqrt_mode else h
            h = f16(h + f16(offset)) if offset else h
            expected16.append(0 if np.isnan(h) else sat(np.rint(h)))
    np.testing.assert_array_equal(quantize_fp32(x, scale, offset, sqrt_mode=sqrt_mode), expected32)
    np.testing.assert_array_equal(quantize_fp16(x, scale, offset, sqrt_mode=sqrt_mode), expected16)


@pytest.mark.parametrize(
    ("x", "q32", "q16"),
    [
        (2049, 0, 0),  # 0.25; f16(2049) = 2048
        (2050.9, 1, 0),  # 0.725; f16(2050.9) = 2050 gives 0.5, a tie
        (2051, 1, 1),  # 0.75; f16(2051) = 2052
        (2053.5, 1, 2),  # 1.375; f16(2053.5) = 2054 gives 1.5, a tie
    ],
)
def test_quantize_fp16_rounds_its_input_first(x, q32, q16):
    """N3 on x / 4 - 512; from 2048 to 4096 a float16 is even."""
    assert quantize_fp32(f32([x]), 0.25, -512)[0] == q32
    assert quantize_fp16(f32([x]), 0.25, -512)[0] == q16


def test_quantize_fp16_is_numpys_float16_arithmetic():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(50000) * 40).astype(f16)
    for scale, offset in [(1.37, 0), (0.713, 3), (2.9, -77), (0.0101, 127)]:
        root = f16(np.sqrt(scale))
        np.testing.assert_array_equal(
            quantize_fp16(x, scale, offset), np.clip(np.rint(x * f16(scale) + f16(offset)), -128, 127)
        )
        np.testing.assert_array_equal(
            quantize_fp16(x, root, offset, sqrt_mode=True), np.clip(np.rint(x * root * root + f16(offset)), -128, 127)
        )


def test_quantize_per_channel_keeps_shape():
    x = np.ones((2, 3, 4, 5), f32)
    q = quantize_fp32(x, [1, 2, 3], [0, 1, 0], channel_axis=1)
    np.testing.assert_array_equal(q[1, :, 2, 2], [1, 3, 3])
    assert q.shape == x.shape


# ---------------------------------------------------------------- N12, N13, N16: dequantize


def test_dequantize_truncates_the_multiplier_to_19_bits():
    scale = f32(1 + 2**-10 + 2**-11)  # truncation keeps 2^-10, rounding to 19 bits is a tie and goes to even: 2^-9
    acc = np.int32([[1024], [-1024]])
    np.testing.assert_array_equal(dequantize_fixpipe(acc, scale), [[1025], [-1025]])
    np.testing.assert_array_equal(dequantize_fixpipe(acc, scale, round_multiplier=True), [[1026], [-1026]])
    np.testing.assert_array_equal(dequantize_fixpipe(acc, -scale), [[-1025], [1025]])  # toward zero for both signs
    np.testing.assert_array_equal(dequantize_full_scale(acc, scale, dtype=f32), [[1025.5], [-1025.5]])


def test_dequantize_overflow_and_relu():
    acc = np.int32([65504, 65519, 65520, 2**31 - 1, -65520, -(2**31), -1, 0])
    saturated = [65504, 65504, 65504, 65504, -65504, -65504, -1, 0]
    infinite = [65504, 65504, np.inf, np.inf, -np.inf, -np.inf, -1, 0]
    np.testing.assert_array_equal(dequantize_fixpipe(acc, 1), saturated)
    np.testing.assert_array_equal(dequantize_fixpipe(acc, 1, overflow="inf"), infinite)
    np.testing.assert_array_equal(dequantize_fixpipe(acc, 1, relu=True), np.maximum(saturated, 0))
    assert not np.signbit(dequantize_fixpipe(acc, 1, relu=True)).any()


def test_dequantize_shift_saturates_to_int16_first():
    """N16: arithmetic shift, so -1 >> 1 is -1; 2^20 >> 4 = 65536 saturates to 32767."""
    acc = np.int32([-1, -3, 1 << 20, -(1 << 20), 100])
    np.testing.assert_array_equal(dequantize_fixpipe(acc, 1, shift=1), [-1, -2, 32768, -32768, 50])
    np.testing.assert_array_equal(dequantize_fixpipe(acc, 0.5, shift=4), f16([-0.5, -0.5, 16383.5, -16384, 3]))
    both = dequantize_fixpipe(np.int32([[8, 8]]), [1, 1], shift=[0, 2], channel_axis=1)
    np.testing.assert_array_equal(both, [[8, 2]])


@settings(deadline=None)
@given(
    arrays(np.int32, ACC_SHAPES, elements=ANY_INT32),
    arrays(np.float32, 3, elements=st.floats(2.0**-30, 8, width=32)),
    st.sampled_from(["saturate", "inf"]),
)  # fmt: skip
def test_dequantize_is_its_scalar_definition(acc, scale, overflow):
    y = dequantize_fixpipe(acc, scale, overflow=overflow)
    assert y.dtype == f16
    for index, value in np.ndenumerate(acc):
        product = f32(f32(value) * truncated(scale[index[1]]))
        with np.errstate(over="ignore"):
            expected = f16(np.clip(product, f32(-65504), f32(65504)) if overflow == "saturate" else product)
        assert y[index] == expected


def test_dequantize_full_scale_order():
    """N13: acc · scale, · token scale, + bias, one cast."""
    acc = np.int32([[3, 5], [7, 16777217]])
    scale, token, bias = f32([0.1, 0.3]), f32([[0.7], [1.1]]), f32([0.25, -1])
    expected = np.empty((2, 2), f32)
    for (row, column), value in np.ndenumerate(acc):
        expected[row, column] = f32(f32(f32(f32(value) * scale[column]) * token[row, 0]) + bias[column])
    y = dequantize_full_scale(acc, scale, token_scale=token, bias=bias, dtype=f32)
    np.testing.assert_array_equal(y, expected)
    half = dequantize_full_scale(acc, scale, token_scale=token, bias=bias)
    assert half.dtype == f16
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, expected.astype(f16))
    rectified = dequantize_full_scale(-acc, scale, bias=bias, relu=True, dtype=f32)
    np.testing.assert_array_equal(rectified, [[0, 0], [0, 0]])
    image = dequantize_full_scale(np.ones((1, 2, 2, 2), np.int32), [1, 2], bias=[10, 20], channel_axis=1, dtype=f32)
    np.testing.assert_array_equal(image[0, :, 1, 1], [11, 22])


# ---------------------------------------------------------------- N17: requantize


@pytest.mark.parametrize(
    ("acc", "multiplier", "offset", "q"),
    [
        (1, 0.5, 0, 0), (3, 0.5, 0, 2), (5, 0.5, 0, 2), (-1, 0.5, 0, 0), (-3, 0.5, 0, -2),  # ties to even
        (1, 0.5, 1, 1), (3, 0.5, 1, 3),  # rounding comes before the offset: RNE(1.5 + 1) would be 2 for the first
        (1000, 1, 0, 127), (-1000, 1, 0, -128),
        (1000, 1, -200, 55), (255, 1, -200, 55), (254, 1, -200, 54),  # clipped to 255 before the offset
        (-1000, 1, 200, -56), (-256, 1, 200, -56),  # and to -256
        (2**31 - 1, 1, 0, 127), (-(2**31), 1, 0, -128), (2**31 - 1, 2.0**-24, 0, 127), (2**31 - 1, 2.0**-25, 0, 64),
        (-100, 1, -128, -128), (255, 1, -128, 127), (200, 1, -128, 72),
    ],
)  # fmt: skip
def test_requantize_by_hand(acc, multiplier, offset, q):
    result = requantize_fixpipe(np.int32([acc]), multiplier, offset)
    assert result.dtype == np.int8
    assert result[0] == q


def test_requantize_unsigned_and_branches():
    acc = np.int32([-300, -10, 0, 10, 300])
    unsigned = requantize_fixpipe(acc, 1, 5, unsigned=True)
    assert unsigned.dtype == np.uint8
    np.testing.assert_array_equal(unsigned, [0, 0, 5, 15, 255])
    relu = requantize_fixpipe(acc, 0.5, -20, negative_multiplier=0)
    np.testing.assert_array_equal(relu, [-20, -20, -20, -15, 127])
    leaky = requantize_fixpipe(acc, 1, 0, negative_multiplier=0.125)
    np.testing.assert_array_equal(leaky, [-38, -1, 0, 10, 127])  # from -37.5 (tie) and -1.25
    np.testing.assert_array_equal(requantize_fixpipe(acc, 1, 0, negative_multiplier=-1), [127, 10, 0, 10, 127])
    np.testing.assert_array_equal(requantize_fixpipe(acc, -1, 0, negative_multiplier=0), [0, 0, 0, -10, -128])


@pytest.mark.parametrize(("unsigned", "expected"), [(True, [0, 0, 255, 255]), (False, [-128, -1, 127, 127])])
def test_requantize_saturates_where_the_offset_alone_leaves_the_range(unsigned, expected):
    acc, offsets = np.int32([[-300, 300, 0, 300]]), [-256, -256, 255, 255]
    np.testing.assert_array_equal(requantize_fixpipe(acc, 1, offsets, unsigned=unsigned)[0], expected)


def test_quantize_fp16_saturates_an_infinity_before_it_is_scaled():
    x = f16([np.inf, -np.inf])
    # 65504 · 2^-10 = 63.97, rounded 64; an infinity stays one
    np.testing.assert_array_equal(quantize_fp16(x, 2.0**-10, overflow="saturate"), [64, -64])
    np.testing.assert_array_equal(quantize_fp16(x, 2.0**-10, overflow="inf"), [127, -128])


@pytest.mark.parametrize("offset", [-257, 256, [0, 300]])
def test_requantize_refuses_an_offset_outside_int9(offset):
    with pytest.raises(InputError, match="N11"):
        requantize_fixpipe(np.zeros((1, 2), np.int32), 1, offset)


@settings(deadline=None)
@given(
    arrays(np.int32, ACC_SHAPES, elements=ANY_INT32 | st.integers(-2000, 2000)),
    arrays(np.float32, 3, elements=st.floats(2.0**-31, 2, width=32)),
    arrays(np.int64, 3, elements=st.integers(-256, 255)),
    st.sampled_from([None, 0.0, 0.25]), st.booleans(),
)  # fmt: skip
def test_requantize_is_its_scalar_definition(acc, scale, offset, slope, unsigned):
    multiplier = f32([truncated(s) for s in scale])
    negative = None if slope is None else f32([truncated(f32(slope) * m) for m in multiplier])
    q = requantize_fixpipe(acc, multiplier, offset, negative_multiplier=negative, unsigned=unsigned)
    low, high = (0, 255) if unsigned else (-128, 127)
    for index, value in np.ndenumerate(acc):
        channel = index[1]
        m = multiplier[channel] if value >= 0 or negative is None else negative[channel]
        t = np.rint(min(max(f32(f32(value) * m), f32(-256)), f32(255)))
        assert q[index] == sat(t + offset[channel], low, high)


# ---------------------------------------------------------------- N20 and the layouts


def test_antiquantize_by_hand():
    q = np.int8([-128, -1, 0, 127])
    np.testing.assert_array_equal(antiquantize(q, 0.5, 3), [-62.5, 1, 1.5, 65])
    np.testing.assert_array_equal(antiquantize(q, f32(0.1)), [f16(f32(f32(v) * f32(0.1))) for v in q])
    np.testing.assert_array_equal(antiquantize(q, 1000, -127), [-65504, -65504, -65504, 0])
    np.testing.assert_array_equal(antiquantize(q, 1000, overflow="inf"), [-np.inf, -1000, 0, np.inf])
    per_channel = antiquantize(np.int8([[2, 2]]), [1, 2], [0, 1])
    np.testing.assert_array_equal(per_channel, [[2, 6]])


EPILOGUES = {
    "dequantize": lambda a: dequantize_fixpipe(a, f32([1e-3, 2e-3, 3e-3])),
    "dequantize per tensor": lambda a: dequantize_fixpipe(a, f32([1e-3]), relu=True),
    "full scale": lambda a: dequantize_full_scale(a, f32([1e-3, 2e-3, 3e-3]), channel_axis=1),
    "requantize": lambda a: requantize_fixpipe(a, f32([1e-3, 2e-3, 3e-3]), [0, 1, -9], negative_multiplier=0),
    "leaky": lambda a: requantize_fixpipe(a, f32([1e-3]), 4, negative_multiplier=f32([1e-4])),
    "antiquantize": lambda a: antiquantize(a.astype(np.int8), f32([1e-3, 2e-3, 3e-3]), 5),
    "quantize fp32": lambda a: quantize_fp32(a.astype(f32), f32(1e-3), 5),
    "quantize fp16": lambda a: quantize_fp16((a % 6000).astype(f16), f32(1e-2), 5),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues_see_neither_layout_nor_batch(name):
    kernel = EPILOGUES[name]
    acc = np.random.default_rng(0).integers(-200000, 200000, (3, 3, 5, 7)).astype(np.int32)
    expected = kernel(acc)
    channels_last = acc.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    for view in (channels_last, np.asfortranarray(acc), np.repeat(acc, 2, axis=2)[:, :, ::2]):
        np.testing.assert_array_equal(kernel(view), expected)
    assert kernel(channels_last).transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(np.concatenate([kernel(a[None]) for a in acc]), expected)
    assert kernel(acc[:0]).shape == (0, 3, 5, 7)


@pytest.mark.parametrize("name", ["dequantize", "requantize"])
def test_epilogues_refuse_a_wrong_channel_count(name):
    with pytest.raises(InputError, match="axis 1"):
        EPILOGUES[name](np.zeros((1, 4, 2, 2), np.int32))


# ---------------------------------------------------------------- N26: pools on stored integers

POOL = {"kernel": (2, 2), "strides": (2, 2), "pads": (1, 1, 0, 0), "dilations": (1, 1)}


def test_max_pool_int8_padding_never_wins():
    q = np.full((1, 1, 3, 3), -128, np.int8)
    q[0, 0, 2, 2] = -127
    np.testing.assert_array_equal(max_pool_int8(q, **POOL), [[[[-128, -128], [-128, -127]]]])
    assert max_pool_int8(q[:0], **POOL).shape == (0, 1, 2, 2)


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.booleans(), st.integers(0, 4),
    st.integers(0, 99),
)  # fmt: skip
def test_max_pool_int8_is_onnxruntimes(run_node, kernel, stride, pad, dilation, ceil_mode, more, seed):
    size = dilation * (kernel - 1) + 1 + more
    q = np.random.default_rng(seed).integers(-128, 128, (2, 3, size, size + 1)).astype(np.int8)
    pads, common = (min(pad, kernel - 1),) * 4, {"strides": (stride, 1), "dilations": (1, dilation)}
    y = max_pool_int8(q, kernel=(kernel, kernel), pads=pads, ceil_mode=ceil_mode, **common)
    expected = run_node("MaxPool", q, kernel_shape=(kernel, kernel), pads=pads, ceil_mode=int(ceil_mode), **common)
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(max_pool_int8(np.asfortranarray(q), kernel=(kernel, kernel), pads=pads,
                                                ceil_mode=ceil_mode, **common), y)  # fmt: skip


def test_sum_pool_int8_counts_padding_as_real_zero():
    q = np.int8([[[[10, -128], [127, 4]]]])
    corners = sum_pool_int8(q, -5, kernel=(2, 2), strides=(2, 2), pads=(1,) * 4, dilations=(1, 1))
    np.testing.assert_array_equal(corners, [[[[15, -123], [132, 9]]]])
    whole = sum_pool_int8(q, -5, kernel=(2, 2), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
    np.testing.assert_array_equal(whole, [[[[10 - 128 + 127 + 4 + 20]]]])
    assert whole.dtype == np.int32
