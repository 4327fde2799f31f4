"""Element-wise float kernels against ONNX Runtime, special values, layout."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amctc.kernels import float_pointwise as f

X = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0, 1e30, -1e30]]).astype(
    np.float32
)
SPECIAL = np.float32([np.nan, np.inf, -np.inf, -0.0])


@pytest.mark.parametrize(
    ("op", "opset", "kernel", "attributes", "units"),
    [
        ("Relu", 17, f.relu, {}, 0),
        ("LeakyRelu", 17, lambda x: f.leaky_relu(x, 0.1), {"alpha": 0.1}, 0),
        ("Sigmoid", 17, f.sigmoid, {}, 4),
        ("Tanh", 17, f.tanh, {}, 4),
        ("HardSigmoid", 17, lambda x: f.hard_sigmoid(x, 0.3, 0.4), {"alpha": 0.3, "beta": 0.4}, 1),
        ("HardSwish", 17, f.hard_swish, {}, 4),
        ("Elu", 17, lambda x: f.elu(x, 1.5), {"alpha": 1.5}, 4),
        ("Erf", 17, f.erf, {}, 4),
        ("Softplus", 17, f.softplus, {}, 4),
        ("Gelu", 20, f.gelu, {}, 8),
        ("Gelu", 20, lambda x: f.gelu(x, approximate=True), {"approximate": "tanh"}, 8),
    ],
)
def test_activation_is_onnxruntimes(run_node, op, opset, kernel, attributes, units):
    """Within ``units`` of float32 of the larger of 1 and the result's magnitude."""
    expected = run_node(op, X, opset=opset, **attributes)
    y = kernel(X)
    assert y.dtype == np.float32
    assert (abs(y.astype(np.float64) - expected) <= units * 2.0**-23 * np.maximum(1, abs(expected))).all()


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (f.relu, [math.nan, math.inf, 0, 0]),
        (f.sigmoid, [math.nan, 1, 0, 0.5]),
        (f.tanh, [math.nan, 1, -1, 0]),
        (f.hard_sigmoid, [math.nan, 1, 0, 0.5]),
        (f.hard_swish, [math.nan, math.inf, math.nan, 0]),  # -inf · 0
        (f.elu, [math.nan, math.inf, -1, 0]),
        (f.erf, [math.nan, 1, -1, 0]),
        (f.leaky_relu, [math.nan, math.inf, -math.inf, 0]),
        (lambda x: f.clip(x, np.float32(-1), np.float32(2)), [math.nan, 2, -1, 0]),
    ],
)
def test_special_values(kernel, expected):
    np.testing.assert_array_equal(kernel(SPECIAL), np.float32(expected))


ALL_UNARY = [f.relu, f.sigmoid, f.tanh, f.hard_sigmoid, f.hard_swish, f.elu, f.erf, f.gelu, f.leaky_relu, f.softmax,
             f.log_softmax, lambda x: f.softmax(x, 1), lambda x: f.clip(x, -1.0, 2.0)]  # fmt: skip


@pytest.mark.parametrize("kernel", ALL_UNARY)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_type_is_kept_and_layout_is_not_seen(kernel, dtype):
    x = np.random.default_rng(0).standard_normal((3, 5, 7, 9)).astype(dtype) * dtype(4)
    y = kernel(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    for view in (x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), np.asfortranarray(x),
                 np.repeat(x, 2, axis=3)[..., ::2]):  # fmt: skip
        np.testing.assert_array_equal(kernel(view), y)
    assert kernel(np.zeros((0, 5), dtype)).shape == (0, 5)


@pytest.mark.parametrize("kernel", ALL_UNARY)
def test_float16_is_computed_in_float32_and_rounded_once(kernel):
    x = np.random.default_rng(1).standard_normal((40, 20)).astype(np.float16) * np.float16(8)
    np.testing.assert_array_equal(kernel(x), kernel(x.astype(np.float32)).astype(np.float16))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_is_onnxruntimes_and_stable(run_node, axis):
    x = (np.random.default_rng(0).standard_normal((4, 5, 6)) * 1000).astype(np.float32)
    np.testing.assert_allclose(f.softmax(x, axis), run_node("Softmax", x, axis=axis), rtol=0, atol=1e-6)
    np.testing.assert_allclose(f.log_softmax(x, axis), run_node("LogSoftmax", x, axis=axis), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(f.softmax(x, axis).sum(axis=axis), 1, rtol=0, atol=1e-6)


def test_softmax_with_infinities():
    np.testing.assert_array_equal(f.softmax(np.float32([-np.inf, 0])), [0, 1])
    assert np.isnan(f.softmax(np.float32([-np.inf, -np.inf]))).all()
    assert f.softmax(np.zeros((2, 0), np.float32)).shape == (2, 0)


@pytest.mark.parametrize(("low", "high"), [(None, None), (-1, None), (None, 2), (-1, 2), (3, -3)])
def test_clip_is_onnxruntimes(run_node, low, high):
    bounds = [None if b is None else np.float32(b).reshape(()) for b in (low, high)]
    y = f.clip(X, *bounds)
    np.testing.assert_array_equal(y, run_node("Clip", X, *bounds))
    assert not np.shares_memory(y, X)


def test_prelu_is_onnxruntimes(run_node):
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    x[:, :, 0] = [1e-4, -1e-4, 0]
    slope = np.float32([[0.1], [-2], [0]])
    np.testing.assert_array_equal(f.prelu(x, slope), run_node("PRelu", x, slope))


@pytest.mark.parametrize(("op", "kernel"), [("Add", f.add), ("Sub", f.sub), ("Mul", f.mul), ("Div", f.div)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_arithmetic_broadcasts_as_onnxruntime(run_node, op, kernel, dtype):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 10, 12).reshape(3, 4), rng.choice([-3, -2, -1, 1, 2, 7], (2, 1, 4)))
    a, b = a.astype(dtype), b.astype(dtype)
    y = kernel(a, b)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, run_node(op, a, b))


@pytest.mark.parametrize("kernel", [f.add, f.sub, f.mul, f.div])
def test_float16_arithmetic_is_correctly_rounded(kernel):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 1 << 16, 20000).astype(np.uint16).view(np.float16) for _ in range(2))
    with np.errstate(all="ignore"):
        expected = {f.add: np.add, f.sub: np.subtract, f.mul: np.multiply, f.div: np.divide}[kernel](a, b)
        np.testing.assert_array_equal(kernel(a, b), expected)


def test_division_by_zero_is_ieee():
    np.testing.assert_array_equal(
        f.div(np.float32([1, -1, 0]), np.zeros(3, np.float32)), np.float32([np.inf, -np.inf, np.nan])
    )


def test_concat_and_pad():
    a, b = np.arange(6).reshape(2, 3), np.arange(2).reshape(2, 1)
    np.testing.assert_array_equal(f.concat([a, b], 1), [[0, 1, 2, 0], [3, 4, 5, 1]])
