"""Integer layers in the target's table: overflows and refusals under the name of the layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amctc.errors import UnsupportedError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, apply, const
from amctc.kernels.ascend_table import FirstOperand, ascend_table
from amctc.kernels.integer_linear import prepare_gemm
from amctc.kernels.reference_table import reference_table
from amctc.ops import ascend
from amctc.targets import load_profile
from amctc.types import F32, I8, I32, Array, ScalarType, TensorType

A2 = load_profile("ascend910b1")
X2, W2, BIAS2 = (1, 2, 1, 1), np.full((2, 2, 1, 1), 127, np.int8), np.full(2, 2**31 - 1, np.int32)
LAYERS = (
    (ascend.Conv((1, 1), (0,) * 4, (1, 1)), X2, W2),
    (ascend.ConvTranspose((1, 1), (0,) * 4, (1, 1)), X2, W2),
    (ascend.MatMul(), (1, 2), W2[:, :, 0, 0]),
)


@pytest.mark.parametrize(("kind", "shape", "weight"), LAYERS)
def test_overflows_are_told_under_the_name_of_the_layer(kind: Any, shape: tuple[int, ...], weight: Array) -> None:
    told: list[tuple[str, int]] = []
    x = GraphInput("x", TensorType(shape, I8))
    y = apply(kind, x, const(weight), const(BIAS2), origins=(Origin("layer", "Conv"),))
    table = ascend_table(A2, lambda layer, count: told.append((layer, count)))
    evaluate(Graph((x,), (y,), ("y",)), {"x": np.full(shape, 127, np.int8)}, table)
    assert told == [("layer", 2)]


@pytest.mark.parametrize(("kind", "shape", "weight"), LAYERS)
def test_computed_parameters_are_refused_under_the_name_of_the_layer(
    kind: Any, shape: tuple[int, ...], weight: Array
) -> None:
    x, bias = GraphInput("x", TensorType(shape, I8)), GraphInput("b", TensorType((2,), I32))
    w = GraphInput("w", TensorType(weight.shape, I8))
    feeds = {"x": np.zeros(shape, np.int8), "w": weight, "b": BIAS2}
    for operands, what in (
        ((x, const(weight), bias), "an integer layer needs a constant bias"),
        ((x, w, const(BIAS2)), f"the weight of {kind.op_name} is not a constant"),
    ):
        y = apply(kind, *operands, origins=(Origin("layer", "Conv"),))
        inputs = tuple(o for o in operands if isinstance(o, GraphInput))
        with pytest.raises(UnsupportedError) as caught:
            evaluate(Graph(inputs, (y,), ("y",)), {i.name: feeds[i.name] for i in inputs}, ascend_table(A2))
        assert str(caught.value) == f"layer: {what}"


PARAMETERS = (
    (ascend.Dequant(1), I32, np.float32([1]), "the dequantization scale of ascend.dequant is not a constant"),
    (ascend.Requant(1), I32, np.float32([1]), "the requantization scale of ascend.requant is not a constant"),
)


@pytest.mark.parametrize("table", [ascend_table, reference_table])
@pytest.mark.parametrize(("kind", "elem", "scale", "what"), PARAMETERS)
def test_computed_scales_are_refused(table: Any, kind: Any, elem: ScalarType, scale: Array, what: str) -> None:
    x, given = GraphInput("x", TensorType((1, 2), elem)), GraphInput("s", TensorType((1,), F32))
    graph = Graph((x, given), (apply(kind, x, given, origins=(Origin("layer", "Conv"),)),), ("y",))
    with pytest.raises(UnsupportedError) as caught:
        evaluate(graph, {"x": np.zeros((1, 2), elem.dtype), "s": scale}, table(A2))
    assert str(caught.value) == f"layer: {what}"


def test_a_computed_bias_of_a_weight_only_layer_is_refused() -> None:
    x, bias = GraphInput("x", TensorType((1, 2), F32)), GraphInput("b", TensorType((3,), F32))
    weight, scale = const(np.ones((2, 3), np.int8)), const(np.float32([1]))
    y = apply(ascend.WeightQuantMatMul(), x, weight, scale, None, bias, origins=(Origin("layer", "Gemm"),))
    feeds = {"x": np.ones((1, 2), np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(UnsupportedError) as caught:
        evaluate(Graph((x, bias), (y,), ("y",)), feeds, ascend_table(A2))
    assert str(caught.value) == "layer: a weight-only layer needs a constant bias"


def test_listings_say_what_a_layer_is_computed_by() -> None:
    assert str(FirstOperand(lambda x: x)) == ""
    assert str(FirstOperand(prepare_gemm(np.ones((2, 3), np.int8)))) == "product"
