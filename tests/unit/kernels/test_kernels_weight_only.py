"""Weight-only products (N21): numbers by hand, ONNX Runtime's DequantizeLinear, where float16 rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.kernels.weight_only import antiquantized, weight_only_matmul


def test_weights_by_hand():
    """Groups of two along K: (3 + 1) · 0.5, (-2 + 1) · 0.5, then (7 - 3) · 2 in column 0; column 1 as it is."""
    weight = np.int8([[3, 10], [-2, 20], [7, 30]])
    scale, offset = np.float32([[0.5, 1], [2, 1]]), np.int32([[1, 0], [-3, 0]])
    real = antiquantized(weight, scale, offset, axis=0, group=2)
    np.testing.assert_array_equal(real, [[2, 10], [-0.5, 20], [8, 30]])


@pytest.mark.parametrize(
    ("half", "wanted"), [(False, 100 * np.float32(0.3)), (True, np.float16(100 * np.float32(np.float16(0.3))))]
)
def test_float16_rounds_the_scale_and_the_product(half, wanted):
    (real,) = antiquantized(np.int8([100]), np.float32([0.3]), None, axis=0, half=half)
    assert real.dtype == np.float32
    assert real == np.float32(wanted)


def test_a_scale_that_float16_loses_is_zero_or_infinite():
    for scale, wanted in ((2.0**-26, 0), (1e6, np.inf)):
        assert antiquantized(np.int8([1]), np.float32([scale]), None, axis=0, half=True).tolist() == [wanted]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([0, 16, 32]), st.integers(0, 1), st.integers(0, 2**32))
def test_is_onnxruntimes_dequantize_linear(run_node, depth, width, group, axis, seed):
    """Per channel along the other axis, or in blocks along ``axis``, the last one short."""
    rng = np.random.default_rng(seed)
    shape = [width, width]
    shape[axis] = depth * 7
    weight = rng.integers(-128, 128, shape).astype(np.int8)
    along = axis if group else 1 - axis
    sizes = (
        [-(-shape[0] // group) if axis == 0 else shape[0], -(-shape[1] // group) if axis == 1 else shape[1]]
        if group
        else [shape[along]]
    )
    scale = rng.uniform(0.01, 0.5, sizes).astype(np.float32)
    zero = rng.integers(-128, 128, sizes).astype(np.int8)
    more = {"block_size": group} if group else {}
    wanted = run_node("DequantizeLinear", weight, scale, zero, opset=21, axis=along, **more)
    real = antiquantized(weight, scale, -zero.astype(np.int32), axis=along, group=group)
    np.testing.assert_array_equal(real, wanted)


def test_product_rounds_once():
    """1 · 2048 + 1 · 1 is a tie of float16, broken by the bias only if it is added before: 2049 + 0.5 -> 2050."""
    x, weight = np.float16([[1, 1]]), np.float32([[2048], [1]])
    assert weight_only_matmul(x, weight, None).tolist() == [[2048]]
    y = weight_only_matmul(x, weight, np.float16([0.5]))
    assert (y.dtype, y.tolist()) == (np.float16, [[2050]])
    wide = weight_only_matmul(x.astype(np.float32), weight, np.float32([0.5]))
    assert (wide.dtype, wide.tolist()) == (np.float32, [[2049.5]])


def test_overflow_of_the_island():
    x, weight = np.float16([[60000.0]]), np.float32([[2]])
    assert weight_only_matmul(x, weight, None, "saturate").tolist() == [[65504]]
    assert weight_only_matmul(x, weight, None, "inf").tolist() == [[np.inf]]


def test_leading_axes():
    rng = np.random.default_rng(3)
    x, weight = rng.integers(-9, 9, (2, 3, 4)).astype(np.float32), rng.integers(-9, 9, (4, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        weight_only_matmul(x[:, ::-1], weight, None), np.einsum("abk,kn->abn", x[:, ::-1], weight)
    )
