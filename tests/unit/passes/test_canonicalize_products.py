"""canonicalize-products: transposed data, biases per row, stacks of one matrix; and that the target then takes them."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, apply, const
from amctc.ops import nn
from amctc.types import F32, Array, TensorType
from tests.unit.passes.inspection import close, left, read

RNG = np.random.default_rng(11)


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("trans_b", [False, True])
def test_transposed_data(trans_b: bool, run, find, real) -> None:
    x = GraphInput("x", TensorType((3, 2), F32))
    kind = nn.Gemm(0.5, 2.0, True, trans_b, nn.Relu())
    graph = Graph(
        (x,), (apply(kind, x, const(weights(4, 3) if trans_b else weights(3, 4)), const(weights(4))),), ("y",)
    )
    result = run("canonicalize-products", graph).graph
    assert left(result) == ["nn.transpose", "nn.gemm"]
    assert find(result, nn.Gemm).kind == nn.Gemm(0.5, 2.0, False, trans_b, nn.Relu())
    close(real, graph, result, x=weights(3, 2))


@pytest.mark.parametrize("shape", [(2, 4), (2, 1)])
def test_bias_per_row(shape: tuple[int, ...], run, real) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    kind = nn.Gemm(1.0, 3.0, activation=nn.Relu())
    graph = Graph((x,), (apply(kind, x, const(weights(3, 4)), const(weights(*shape))),), ("y",))
    result = run("fold-constants,canonicalize-products,fold-constants", graph).graph
    assert left(result) == ["nn.gemm", "nn.add", "nn.relu"]
    close(real, graph, result, x=weights(2, 3))


def test_computed_bias(run, real) -> None:
    x, b = GraphInput("x", TensorType((2, 3), F32)), GraphInput("b", TensorType((4,), F32))
    for beta, ops in ((1.0, ["nn.gemm", "nn.add"]), (0.5, ["nn.gemm", "nn.mul", "nn.add"])):
        graph = Graph((x, b), (apply(nn.Gemm(2.0, beta), x, const(weights(3, 4)), b),), ("y",))
        result = run("canonicalize-products", graph).graph
        assert sorted(left(result)) == sorted(ops)
        close(real, graph, result, x=weights(2, 3), b=weights(4))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1), (1,), ()])
def test_bias_per_output_stays(shape: tuple[int, ...], run) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    bias = const(np.asarray(weights(*shape), np.float32))
    graph = Graph((x,), (apply(nn.Gemm(), x, const(weights(3, 4)), bias),), ("y",))
    assert run("canonicalize-products", graph).graph is graph


def test_stack_of_one_matrix(run, find, real) -> None:
    x = GraphInput("x", TensorType(("N", 2, 3), F32))
    w = weights(1, 3, 4)
    graph = Graph((x,), (apply(nn.MatMul(nn.Relu()), x, const(w), const(weights(4))),), ("y",))
    result = run("canonicalize-products", graph).graph
    layer = find(result, nn.MatMul)
    np.testing.assert_array_equal(read(layer.operands[1]), w[0])
    assert layer.kind == nn.MatMul(nn.Relu())
    close(real, graph, result, x=weights(5, 2, 3))


def test_stacks_that_count_stay(run) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    adds_an_axis = Graph((x,), (apply(nn.MatMul(), x, const(weights(1, 3, 4))),), ("y",))
    assert run("canonicalize-products", adds_an_axis).graph is adds_an_axis
    x = GraphInput("x", TensorType((5, 2, 3), F32))
    several = Graph((x,), (apply(nn.MatMul(), x, const(weights(5, 3, 4))),), ("y",))
    assert run("canonicalize-products", several).graph is several


def test_the_target_takes_what_it_refused(run) -> None:
    """Each of these stays in float as it comes, and is quantized after the pass."""
    rows, columns = GraphInput("x", TensorType((2, 3), F32)), GraphInput("x", TensorType((3, 2), F32))
    stack = GraphInput("x", TensorType((1, 2, 3), F32))
    refused = [
        (columns, apply(nn.Gemm(trans_a=True), columns, const(weights(3, 4)))),
        (rows, apply(nn.Gemm(), rows, const(weights(3, 4)), const(weights(2, 4)))),
        (stack, apply(nn.MatMul(), stack, const(weights(1, 3, 4)))),
    ]
    for x, y in refused:
        graph, samples = Graph((x,), (y,), ("y",)), [{"x": weights(*x.type.dims)}]
        assert "quant.quantize" not in left(run("observe,place-qdq", graph, samples).graph)
        assert "quant.quantize" in left(run("canonicalize-products,observe,place-qdq", graph, samples).graph)
