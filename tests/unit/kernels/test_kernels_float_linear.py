"""Float convolutions and products against ONNX Runtime, formulas and metamorphic relations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.kernels.float_linear import conv, conv_transpose, gemm, matmul
from amctc.kernels.float_normalization import batch_norm, layer_norm

EPS32 = 2.0**-23


@st.composite
def convolutions(draw, transposed=False):
    """(x, w, b, attributes) of a random convolution over 1 to 3 axes that fits its input."""
    rank = draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, 7 - rank)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    if transposed:
        pads = [min(p, (e - 1) // 2) for p, e in zip(pads, extents * 2, strict=True)]
    else:
        sizes = [max(n, e) for n, e in zip(sizes, extents, strict=True)]
    group = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = group * draw(st.integers(1, 3)), group * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (inputs, outputs // group) if transposed else (outputs, inputs // group)
    x = rng.standard_normal((draw(st.integers(0, 2)), inputs, *sizes)).astype(np.float32)
    w = rng.standard_normal((*shape, *kernel)).astype(np.float32)
    b = rng.standard_normal(outputs).astype(np.float32) if draw(st.booleans()) else None
    attributes = {"strides": tuple(strides), "pads": tuple(pads), "dilations": tuple(dilations), "group": group}
    if transposed:
        attributes["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in strides)
    return x, w, b, attributes


def bound(kernel, x, w, b, attributes, depth):
    """Rounding bound: depth + 2 units of the result of the same op on absolute values (each side once)."""
    magnitude = kernel(abs(x).astype(np.float64), abs(w).astype(np.float64), None, **attributes)
    if b is not None:
        magnitude = magnitude + abs(b).reshape(-1, *(1,) * (x.ndim - 2))
    return 2 * (depth + 2) * EPS32 * magnitude


@given(case=convolutions())
def test_conv_is_onnxruntimes(run_node, case):
    x, w, b, attributes = case
    y = conv(x, w, b, **attributes)
    assert y.dtype == np.float32
    if not len(x):
        assert y.shape[:2] == (0, len(w))
        return
    expected = run_node("Conv", x, w, b, kernel_shape=w.shape[2:], **attributes)
    assert y.shape == expected.shape
    assert (abs(y - expected) <= bound(conv, x, w, b, attributes, w[0].size)).all()


@given(case=convolutions(transposed=True))
def test_conv_transpose_is_onnxruntimes(run_node, case):
    x, w, b, attributes = case
    y = conv_transpose(x, w, b, **attributes)
    if not len(x):
        assert y.shape[:2] == (0, w.shape[1] * attributes["group"])
        return
    expected = run_node("ConvTranspose", x, w, b, kernel_shape=w.shape[2:], **attributes)
    assert y.shape == expected.shape
    assert (abs(y - expected) <= bound(conv_transpose, x, w, b, attributes, w[:, 0].size)).all()


@given(case=convolutions())
def test_conv_transpose_is_the_adjoint_of_conv(case):
    x, w, _, attributes = case
    x, w = x.astype(np.float64), w.astype(np.float64)
    y = conv(x, w, **attributes)
    g = np.random.default_rng(0).standard_normal(y.shape)
    rank = x.ndim - 2
    extents = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], attributes["dilations"], strict=True)]
    pads = attributes["pads"]
    unused = tuple(
        (n + pads[i] + pads[rank + i] - e) % s
        for i, (n, e, s) in enumerate(zip(x.shape[2:], extents, attributes["strides"], strict=True))
    )
    back = conv_transpose(g, w, **attributes, output_padding=unused)
    assert back.shape == x.shape
    np.testing.assert_allclose((y * g).sum(), (x * back).sum(), rtol=0, atol=1e-9)


def test_conv_transpose_extends_for_a_negative_pad():
    y = conv_transpose(
        np.ones((1, 1, 2), np.float32), np.ones((1, 1, 1), np.float32), np.float32([5]),
        strides=(1,), pads=(-1, 1), dilations=(1,),
    )  # fmt: skip
    np.testing.assert_array_equal(y, [[[5, 6]]])


@given(case=convolutions(), data=st.data())
def test_conv_does_not_see_the_memory_layout(case, data):
    x, w, b, attributes = case
    expected = conv(x, w, b, **attributes)
    order = data.draw(st.permutations(range(x.ndim)))
    shuffled = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    np.testing.assert_array_equal(conv(shuffled, np.asfortranarray(w), b, **attributes), expected)


def test_conv_in_float16_sums_in_float32_and_rounds_once():
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 40, 6, 6)).astype(np.float16), rng.standard_normal((3, 40, 3, 3)).astype(np.float16)
    attributes = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1)}
    y = conv(x, w, **attributes)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, conv(x.astype(np.float32), w.astype(np.float32), **attributes).astype(np.float16))
    huge = conv(np.full((1, 2, 1), 60000, np.float16), np.ones((1, 2, 1), np.float16), strides=(1,), pads=(0, 0),
                dilations=(1,))  # fmt: skip
    assert np.isposinf(huge).all()


def test_conv_propagates_nan_to_the_windows_that_meet_it():
    x = np.ones((1, 1, 5), np.float32)
    x[0, 0, 2] = np.nan
    y = conv(x, np.ones((1, 1, 2), np.float32), strides=(1,), pads=(0, 0), dilations=(1,))
    np.testing.assert_array_equal(np.isnan(y[0, 0]), [False, True, True, False])


def test_conv_gathers_in_several_blocks(monkeypatch):
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((3, 4, 9, 8)), rng.standard_normal((2, 4, 3, 3))
    attributes = {"strides": (1, 1), "pads": (1, 0, 1, 0), "dilations": (1, 1)}
    expected = conv(x, w, **attributes)
    monkeypatch.setattr("amctc.kernels.float_linear.PATCH_BYTES", 5 * 8 * 36)
    np.testing.assert_allclose(conv(x, w, **attributes), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("group", [0, 2, 3])
def test_conv_refuses_channels_that_do_not_fit(group):
    with pytest.raises(InputError, match="do not fit"):
        conv(np.zeros((1, 4, 5)), np.zeros((6, 4, 1)), strides=(1,), pads=(0, 0), dilations=(1,), group=group)
    with pytest.raises(InputError, match="shape"):
        conv_transpose(np.zeros((1, 4, 5)), np.zeros((4, 4, 1, 1)), strides=(1,), pads=(0, 0), dilations=(1,))


@given(
    st.integers(0, 4), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans(),
    st.sampled_from([None, (), (1,), "n", ("m", 1), ("m", "n")]), st.sampled_from([1.0, 0.5, -2.0]),
    st.sampled_from([1.0, 0.25]), st.integers(0, 999),
)  # fmt: skip
def test_gemm_is_onnxruntimes(run_node, m, k, n, trans_a, trans_b, c_shape, alpha, beta, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, m) if trans_a else (m, k)).astype(np.float32)
    b = rng.standard_normal((n, k) if trans_b else (k, n)).astype(np.float32)
    named = None if c_shape is None else tuple({"m": m, "n": n}.get(s, s) for s in c_shape)
    c = None if named is None else rng.standard_normal(named).astype(np.float32)
    y = gemm(a, b, c, alpha=alpha, beta=beta, trans_a=trans_a, trans_b=trans_b)
    expected = run_node("Gemm", a, b, c, alpha=alpha, beta=beta, transA=int(trans_a), transB=int(trans_b))
    assert y.shape == expected.shape == (m, n)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("left", "right"),
    [((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 1, 4, 3), (5, 3, 2)), ((0, 2, 3), (3, 2)), ((2, 3), (3, 0))],
)
def test_matmul_is_numpys(left, right):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(left), rng.standard_normal(right)
    y = matmul(a, b)
    assert y.shape == (a @ b).shape
    np.testing.assert_allclose(y, a @ b, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(matmul(np.asfortranarray(a), np.asfortranarray(b)), y)


def test_matmul_in_float16_rounds_once():
    a, b = np.full((1, 3), 2048, np.float16), np.float16([[1], [2.0**-11], [2.0**-11]])
    assert matmul(a, b) == np.float16(2050)  # step by step in float16: 2048 + 1 + 1 = 2048


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 5), (0, 4, 3)])
def test_batch_norm_is_onnxruntimes(run_node, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    scale, bias, mean, var = (abs(rng.standard_normal(4)).astype(np.float32) for _ in range(4))
    y = batch_norm(x, scale, bias, mean, var, epsilon=1e-3)
    expected = run_node("BatchNormalization", x, scale, bias, mean, var, epsilon=1e-3) if x.size else x
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_batch_norm_follows_its_stated_order():
    x, scale, bias, mean, var = (np.float32([[v]] if i == 0 else [v]) for i, v in enumerate([0.3, 0.7, 0.1, 0.2, 0.5]))
    step = np.float32(np.float32(x - mean) / np.sqrt(np.float32(var + np.float32(1e-5))))
    np.testing.assert_array_equal(batch_norm(x, scale, bias, mean, var), np.float32(step * scale) + bias)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm_is_onnxruntimes(run_node, axis):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)
    scale, bias = (rng.standard_normal(x.shape[axis:]).astype(np.float32) for _ in range(2))
    y = layer_norm(x, scale, bias, axis=axis)
    np.testing.assert_allclose(y, run_node("LayerNormalization", x, scale, bias, axis=axis), rtol=0, atol=3e-6)
    np.testing.assert_array_equal(layer_norm(np.asfortranarray(x), scale, bias, axis=axis), y)
