"""fold-batch-norm, normalisation before a layer: where padding allows it."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.ops import nn
from amctc.types import F16, F32, Array, TensorType
from tests.unit.passes.inspection import close, left, read

RNG = np.random.default_rng(9)


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def parameters(channels: int) -> tuple[Array, ...]:
    """gamma (some negative), beta, mean, var."""
    return weights(channels), weights(channels), weights(channels), RNG.uniform(0.5, 2.0, channels).astype(np.float32)


def unshifted(channels: int) -> tuple[Array, ...]:
    """beta = mean · gamma / sqrt(var + eps) exactly, with eps 0: the normalisation is a factor."""
    gamma = np.float32(RNG.choice((-2.0, 0.5, 4.0), channels))
    mean = np.float32(RNG.integers(-3, 4, channels))
    return gamma, mean * gamma / 2, mean, np.full(channels, 4, np.float32)


def norm(value: Value, arrays: tuple[Array, ...], eps: float = 1e-5) -> Value:
    return apply(nn.BatchNorm(eps), value, *map(const, arrays))


def test_numbers_by_hand(run, one, find) -> None:
    # scale = 6/sqrt(8 + 1) = 2 and -3/sqrt(0 + 1) = -3, shift = 1 - 4·2 = -7 and 2 - 5·-3 = 17.
    x = GraphInput("x", TensorType((1, 2, 1, 1), F32))
    arrays = tuple(np.float32(a) for a in ([6, -3], [1, 2], [4, 5], [8, 0]))
    kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    y = apply(kind, norm(x, arrays, 1.0), const(np.float32([10, 20]).reshape(1, 2, 1, 1)), const(np.float32([1])))
    layer = find(run("fold-batch-norm", one(y, x)).graph, nn.Conv)
    np.testing.assert_array_equal(read(layer.operands[1]).ravel(), [20, -60])
    np.testing.assert_array_equal(read(layer.operands[2]), [1 + 10 * -7 + 20 * 17])
    assert layer.operands[0] is x


LAYERS: dict[str, tuple[nn.Layer, tuple[int, ...]]] = {
    "conv": (nn.Conv((2, 1), (0, 0, 0, 0), (1, 2)), (5, 4, 3, 2)),
    "grouped conv": (nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 2, nn.Relu()), (6, 2, 3, 3)),
    "depthwise conv": (nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 4), (8, 1, 3, 3)),
    "pointwise transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 2), (4, 3, 1, 1)),
}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_unpadded_convolutions(name: str, biased: bool, run, one, real) -> None:
    kind, shape = LAYERS[name]
    x = GraphInput("x", TensorType((2, 4, 6, 7), F32))
    out = 6 if name == "pointwise transpose" else shape[0]
    y = apply(kind, norm(x, parameters(4)), const(weights(*shape)), const(weights(out)) if biased else None)
    graph = one(y, x)
    result = run("fold-batch-norm", graph)
    assert left(result.graph) == [kind.op_name]
    assert result.graph.ops[-1].kind == kind
    assert dict(result.report[0].rewrites) == {"fold_batch_norm_before": 1}
    close(real, graph, result.graph, x=weights(2, 4, 6, 7))


PADDED: dict[str, tuple[nn.Layer, tuple[int, ...]]] = {
    "padded conv": (nn.Conv((1, 1), (0, 1, 0, 0), (1, 1)), (5, 4, 3, 3)),
    "strided transpose": (nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1)), (4, 3, 2, 2)),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_lets_a_factor_pass_but_no_shift(name: str, run, one, real) -> None:
    kind, shape = PADDED[name]
    x = GraphInput("x", TensorType((2, 4, 6, 7), F32))
    graph = one(apply(kind, norm(x, parameters(4)), const(weights(*shape))), x)
    assert run("fold-batch-norm", graph).graph is graph
    graph = one(apply(kind, norm(x, unshifted(4), 0.0), const(weights(*shape))), x)
    result = run("fold-batch-norm", graph).graph
    assert left(result) == [kind.op_name]
    close(real, graph, result, x=weights(2, 4, 6, 7))


def test_products(run, one, real) -> None:
    x = GraphInput("x", TensorType((3, 4), F32))
    for kind, bias in ((nn.Gemm(0.5, 2.0), weights(5)), (nn.Gemm(trans_b=True), None), (nn.MatMul(), weights(5))):
        w = weights(5, 4) if isinstance(kind, nn.Gemm) and kind.trans_b else weights(4, 5)
        graph = one(apply(kind, norm(x, parameters(4)), const(w), None if bias is None else const(bias)), x)
        result = run("fold-batch-norm", graph).graph
        assert left(result) == [kind.op_name]
        close(real, graph, result, x=weights(3, 4))


def test_rows_are_normalised_not_what_is_summed_over(run, one) -> None:
    x = GraphInput("x", TensorType((4, 3), F32))
    graph = one(apply(nn.Gemm(trans_a=True), norm(x, parameters(3)), const(weights(4, 5))), x)
    assert run("fold-batch-norm", graph).graph is graph
    stack = GraphInput("x", TensorType((2, 3, 4), F32))
    graph = one(apply(nn.MatMul(), norm(stack, parameters(3)), const(weights(4, 5))), stack)
    assert run("fold-batch-norm", graph).graph is graph


def test_another_reader_of_the_norm_stays(run) -> None:
    x = GraphInput("x", TensorType((3, 4), F32))
    inner = norm(x, parameters(4))
    graph = Graph((x,), (apply(nn.MatMul(), inner, const(weights(4, 5))), apply(nn.Relu(), inner)), ("y", "z"))
    assert run("fold-batch-norm", graph).graph is graph
    graph = Graph((x,), (apply(nn.MatMul(), inner, const(weights(4, 5))), inner), ("y", "z"))
    assert run("fold-batch-norm", graph).graph is graph


def test_the_layer_before_is_preferred(run, one, find) -> None:
    x, second = GraphInput("x", TensorType((3, 4), F32)), const(weights(4, 5))
    y = apply(nn.MatMul(), norm(apply(nn.MatMul(), x, const(weights(4, 4))), parameters(4)), second)
    result = run("fold-batch-norm", one(y, x)).graph
    assert left(result) == ["nn.matmul", "nn.matmul"]
    assert result.ops[-1].operands[1] is second


def test_float16_overflow_stays(run, one) -> None:
    x = GraphInput("x", TensorType((1, 1), F16))
    arrays = tuple(np.float16([v]) for v in (1, 1000, 0, 1))
    graph = one(apply(nn.MatMul(), norm(x, arrays), const(np.float16([[100]]))), x)  # the bias would be 100000
    assert run("fold-batch-norm", graph).graph is graph


def test_a_norm_without_channels(run, one) -> None:
    x = GraphInput("x", TensorType((3, 0), F32))
    empty = np.zeros(0, np.float32)
    graph = one(apply(nn.MatMul(), norm(x, (empty,) * 4), const(np.zeros((0, 5), np.float32))), x)
    assert left(run("fold-batch-norm", graph).graph) == ["nn.matmul"]
