"""equalize: factors by hand, what factors pass and what stops them, and the function that must not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.magnitude import MAGNITUDE, tolerance
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, Array, TensorType

RNG = np.random.default_rng(21)
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
WIDE = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1))


def feature(channels: int = 2, size: int = 6) -> GraphInput:
    return GraphInput("x", TensorType((2, channels, size, size), F32))


def weight(*shape: int) -> Value:
    return const(RNG.normal(size=shape).astype(np.float32))


def samples(x: GraphInput, count: int = 3) -> list[dict[str, Array]]:
    return [{"x": RNG.normal(size=x.type.dims).astype(np.float32)} for _ in range(count)]


def equalized(graph: Graph, batches: list[dict[str, Array]], strength: float = 0.5) -> Graph:
    return Pipeline.parse(f"equalize{{strength={strength}}}").run(graph, Context(samples=batches)).graph


def weight_of(value: Value) -> Array:
    return constant_data(value.producer.operands[1]).read()


def same_function(before: Graph, after: Graph, feeds: dict[str, Array]) -> None:
    """Equal in float64 up to the float32 rounding of the constants: a weight is rounded once per side it has."""
    ops = sum(isinstance(op.kind, nn.Layer) for op in before.ops)
    a, b = (evaluate(g, feeds, WHOLE_FLOAT, float_type=np.float64) for g in (before, after))
    size = evaluate(before, {n: np.abs(f) for n, f in feeds.items()}, MAGNITUDE, float_type=np.float64)
    for name, array in a.items():
        assert (np.abs(array - b[name]) <= tolerance(4 * ops + 1, size[name]) + 1e-30).all()


def pair(activation: object, first: Array, second: Array) -> tuple[Graph, GraphInput]:
    x = GraphInput("x", TensorType((1, 1, 64, 64), F32))
    y = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, activation), x, const(first.reshape(2, 1, 1, 1)))
    z = apply(POINTWISE, y, const(second.reshape(1, 2, 1, 1)))
    return Graph((x,), (z,), ("z",)), x


TRUST = 4096 / (4096 + 512)  # 64 × 64 values of a channel were seen


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_two_channels_by_hand(strength: float) -> None:
    # With x = 1 the channels are 8 and 2 wide: the second has room to grow by 4.
    factor = 4.0 ** (strength * TRUST)
    graph, _ = pair(nn.Relu(), np.float32([8, 2]), np.float32([1, 3]))
    after = equalized(graph, [{"x": np.ones((1, 1, 64, 64), np.float32)}], strength)
    assert weight_of(after.outputs[0].producer.operands[0]).ravel().tolist() == [8, np.float32(2 * factor)]
    assert weight_of(after.outputs[0]).ravel().tolist() == [1, np.float32(3 / factor)]


def test_a_clip_is_a_ceiling() -> None:
    # Channels reach 6 and 2 under relu6: the second has room for 3. Had the first only reached 4, for 2, not for 3.
    graph, _ = pair(nn.Clip(0.0, 6.0), np.float32([6, 2]), np.float32([1, 3]))
    after = equalized(graph, [{"x": np.ones((1, 1, 64, 64), np.float32)}], 1.0)
    assert weight_of(after.outputs[0].producer.operands[0]).ravel().tolist() == [6, np.float32(2 * 3.0**TRUST)]
    narrow, _ = pair(nn.Clip(0.0, 2.0), np.float32([9, 1]), np.float32([1, 3]))
    after = equalized(narrow, [{"x": np.ones((1, 1, 64, 64), np.float32)}], 1.0)
    assert weight_of(after.outputs[0].producer.operands[0]).ravel().tolist() == [9, np.float32(2.0**TRUST)]


def test_channels_that_were_always_zero_stay() -> None:
    graph, _ = pair(nn.Relu(), np.float32([8, -2]), np.float32([1, 3]))
    assert equalized(graph, [{"x": np.ones((1, 1, 64, 64), np.float32)}], 1.0) is graph


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.HardSwish(), nn.Clip(-1.0, 1.0), nn.Softmax(1)])
def test_what_is_not_homogeneous_stops_factors(activation: object) -> None:
    x = feature()
    y = apply(activation, apply(POINTWISE, x, weight(3, 2, 1, 1)))
    graph = Graph((x,), (apply(POINTWISE, y, weight(2, 3, 1, 1)),), ("z",))
    assert equalized(graph, samples(x)) is graph


def test_a_graph_output_and_a_shared_weight_stop_factors() -> None:
    x = feature()
    y = apply(POINTWISE, x, weight(3, 2, 1, 1))
    graph = Graph((x,), (apply(POINTWISE, y, weight(2, 3, 1, 1)), y), ("z", "y"))
    assert equalized(graph, samples(x)) is graph
    shared = weight(2, 2, 1, 1)
    twice = apply(POINTWISE, apply(POINTWISE, x, shared), shared)
    graph = Graph((x,), (twice,), ("z",))
    assert equalized(graph, samples(x)) is graph


def test_no_layers_needs_no_samples() -> None:
    x = feature()
    graph = Graph((x,), (apply(nn.Relu(), x),), ("y",))
    assert Pipeline.parse("equalize").run(graph, Context()).graph is graph


def test_refused() -> None:
    graph, _ = pair(nn.Relu(), np.float32([8, 2]), np.float32([1, 3]))
    with pytest.raises(UsageError, match=r"equalize.*needs samples"):
        Pipeline.parse("equalize").run(graph, Context())
    with pytest.raises(UsageError, match="strength"):
        Pipeline.parse("equalize{strength=0.0}")


def residual(x: Value) -> Value:
    trunk = apply(WIDE, x, weight(4, 2, 3, 3), weight(4))
    branch = apply(WIDE, apply(nn.Relu(), apply(WIDE, trunk, weight(4, 4, 3, 3))), weight(4, 4, 3, 3))
    return apply(POINTWISE, apply(nn.Relu(), apply(nn.Add(), branch, trunk)), weight(2, 4, 1, 1))


def depthwise(x: Value) -> Value:
    y = apply(nn.LeakyRelu(0.1), apply(POINTWISE, x, weight(6, 2, 1, 1), weight(6)))
    y = apply(nn.Conv((2, 2), (1, 1, 1, 1), (1, 1), 6, nn.Relu()), y, weight(6, 1, 3, 3), weight(6))
    return apply(POINTWISE, y, weight(3, 6, 1, 1))


def joined(x: Value) -> Value:
    a = apply(nn.Relu(), apply(POINTWISE, x, weight(2, 2, 1, 1)))
    b = apply(nn.MaxPool((1, 1), (1, 1, 1, 1), (1, 1), (3, 3)), apply(WIDE, x, weight(4, 2, 3, 3)))
    grouped = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 2), apply(nn.Concat(1), a, x, b), weight(4, 4, 1, 1))
    first, second = (apply(nn.Slice((i,), (i + 2,), (1,), (1,)), grouped) for i in (0, 2))
    return apply(POINTWISE, apply(nn.Add(), first, second), weight(1, 2, 1, 1))


def transposed(x: Value) -> Value:
    y = apply(nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), 2), x, weight(2, 3, 2, 2), weight(6))
    y = apply(nn.PRelu(), y, const(np.float32([[[0.25]]])))
    return apply(nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 3), y, weight(6, 1, 2, 2))


def dense(x: Value) -> Value:
    y = apply(nn.Flatten(1), apply(nn.Relu(), apply(WIDE, x, weight(3, 2, 3, 3), weight(3))))
    y = apply(nn.Relu(), apply(nn.Gemm(trans_b=True), y, weight(5, 108), weight(1)))  # one bias for all
    return apply(nn.MatMul(), y, weight(5, 2))


def pooled(x: Value) -> Value:
    y = apply(nn.GlobalAveragePool(), apply(nn.Relu(), apply(WIDE, x, weight(4, 2, 3, 3))))
    y = apply(nn.Reshape((-1, 4)), y)
    gate = apply(nn.Sigmoid(), apply(nn.Gemm(), y, weight(4, 4)))
    return apply(nn.Gemm(), apply(nn.Mul(), y, gate), weight(4, 3))


def attended(x: Value) -> Value:
    y = apply(nn.Transpose((0, 2, 1)), apply(nn.Reshape((2, 2, 36)), x))
    y = apply(nn.LayerNorm(), apply(nn.MatMul(), y, weight(2, 8)), weight(8), weight(8))
    return apply(nn.MatMul(), apply(nn.Relu(), apply(nn.MatMul(), y, weight(8, 6))), weight(6, 2))


NETWORKS = [residual, depthwise, joined, transposed, dense, pooled, attended]


@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), strength=st.sampled_from((0.25, 0.5, 1.0)))
def test_the_function_stays(network, seed: int, strength: float) -> None:
    RNG.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    x = feature()
    graph, batches = Graph((x,), (network(x),), ("y",)), samples(x)
    after = equalized(graph, batches, strength)
    assert after is not graph
    same_function(graph, after, batches[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_channels_come_closer(network) -> None:
    """At full strength no channel of what a layer reads gets narrower beside the widest, and some get wider."""
    x = feature()
    graph, batches = Graph((x,), (network(x),), ("y",)), samples(x)
    before, after = (evenness(g, batches) for g in (graph, equalized(graph, batches, 1.0)))
    assert all(b >= a * (1 - 1e-6) for a, b in zip(before, after, strict=True))
    assert sum(after) > sum(before) * (1 + 1e-5)


def evenness(graph: Graph, batches: list[dict[str, Array]]) -> list[float]:
    """Of every layer's data, how wide channels are beside the widest, in the mean."""
    found = []
    for op in graph.ops:
        data = op.operands[0] if isinstance(op.kind, nn.Layer) else None
        if data is None or data.producer is None:
            continue
        axis = 1 if isinstance(op.kind, nn.Conv | nn.ConvTranspose) else data.type.rank - 1
        one = Graph(graph.inputs, (data,), ("d",))
        arrays = np.concatenate([evaluate(one, b, WHOLE_FLOAT)["d"] for b in batches])
        widths = np.abs(np.moveaxis(arrays, axis, 0).reshape(arrays.shape[axis], -1)).max(axis=1)
        found.append(float((widths / widths.max()).mean()))
    return found
