"""fold-affine, constants after a layer: which become its weight and bias, and what stays."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.ops import nn
from amctc.types import F16, F32, Array, TensorType
from tests.unit.passes.inspection import close, left, read

RNG = np.random.default_rng(6)
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def layers() -> dict[str, tuple[GraphInput, Value]]:
    image, rows = GraphInput("x", TensorType((2, 3, 4, 5), F32)), GraphInput("x", TensorType((2, 3), F32))
    stack, vector = GraphInput("x", TensorType((2, 4, 3), F32)), GraphInput("x", TensorType((3,), F32))
    transpose = nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 3)
    return {
        "conv": (image, apply(POINTWISE, image, const(weights(5, 3, 1, 1)))),
        "biased conv": (image, apply(POINTWISE, image, const(weights(5, 3, 1, 1)), const(weights(5)))),
        "transpose": (image, apply(transpose, image, const(weights(3, 2, 1, 1)))),
        "gemm": (rows, apply(nn.Gemm(0.5, 3.0), rows, const(weights(3, 5)), const(weights(1, 5)))),
        "gemm without bias": (rows, apply(nn.Gemm(2.0, 3.0), rows, const(weights(3, 5)))),
        "gemm bias per row": (rows, apply(nn.Gemm(), rows, const(weights(3, 5)), const(weights(2, 1)))),
        "matmul": (rows, apply(nn.MatMul(), rows, const(weights(3, 5)))),
        "stacked matmul": (stack, apply(nn.MatMul(), stack, const(weights(2, 3, 5)))),
        "matmul of a vector": (vector, apply(nn.MatMul(), vector, const(weights(3, 5)))),
        "matmul with a vector": (rows, apply(nn.MatMul(), rows, const(weights(3)))),
        "scalar product": (vector, apply(nn.MatMul(), vector, const(weights(3)))),
    }


FOLDS = [
    ("conv", (5, 1, 1)), ("conv", (1, 5, 1, 1)), ("conv", (1, 1, 1, 1)), ("conv", (1,)), ("conv", ()),
    ("biased conv", (5, 1, 1)), ("transpose", (6, 1, 1)), ("transpose", ()),
    ("gemm", (5,)), ("gemm", (1, 5)), ("gemm", (1, 1)), ("gemm without bias", (5,)),
    ("matmul", (5,)), ("matmul", (1, 5)), ("matmul", ()), ("stacked matmul", (5,)), ("stacked matmul", (1, 1, 5)),
    ("matmul of a vector", (5,)), ("matmul of a vector", (1,)),
]  # fmt: skip
STAYS = [
    ("conv", (5,)),  # along the width, which has 5 as well
    ("conv", (4, 1)), ("conv", (5, 4, 5)), ("conv", (2, 1, 1, 1)), ("conv", (5, 1, 5)),
    ("conv", (1, 1, 1, 1, 1)),  # adds an axis
    ("transpose", (5,)), ("gemm", (2, 1)), ("gemm", (2, 5)), ("gemm bias per row", (5,)),
    ("matmul", (2, 5)), ("matmul", (3, 1, 1)), ("stacked matmul", (4, 1)), ("stacked matmul", (2, 1, 1)),
    ("matmul with a vector", (2,)), ("matmul with a vector", ()), ("scalar product", ()), ("scalar product", (4,)),
]  # fmt: skip


def added(name: str, shape: tuple[int, ...], first: bool = False) -> Graph:
    x, layer = layers()[name]
    constant = const(weights(*shape) if shape else np.float32(1.5))
    operands = (constant, layer) if first else (layer, constant)
    return Graph((x,), (apply(nn.Add(), *operands, name="y"),), ("y",))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("name", "shape"), FOLDS)
def test_folds(name: str, shape: tuple[int, ...], first: bool, run, real) -> None:
    graph = added(name, shape, first)
    result = run("fold-affine", graph).graph
    assert not any(isinstance(op.kind, nn.Add) for op in result.ops)
    x = weights(*graph.inputs[0].type.dims)
    np.testing.assert_allclose(real(graph, x=x)["y"], real(result, x=x)["y"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "shape"), STAYS)
def test_stays(name: str, shape: tuple[int, ...], run) -> None:
    graph = added(name, shape)
    assert run("fold-affine", graph).graph is graph


def test_numbers_by_hand(run, find) -> None:
    x = GraphInput("x", TensorType((1, 1, 1, 1), F32))
    conv = apply(POINTWISE, x, const(np.ones((2, 1, 1, 1), np.float32)), const(np.float32([1, 2])))
    y = apply(nn.Add(), conv, const(np.float32([10, 20]).reshape(2, 1, 1)))
    layer = find(run("fold-affine", Graph((x,), (y,), ("y",))).graph, nn.Conv)
    data = constant_data(layer.operands[2])
    assert data is not None
    np.testing.assert_array_equal(data.read(), [11, 22])


def test_beta_is_used_once(run, find) -> None:
    x = GraphInput("x", TensorType((1, 1), F32))
    gemm = apply(nn.Gemm(5.0, 3.0), x, const(np.ones((1, 1), np.float32)), const(np.float32([2])))
    layer = find(
        run("fold-affine", Graph((x,), (apply(nn.Add(), gemm, const(np.float32([1]))),), ("y",))).graph, nn.Gemm
    )
    data = constant_data(layer.operands[2])
    assert data is not None
    assert data.read() == 7
    assert (layer.kind.alpha, layer.kind.beta) == (5.0, 1.0)


def test_a_computed_addend_stays(run) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    graph = Graph((x,), (apply(nn.Add(), apply(nn.MatMul(), x, const(weights(3, 3))), x),), ("y",))
    assert run("fold-affine", graph).graph is graph


def test_an_addition_to_a_batch_of_one_may_broadcast(run) -> None:
    x = GraphInput("x", TensorType((1, 3), F32))
    y = apply(nn.Add(), apply(nn.MatMul(), x, const(weights(3, 3))), const(weights(4, 3)))
    graph = Graph((x,), (y,), ("y",))
    assert run("fold-affine", graph).graph is graph


def test_activation_between_stays(run) -> None:
    x = GraphInput("x", TensorType((1, 3), F32))
    layer = apply(nn.MatMul(nn.Relu()), x, const(weights(3, 3)))
    graph = Graph((x,), (apply(nn.Add(), layer, const(weights(3))),), ("y",))
    assert run("fold-affine", graph).graph is graph


def test_float16_overflow_stays(run) -> None:
    x = GraphInput("x", TensorType((1, 1), F16))
    layer = apply(nn.Gemm(), x, const(np.float16([[1]])), const(np.float16([40000])))
    graph = Graph((x,), (apply(nn.Add(), layer, const(np.float16([40000]))),), ("y",))
    assert run("fold-affine", graph).graph is graph


def test_two_additions(run, real) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    y = apply(nn.Add(), apply(nn.MatMul(), x, const(weights(3, 4))), const(weights(4)))
    graph = Graph((x,), (apply(nn.Add(), const(weights(1, 4)), y),), ("y",))
    result = run("fold-affine", graph)
    assert dict(result.report[0].rewrites) == {"fold_affine_after": 2}
    feed = weights(2, 3)
    np.testing.assert_allclose(real(graph, x=feed)["y"], real(result.graph, x=feed)["y"], rtol=1e-6)


# --------------------------------------------------------------------------------------------------- other arithmetic

ARITHMETIC = (nn.Add(), nn.Sub(), nn.Mul(), nn.Div())


@pytest.mark.parametrize("kind", ARITHMETIC, ids=lambda k: k.op_name)
@pytest.mark.parametrize(("name", "shape"), FOLDS)
def test_every_arithmetic_op_folds(name: str, shape: tuple[int, ...], kind: nn.Add, run, real) -> None:
    x, layer = layers()[name]
    constant = const(weights(*shape) if shape else np.float32(1.5))
    graph = Graph((x,), (apply(kind, layer, constant),), ("y",))
    result = run("fold-affine", graph).graph
    assert left(result) == [layer.producer.kind.op_name]
    close(real, graph, result, x=weights(*x.type.dims))


def test_constant_minus_layer(run, real) -> None:
    x, layer = layers()["biased conv"]
    graph = Graph((x,), (apply(nn.Sub(), const(weights(5, 1, 1)), layer),), ("y",))
    result = run("fold-affine", graph)
    assert dict(result.report[0].rewrites) == {"fold_subtraction_after": 1}
    close(real, graph, result.graph, x=weights(2, 3, 4, 5))


def test_constant_over_layer_stays(run) -> None:
    x, layer = layers()["conv"]
    graph = Graph((x,), (apply(nn.Div(), const(weights(5, 1, 1)), layer),), ("y",))
    assert run("fold-affine", graph).graph is graph


@pytest.mark.parametrize(
    ("kind", "first", "weight", "bias"),
    [
        # y = [3, 5]·x + [1, 2] meets c = [2, -4]
        (nn.Add(), False, [3, 5], [3, -2]),
        (nn.Sub(), False, [3, 5], [-1, 6]),
        (nn.Sub(), True, [-3, -5], [1, -6]),
        (nn.Mul(), False, [6, -20], [2, -8]),
        (nn.Div(), False, [1.5, -1.25], [0.5, -0.5]),
    ],
)
def test_numbers_after_a_layer(kind: nn.Add, first: bool, weight: list[float], bias: list[float], run, find) -> None:
    x = GraphInput("x", TensorType((1, 1, 1, 1), F32))
    layer = apply(POINTWISE, x, const(np.float32([3, 5]).reshape(2, 1, 1, 1)), const(np.float32([1, 2])))
    c = const(np.float32([2, -4]).reshape(1, 2, 1, 1))
    y = apply(kind, c, layer) if first else apply(kind, layer, c)
    conv = find(run("fold-affine", Graph((x,), (y,), ("y",))).graph, nn.Conv)
    np.testing.assert_array_equal(read(conv.operands[1]).ravel(), weight)
    np.testing.assert_array_equal(read(conv.operands[2]), bias)


def test_shared_weights_fold_apart(run, real) -> None:
    x, w = GraphInput("x", TensorType((2, 3), F32)), const(weights(3, 3))
    a = apply(nn.Mul(), apply(nn.MatMul(), x, w), const(weights(3)))
    b = apply(nn.MatMul(), apply(nn.Relu(), x), w)
    graph = Graph((x,), (apply(nn.Add(), a, b), b), ("y", "b"))
    result = run("fold-affine", graph).graph
    assert result.outputs[1] is b
    close(real, graph, result, x=weights(2, 3))


def test_negative_factors_fold(run, real) -> None:
    x, layer = layers()["biased conv"]
    graph = Graph((x,), (apply(nn.Mul(), layer, const(-np.abs(weights(5, 1, 1)))),), ("y",))
    result = run("fold-affine", graph).graph
    assert left(result) == ["nn.conv"]
    close(real, graph, result, x=weights(2, 3, 4, 5))


def test_a_batch_norm_written_out_disappears(run, real) -> None:
    """(conv - mean)·(gamma/sqrt(var + eps)) + beta, its constants per channel."""
    x, layer = layers()["conv"]
    mean, scale, beta = (const(weights(1, 5, 1, 1)) for _ in range(3))
    y = apply(nn.Add(), apply(nn.Mul(), apply(nn.Sub(), layer, mean), scale), beta)
    graph = Graph((x,), (y,), ("y",))
    result = run("fold-affine", graph)
    assert left(result.graph) == ["nn.conv"]
    assert dict(result.report[0].rewrites) == {"fold_affine_after": 3}
    close(real, graph, result.graph, x=weights(2, 3, 4, 5))
