"""fold-gemm-factors: alpha, beta and short biases."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, apply, const, constant_data
from amctc.ops import nn
from amctc.types import F16, F32, Array, ScalarType, TensorType

RNG = np.random.default_rng(8)


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def gemm(kind: nn.Gemm, w: Array, b: Array | None, rows: int = 2, elem: ScalarType = F32) -> Graph:
    inner = w.shape[1 if kind.trans_b else 0]
    x = GraphInput("x", TensorType((inner, rows) if kind.trans_a else (rows, inner), elem))
    return Graph((x,), (apply(kind, x, const(w), None if b is None else const(b), name="y"),), ("y",))


@pytest.mark.parametrize("bias", [None, (4,), (1, 4), (1, 1), (1,), ()])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (1.0, -3.0), (2.0, 0.0), (-1.0, 0.25)])
@pytest.mark.parametrize(("trans_a", "trans_b"), [(False, False), (False, True), (True, False), (True, True)])
def test_factors_are_folded(
    bias: tuple[int, ...] | None, alpha: float, beta: float, trans_a: bool, trans_b: bool, run, real, find
) -> None:
    kind = nn.Gemm(alpha, beta, trans_a, trans_b, nn.Relu())
    w = weights(4, 3) if trans_b else weights(3, 4)
    graph = gemm(kind, w, None if bias is None else np.asarray(weights(*bias), np.float32))
    result = run("fold-gemm-factors", graph).graph
    layer = find(result, nn.Gemm)
    assert layer.kind == nn.Gemm(1.0, 1.0, trans_a, trans_b, nn.Relu())
    assert bias is None or layer.operands[2].type.dims == (4,)
    x = weights(*graph.inputs[0].type.dims)
    np.testing.assert_allclose(real(graph, x=x)["y"], real(result, x=x)["y"], rtol=1e-5, atol=1e-6)


def test_numbers_by_hand(run, find) -> None:
    graph = gemm(nn.Gemm(2.0, 3.0), np.float32([[1, -4]]), np.float32(5))
    layer = find(run("fold-gemm-factors", graph).graph, nn.Gemm)
    arrays = [constant_data(o).read() for o in layer.operands[1:]]
    np.testing.assert_array_equal(arrays[0], [[2, -8]])
    np.testing.assert_array_equal(arrays[1], [15, 15])


def test_beta_without_a_bias_goes_too(run, find) -> None:
    layer = find(run("fold-gemm-factors", gemm(nn.Gemm(1.0, 0.0), weights(3, 4), None)).graph, nn.Gemm)
    assert layer.kind == nn.Gemm()


def test_weight_is_kept_when_alpha_is_one(run, find) -> None:
    graph = gemm(nn.Gemm(1.0, 2.0), weights(3, 4), weights(4))
    layer = find(run("fold-gemm-factors", graph).graph, nn.Gemm)
    assert layer.operands[1] is graph.ops[-1].operands[1]


def test_denormal_weights_do_not_stop_a_bias_from_being_spread(run, find) -> None:
    w = weights(3, 4)
    w[0, 0] = 1e-40
    layer = find(run("fold-gemm-factors", gemm(nn.Gemm(), w, np.float32([1.5]))).graph, nn.Gemm)
    assert layer.operands[2].type.dims == (4,)


@pytest.mark.parametrize(
    ("kind", "w", "b"),
    [
        (nn.Gemm(), (3, 4), (4,)),
        (nn.Gemm(), (3, 4), None),
        (nn.Gemm(2.0), (3, 4), (2, 4)),
        (nn.Gemm(2.0), (3, 4), (2, 1)),
    ],
)
def test_stays(kind: nn.Gemm, w: tuple[int, ...], b: tuple[int, ...] | None, run) -> None:
    graph = gemm(kind, weights(*w), None if b is None else weights(*b))
    assert run("fold-gemm-factors", graph).graph is graph


@pytest.mark.parametrize(
    ("alpha", "beta", "w", "b"),
    [(1e38, 1.0, 1e3, 1.0), (1e-38, 1.0, 1e-3, 1.0), (1.0, 1e38, 1.0, 1e3)],
)
def test_overflow_and_underflow_stay(alpha: float, beta: float, w: float, b: float, run) -> None:
    graph = gemm(nn.Gemm(alpha, beta), np.float32([[w, 1.0]]), np.float32([b, 1.0]))
    assert run("fold-gemm-factors", graph).graph is graph


def test_alpha_of_zero_gives_zeros(run, find) -> None:
    layer = find(run("fold-gemm-factors", gemm(nn.Gemm(0.0), weights(3, 4), weights(4))).graph, nn.Gemm)
    assert layer.kind == nn.Gemm()
    assert not constant_data(layer.operands[1]).read().any()


def test_float16_underflow_stays(run) -> None:
    graph = gemm(nn.Gemm(2.0**-6), np.float16([[2.0**-10]]), None, elem=F16)
    assert run("fold-gemm-factors", graph).graph is graph


def test_computed_bias_stays(run) -> None:
    x, b = GraphInput("x", TensorType((2, 3), F32)), GraphInput("b", TensorType((4,), F32))
    graph = Graph((x, b), (apply(nn.Gemm(2.0), x, const(weights(3, 4)), b),), ("y",))
    assert run("fold-gemm-factors", graph).graph is graph
