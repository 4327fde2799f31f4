"""The float table hands every attribute of an op to its kernel: results by hand, each attribute unlike its default."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, apply, const
from amctc.kernels.tables import ORACLE
from amctc.ops import nn, quant
from amctc.types import F16, F32, F64, I8, I32, Array, QuantizedType, TensorType

ROOT = float(np.sqrt(np.float64(2)))


def ran(kind: Any, *operands: Any, elem: Any = F32, real: bool = False) -> Array:
    """The op on its first operand, given at run time, and on constants; with ``real`` in float64."""
    x = np.asarray(operands[0], elem.dtype)
    given = GraphInput("x", TensorType(x.shape, elem))
    constants = [None if o is None else const(np.float32(o)) for o in operands[1:]]
    graph = Graph((given,), (apply(kind, given, *constants),), ("y",))
    return evaluate(graph, {"x": x}, ORACLE, **({"float_type": np.float64} if real else {}))["y"]


ACTIVATIONS = [
    (nn.Relu(), [0, 0, 0, 5]),
    (nn.LeakyRelu(0.25), [-1, -0.5, 0, 5]),
    (nn.Clip(-3.0, 4.0), [-3, -2, 0, 4]),
    (nn.Clip(-np.inf, 4.0), [-4, -2, 0, 4]),
    (nn.Clip(-3.0, np.inf), [-3, -2, 0, 5]),
    (None, [-4, -2, 0, 5]),
]
ROW = [-4, -2, 0, 5]


@pytest.mark.parametrize(("activation", "expected"), ACTIVATIONS[:-1])
def test_activations(activation: nn.Activation, expected: list[float]) -> None:
    np.testing.assert_array_equal(ran(activation, ROW), expected)


@pytest.mark.parametrize(("activation", "expected"), ACTIVATIONS)
def test_layers_add_their_bias_and_then_activate(activation: nn.Activation | None, expected: list[float]) -> None:
    """Weights of 2 and a bias of 1 on (v - 1) / 2."""
    x = (np.float32(ROW) - 1) / 2
    image, two = x.reshape(1, 1, 4), np.float32([[[2]]])
    window = (1,), (0, 0), (1,)
    layers = (
        ran(nn.Conv(*window, activation=activation), image, two, [1]),
        ran(nn.ConvTranspose(*window, activation=activation), image, two, [1]),
        ran(nn.Gemm(activation=activation), x[:, None], [[2]], [1]),
        ran(nn.MatMul(activation), x[:, None], [[2]], [1]),
    )
    for y in layers:
        np.testing.assert_array_equal(y.ravel(), expected)
    np.testing.assert_array_equal(ran(nn.MatMul(activation), np.float32(ROW)[:, None], [[1]]).ravel(), expected)


def test_attributes_of_convolutions() -> None:
    x = np.float32([1, 2, 4, 8, 16, 32]).reshape(1, 1, 6)
    w = np.float32([1, -1]).reshape(1, 1, 2)
    # Padded by one and two: 0 1 2 4 8 16 32 0 0; positions 0 3 6 and two further on.
    assert ran(nn.Conv((3,), (1, 2), (2,)), x, w).tolist() == [[[-2, 4 - 16, 32]]]
    pairs = x.reshape(1, 2, 3)  # two groups
    assert ran(nn.Conv((1,), (0, 0), (1,), 2), pairs, [[[1]], [[3]]]).tolist() == [[[1, 2, 4], [24, 48, 96]]]
    # 1 at 0, 2 at 3, each times (1, ., -1), cut by one before, and one more position behind.
    wide = nn.ConvTranspose((3,), (1, 0), (2,), output_padding=(1,))
    assert ran(wide, x[:, :, :2], w).tolist() == [[[0, -1, 2, 0, -2, 0]]]
    both = ran(nn.ConvTranspose((1,), (0, 0), (1,), 2), pairs, [[[1]], [[3]]])
    assert both.tolist() == [[[1, 2, 4], [24, 48, 96]]]


def test_attributes_of_matrix_products() -> None:
    x, w = [[1, 2, 3]], [[1, 10, 100]]
    assert ran(nn.Gemm(2.0, 0.5, trans_b=True), x, w, [4]).tolist() == [[2 * 321 + 2]]
    assert ran(nn.Gemm(trans_a=True), x, w).tolist() == [[1, 10, 100], [2, 20, 200], [3, 30, 300]]


def test_normalizations_take_their_epsilon_and_axes() -> None:
    """x = (-1, 1) has the mean 0 and the variance 1: with an epsilon of 1 it becomes x / √2."""
    x = np.float32([-1, 1, -1, 1]).reshape(1, 2, 2)
    scale, shift = [ROOT, 2 * ROOT], [0, 10]
    wanted = [[[-1, 1], [8, 12]]]
    close = {"atol": 12 * 4 * 2.0**-24, "rtol": 0}  # a few roundings of numbers up to 12
    for y in (
        ran(nn.InstanceNorm(1.0), x, scale, shift),
        ran(nn.GroupNorm(2, 1.0), x, scale, shift),
        ran(nn.BatchNorm(1.0), x, scale, shift, [0, 0], [1, 1]),
    ):
        np.testing.assert_allclose(y, wanted, **close)
    rows = ran(nn.LayerNorm(-1, 1.0), x, scale, shift)
    np.testing.assert_allclose(rows, [[[-1, 12], [-1, 12]]], **close)
    both = ran(nn.LayerNorm(1, 1.0), x, [scale, scale], [shift, shift])
    np.testing.assert_allclose(both, [[[-1, 12], [-1, 12]]], **close)
    one_group = ran(nn.GroupNorm(1, 1.0), x * [[[1], [3]]], scale, shift)  # its variance is 5
    np.testing.assert_allclose(one_group, np.float64([[[-1, 1], [-6, 6]]]) / np.sqrt(3) + [[[0], [10]]], **close)


def test_moves() -> None:
    x = np.float32(range(12)).reshape(1, 3, 4)
    assert ran(nn.Flatten(2), x).shape == (3, 4)
    assert ran(nn.Flatten(-1), x).shape == (3, 4)
    assert ran(nn.Flatten(-2), x).shape == (1, 12)
    assert ran(nn.Flatten(0), x).shape == (1, 12)
    assert ran(nn.Flatten(3), x).shape == (12, 1)
    assert ran(nn.Reshape((0, 2, -1)), x).shape == (1, 2, 6)
    assert ran(nn.Reshape((0, 5), allow_zero=True), x[:, :0]).shape == (0, 5)
    np.testing.assert_array_equal(ran(nn.Transpose((2, 0, 1)), x), np.moveaxis(x, 2, 0))
    np.testing.assert_array_equal(ran(nn.Concat(-1), x, x + 100), np.dstack([x, x + 100]))


def test_resizing() -> None:
    """Of (0, 4) to four: positions 0, 1/2, 1, 3/2 when asymmetric, a third apart when corners are aligned."""
    x = [0, 4]
    nearest = nn.Resize((0,), scales=(2.0,), coordinates="asymmetric", rounding="ceil")
    assert ran(nearest, x).tolist() == [0, 4, 4, 4]
    linear = nn.Resize((0,), sizes=(5,), mode="linear", coordinates="align_corners")
    assert ran(linear, x).tolist() == [0, 1, 2, 3, 4]


def test_casts_keep_the_precision_of_the_oracle() -> None:
    """In float64 a cast to float32 rounds nothing, one to float16 does, one to integers drops the fraction."""
    third = 1 / 3
    assert ran(nn.Cast(F32), [third], elem=F64).dtype == np.float64
    assert ran(nn.Cast(F32), [third], real=True).tolist() == [float(np.float32(third))]
    narrow = ran(nn.Cast(F16), [third], real=True)
    assert (narrow.dtype, narrow.tolist()) == (np.float64, [float(np.float16(third))])
    assert ran(nn.Cast(F16), [third, 1e6]).tolist() == [float(np.float16(third)), np.inf]
    whole = ran(nn.Cast(I32), [2.75, -2.75])
    assert (whole.dtype, whole.tolist()) == (np.int32, [2, -2])


def test_quantizers_take_scales_and_zero_points_of_their_axis() -> None:
    x = np.float32([[-8, 0.75, 60], [-8, 0.75, 60]])
    elem = QuantizedType.per_axis((0.5, 0.25), 0)
    zeros = QuantizedType(elem.storage, F32, elem.scales, (3, -100), 0, -127, 127)
    given = GraphInput("x", TensorType(x.shape, F32))
    q = apply(quant.Quantize(zeros), given)
    graph = Graph((given,), (q, apply(quant.Dequantize(), q)), ("q", "y"))
    found = evaluate(graph, {"x": x}, ORACLE)
    assert found["q"].dtype == np.int8
    assert found["q"].tolist() == [[-13, 5, 123], [-127, -97, 127]]  # 0.75 / 0.5 is a tie, to the even 2
    assert found["y"].dtype == np.float32
    assert found["y"].tolist() == [[-8, 1, 60], [-6.75, 0.75, 56.75]]


def test_blocks_of_an_axis_have_their_own_steps() -> None:
    """Six rows in blocks of two: steps 1, 1/2 and 1/4, zero points 0, 1 and 2."""
    elem = QuantizedType(I8, F32, (1.0, 0.5, 0.25), (0, 1, 2), 0, *I8.integer_range, 2)
    given = GraphInput("q", TensorType((6,), elem))
    graph = Graph((given,), (apply(quant.Dequantize(), given),), ("y",))
    y = evaluate(graph, {"q": np.full(6, 9, np.int8)}, ORACLE)["y"]
    assert y.tolist() == [9, 9, 4, 4, 1.75, 1.75]
