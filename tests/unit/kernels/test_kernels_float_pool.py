"""Float pooling against ONNX Runtime and hand-computed windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.kernels.float_pool import average_pool, global_average_pool, max_pool, window_counts
from amctc.kernels.windows import Window


@st.composite
def pools(draw):
    """(x, attributes): every window begins inside input and begin padding, pads smaller than the kernel."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [e + draw(st.integers(0, 5)) for e in extents]
    x = np.random.default_rng(draw(st.integers(0, 999))).standard_normal((2, 3, *sizes)).astype(np.float32)
    return x, {
        "kernel": tuple(kernel),
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "pads": tuple(pads),
        "dilations": tuple(dilations),
        "ceil_mode": draw(st.booleans()),
    }


def onnx_names(attributes):
    renamed = {"kernel": "kernel_shape", "ceil_mode": "ceil_mode"}
    return {renamed.get(k, k): int(v) if isinstance(v, bool) else v for k, v in attributes.items()}


@given(case=pools())
def test_max_pool_is_onnxruntimes(run_node, case):
    x, attributes = case
    np.testing.assert_array_equal(max_pool(x, **attributes), run_node("MaxPool", x, **onnx_names(attributes)))


@given(case=pools(), include=st.booleans())
def test_average_pool_is_onnxruntimes(run_node, case, include):
    x, attributes = case
    y = average_pool(x, **attributes, count_include_pad=include)
    expected = run_node("AveragePool", x, opset=19, count_include_pad=int(include), **onnx_names(attributes))
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)


@given(case=pools(), include=st.booleans(), data=st.data())
def test_pools_do_not_see_the_memory_layout_nor_the_batch(case, include, data):
    x, attributes = case
    order = data.draw(st.permutations(range(x.ndim)))
    shuffled = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    whole = average_pool(x, **attributes, count_include_pad=include)
    np.testing.assert_array_equal(average_pool(shuffled, **attributes, count_include_pad=include), whole)
    np.testing.assert_array_equal(average_pool(x[1:], **attributes, count_include_pad=include), whole[1:])
    np.testing.assert_array_equal(max_pool(shuffled, **attributes), max_pool(x, **attributes))
    np.testing.assert_array_equal(global_average_pool(shuffled), global_average_pool(x))


PAIR = {"kernel": (2,), "strides": (2,), "pads": (1, 0), "dilations": (1,)}


@pytest.mark.parametrize(
    ("include", "ceil_mode", "expected"),
    [
        (False, False, [1.0, 2.5]),  # windows [pad 1] [2 3]
        (True, False, [0.5, 2.5]),
        (False, True, [1.0, 2.5, 4.0]),  # and [4 beyond]
        (True, True, [0.5, 2.5, 4.0]),  # what is beyond the end padding never counts
    ],
)
def test_average_pool_divides_by_what_it_counts(include, ceil_mode, expected):
    x = np.float32([[[1, 2, 3, 4]]])
    y = average_pool(x, **PAIR, ceil_mode=ceil_mode, count_include_pad=include)
    np.testing.assert_array_equal(y, [[expected]])


def test_window_counts_of_two_axes_multiply():
    window = Window((2, 2), (1, 1), (1, 0, 0, 1), (1, 1))
    np.testing.assert_array_equal(window_counts((2, 2), window, False), [[2, 1], [4, 2]])
    np.testing.assert_array_equal(window_counts((2, 2), window, True), [[4, 4], [4, 4]])


def test_pools_propagate_nan_and_pad_with_minus_infinity():
    x = np.float32([[[-5, np.nan, -7, -9]]])
    attributes = {"kernel": (2,), "strides": (1,), "pads": (1, 0), "dilations": (1,)}
    np.testing.assert_array_equal(max_pool(x, **attributes), [[[-5, np.nan, np.nan, -7]]])
    np.testing.assert_array_equal(average_pool(x, **attributes), [[[-5, np.nan, np.nan, -8]]])


def test_pools_of_an_empty_batch_and_in_float16():
    attributes = {"kernel": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
    assert max_pool(np.zeros((0, 3, 4, 4), np.float32), **attributes).shape == (0, 3, 2, 2)
    assert global_average_pool(np.zeros((0, 3, 4, 4), np.float32)).shape == (0, 3, 1, 1)
    x = np.float16([[[[2048, 1], [1, 2048]]]])  # 4098 / 4: a float16 sum would lose the ones
    np.testing.assert_array_equal(average_pool(x, **attributes), np.float16(1024.5))
    assert average_pool(x, **attributes).dtype == np.float16
    np.testing.assert_array_equal(global_average_pool(x), np.float16([[[[1024.5]]]]))


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 2, 2, 3, 4)])
def test_global_average_pool_is_onnxruntimes(run_node, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(global_average_pool(x), run_node("GlobalAveragePool", x), rtol=0, atol=1e-6)


def test_a_last_window_that_is_not_full_counts_on_request_only():
    x = np.float32([[[1, 2, 3]]])
    window = {"kernel": (2,), "strides": (2,), "pads": (0, 0), "dilations": (1,)}
    assert max_pool(x, **window).tolist() == [[[2]]]
    assert max_pool(x, **window, ceil_mode=True).tolist() == [[[2, 3]]]
    assert average_pool(x, **window).tolist() == [[[1.5]]]
    assert average_pool(x, **window, ceil_mode=True).tolist() == [[[1.5, 3]]]
