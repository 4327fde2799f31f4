"""fold-batch-norm: the numbers by hand, the layers it folds into, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Value, apply, build, const, constant_data
from amctc.ops import nn, onnx
from amctc.types import F16, F32, Array, ScalarType, TensorType

RNG = np.random.default_rng(5)
PLAIN = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def image(channels: int = 2, elem: ScalarType = F32) -> GraphInput:
    return GraphInput("x", TensorType((1, channels, 4, 4), elem))


def parameters(channels: int, dtype: type = np.float32) -> tuple[Array, ...]:
    """gamma (some negative), beta, mean, var."""
    gamma, beta, mean = (RNG.standard_normal(channels).astype(dtype) for _ in range(3))
    return gamma, beta, mean, RNG.uniform(0.5, 2.0, channels).astype(dtype)


def norm(value: Value, arrays: tuple[Array, ...], eps: float = 1e-5) -> Value:
    return apply(nn.BatchNorm(eps), value, *map(const, arrays), name="y")


def read(value: Value | None) -> Array:
    data = constant_data(value)
    assert data is not None
    return data.read()


def folded(graph: Graph) -> nn.Layer:
    """The layer that is left; the normalisation is gone."""
    kinds = [op.kind for op in graph.ops if op.kind.op_name != "const"]
    assert not any(isinstance(k, nn.BatchNorm) for k in kinds)
    (layer,) = (k for k in kinds if isinstance(k, nn.Layer))
    return layer


def close(real: Any, before: Graph, after: Graph, **feeds: Array) -> None:
    """Equal to float32 rounding of the constants."""
    a, b = real(before, **feeds), real(after, **feeds)
    for name in before.output_names:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=2e-5)


def test_numbers_by_hand(run, one, find) -> None:
    # scale = 6 / sqrt(8 + 1) = 2 and -3 / sqrt(0 + 1) = -3; bias = beta + (b - mean) * scale.
    x = image(1)
    conv = apply(PLAIN, x, const(np.float32([5, 7]).reshape(2, 1, 1, 1)), const(np.float32([10, 20])))
    arrays = tuple(np.float32(a) for a in ([6, -3], [1, 2], [4, 5], [8, 0]))
    layer = find(run("fold-batch-norm", one(norm(conv, arrays, eps=1.0), x)).graph, nn.Conv)
    np.testing.assert_array_equal(read(layer.operands[1]).ravel(), [10, -21])
    np.testing.assert_array_equal(read(layer.operands[2]), [1 + (10 - 4) * 2, 2 + (20 - 5) * -3])
    assert layer.operands[0] is x


LAYERS: dict[str, tuple[nn.Layer, tuple[int, ...], int, int]] = {
    # kind, weight shape, channels in, channels out
    "conv": (nn.Conv((2, 1), (1, 0, 1, 2), (1, 2)), (5, 2, 3, 2), 2, 5),
    "grouped conv": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 2), (6, 2, 3, 3), 4, 6),
    "depthwise conv": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 4), (8, 1, 3, 3), 4, 8),
    "conv transpose": (nn.ConvTranspose((2, 2), (0, 0, 1, 1), (1, 1)), (3, 5, 3, 3), 3, 5),
    # As many channels in as out: scaling along the wrong axis would have the right shape.
    "square conv transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1)), (4, 4, 2, 2), 4, 4),
    "grouped conv transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 2), (4, 3, 2, 2), 4, 6),
    "square grouped transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 2), (4, 2, 2, 2), 4, 4),
    "depthwise transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 4, (0, 0)), (4, 1, 2, 2), 4, 4),
}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_convolutions(name: str, biased: bool, run, one, real) -> None:
    kind, shape, channels, out = LAYERS[name]
    x = image(channels)
    layer = apply(kind, x, const(weights(*shape)), const(weights(out)) if biased else None)
    graph = one(norm(layer, parameters(out)), x)
    result = run("fold-batch-norm", graph)
    assert folded(result.graph) == kind
    close(real, graph, result.graph, x=weights(1, channels, 4, 4))
    assert dict(result.report[0].rewrites) == {"fold_batch_norm": 1}


@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (1,), ()])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0), (2.0, 0.0)])
def test_gemm(bias: tuple[int, ...] | None, trans_b: bool, alpha: float, beta: float, run, one, real) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    w = const(weights(5, 3) if trans_b else weights(3, 5))
    layer = apply(nn.Gemm(alpha, beta, trans_b=trans_b), x, w, None if bias is None else const(weights(*bias)))
    graph = one(norm(layer, parameters(5)), x)
    result = run("fold-batch-norm", graph).graph
    kind = folded(result)
    assert isinstance(kind, nn.Gemm)
    assert (kind.alpha, kind.beta) == (alpha, 1.0), "the bias is in its final size"
    close(real, graph, result, x=weights(2, 3))


def test_matmul(run, one, real) -> None:
    x = GraphInput("x", TensorType(("N", 3), F32))
    graph = one(norm(apply(nn.MatMul(), x, const(weights(3, 3))), parameters(3)), x)
    result = run("fold-batch-norm", graph).graph
    assert isinstance(folded(result), nn.MatMul)
    close(real, graph, result, x=weights(2, 3))


def test_origins_and_names_survive(run, one, find) -> None:
    from amctc.ir import Origin

    x = image()
    conv = apply(PLAIN, x, const(weights(3, 2, 1, 1)), name="c", origins=(Origin("layer1.conv", "Conv"),))
    bn = apply(
        nn.BatchNorm(), conv, *map(const, parameters(3)), name="y", origins=(Origin("bn1", "BatchNormalization"),)
    )
    layer = find(run("fold-batch-norm", one(bn, x)).graph, nn.Conv)
    assert [o.name for o in layer.origins] == ["layer1.conv", "bn1"]
    assert layer.result.name == "y"


def unchanged(run, graph: Graph) -> None:
    assert run("fold-batch-norm", graph).graph is graph


def test_conv_read_twice_stays(run) -> None:
    x = image()
    conv = apply(PLAIN, x, const(weights(3, 2, 1, 1)))
    unchanged(run, Graph((x,), (norm(conv, parameters(3)), apply(nn.Relu(), conv)), ("a", "b")))


def test_conv_that_is_an_output_stays(run) -> None:
    x = image()
    conv = apply(PLAIN, x, const(weights(3, 2, 1, 1)))
    unchanged(run, Graph((x,), (norm(conv, parameters(3)), conv), ("a", "b")))


def test_activation_in_between_stays(run, one) -> None:
    x = image()
    fused = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), activation=nn.Relu())
    unchanged(run, one(norm(apply(fused, x, const(weights(3, 2, 1, 1))), parameters(3)), x))
    plain = apply(nn.Relu(), apply(PLAIN, x, const(weights(3, 2, 1, 1))))
    unchanged(run, one(norm(plain, parameters(3)), x))


def test_training_batch_norm_is_carried_and_stays(run, one) -> None:
    x = image(3)
    t = x.type
    proto = b""
    carried = onnx.Node("BatchNormalization", "", 15, proto, (t,) + (TensorType((3,), F32),) * 4, (t,))
    conv = apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), x, const(weights(3, 3, 3, 3)))
    unchanged(run, one(build(carried, conv, *map(const, parameters(3))).result, x))


@pytest.mark.parametrize("which", range(5))
def test_computed_parameters_stay(which: int, run) -> None:
    """A weight or a parameter that is a graph input is no constant, though it may have a default."""
    x = image()
    arrays: list[Array] = [weights(3, 2, 1, 1), *parameters(3)]
    values: list[Value] = [const(a) for a in arrays]
    given = GraphInput("p", values[which].type, constant_data(values[which]))
    values[which] = given
    bn = apply(nn.BatchNorm(), apply(PLAIN, x, values[0]), *values[1:])
    unchanged(run, Graph((x, given), (bn,), ("y",)))


def test_shared_weights_are_folded_apart(run, real) -> None:
    x = image()
    w, arrays = const(weights(3, 2, 1, 1), name="w"), parameters(3)
    plain, normed = apply(PLAIN, x, w), norm(apply(PLAIN, apply(nn.Relu(), x), w), arrays)
    graph = Graph((x,), (plain, normed), ("plain", "normed"))
    result = run("fold-batch-norm", graph).graph
    assert not any(isinstance(op.kind, nn.BatchNorm) for op in result.ops)
    assert result.outputs[0] is plain
    close(real, graph, result, x=weights(1, 2, 4, 4))


def test_two_norms_in_a_row(run, one, real) -> None:
    x = image()
    conv = apply(PLAIN, x, const(weights(3, 2, 1, 1)), const(weights(3)))
    graph = one(norm(norm(conv, parameters(3)), parameters(3)), x)
    result = run("fold-batch-norm", graph)
    folded(result.graph)
    assert dict(result.report[0].rewrites) == {"fold_batch_norm": 2}
    close(real, graph, result.graph, x=weights(1, 2, 4, 4))


def test_normalised_axis_is_not_the_channels(run, one) -> None:
    x = GraphInput("x", TensorType((2, 3, 4), F32))
    unchanged(run, one(norm(apply(nn.MatMul(), x, const(weights(4, 3))), parameters(3)), x))


@pytest.mark.parametrize("bias", [(2, 5), (2, 1)])
def test_bias_per_row_stays(bias: tuple[int, ...], run, one) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    layer = apply(nn.Gemm(), x, const(weights(3, 5)), const(weights(*bias)))
    unchanged(run, one(norm(layer, parameters(5)), x))


# ------------------------------------------------------------------------------------------------ ends of the range


def conv_norm(weight: Array, arrays: tuple[Array, ...], eps: float = 1e-5, elem: ScalarType = F32) -> Graph:
    x = image(weight.shape[1], elem)
    bias = const(np.zeros(len(weight), elem.dtype))
    return Graph((x,), (norm(apply(PLAIN, x, const(weight.astype(elem.dtype)), bias), arrays, eps),), ("y",))


def test_zero_variance_without_eps_stays(run) -> None:
    graph = conv_norm(weights(1, 2, 1, 1), tuple(np.float32([v]) for v in (1, 0, 0, 0)), eps=0.0)
    unchanged(run, graph)


def test_tiny_variance_folds(run, real) -> None:
    graph = conv_norm(weights(2, 2, 1, 1), tuple(np.float32([v, v]) for v in (1e-3, 1, 2, 1e-30)), eps=1e-12)
    result = run("fold-batch-norm", graph).graph
    folded(result)
    close(real, graph, result, x=weights(1, 2, 4, 4))


def test_float16_overflow_stays(run) -> None:
    # 1000 / sqrt(1e-4 + 1e-5) is about 95000: past the largest float16, though not past float32.
    arrays = tuple(np.float16([v]) for v in (1000, 0, 0, 1e-4))
    unchanged(run, conv_norm(np.ones((1, 2, 1, 1)), arrays, elem=F16))


def test_float16_bias_overflow_stays(run) -> None:
    arrays = tuple(np.float16([v]) for v in (60000, 60000, -60000, 1))
    unchanged(run, conv_norm(np.full((1, 2, 1, 1), 2.0**-10), arrays, elem=F16))


def test_float16_folds(run) -> None:
    arrays = tuple(np.float16([v]) for v in (2, 3, 1, 4 - 1e-3))
    graph = run("fold-batch-norm", conv_norm(np.full((1, 2, 1, 1), 0.5), arrays, elem=F16)).graph
    layer = next(op for op in graph.ops if isinstance(op.kind, nn.Conv))
    assert read(layer.operands[1]).dtype == np.float16
    np.testing.assert_allclose(read(layer.operands[1]).ravel(), [0.5, 0.5], rtol=1e-3)


def test_negative_variance_stays(run) -> None:
    unchanged(run, conv_norm(weights(1, 2, 1, 1), tuple(np.float32([v]) for v in (1, 0, 0, -1))))


UNIT = tuple(np.float32([v, v]) for v in (1, 1, 1, 0.25))


def test_dead_weights_do_not_stop_a_fold(run, real) -> None:
    """Trained networks hold denormal weights in channels that died; their layer folds all the same."""
    weight = weights(2, 2, 1, 1)
    weight[1] = 1e-40
    graph = conv_norm(weight, UNIT)
    result = run("fold-batch-norm", graph).graph
    folded(result)
    close(real, graph, result, x=weights(1, 2, 4, 4))


def test_weights_that_would_be_lost_stop_a_fold(run) -> None:
    """The whole channel is denormal and its bias is zero: nothing hides what the fold would lose."""
    unchanged(run, conv_norm(np.full((1, 2, 1, 1), 1e-40), tuple(np.float32([v]) for v in (1, 0, 0, 0.25))))


def test_large_weights_are_deferred(run) -> None:
    weight = weights(256, 128, 1, 1)
    x = image(128)
    graph = Graph((x,), (norm(apply(PLAIN, x, const(weight)), parameters(256)),), ("y",))
    layer = next(op for op in run("fold-batch-norm", graph).graph.ops if isinstance(op.kind, nn.Conv))
    data = constant_data(layer.operands[1])
    assert type(data).__name__ == "DeferredData"
    assert data is not None
    assert data.read().shape == weight.shape
