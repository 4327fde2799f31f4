"""equalize: factors by hand, what factors pass and what stops them, and the function that must not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError, UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.magnitude import MAGNITUDE, tolerance
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, Array, TensorType
from amctc_passes.balance.channels import homogeneous

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


def test_what_is_homogeneous() -> None:
    ceilings = nn.Clip(0.0, 6.0), nn.Clip(-np.inf, 6.0), nn.Clip(0.0, np.inf)
    for kind in (None, nn.Relu(), nn.LeakyRelu(0.1), *ceilings):
        assert homogeneous(kind), kind
    for kind in (nn.Clip(-1.0, 6.0), nn.Clip(0.0, 0.0), nn.Clip(np.inf, np.inf), nn.Clip(1.0, 6.0), nn.Sigmoid()):
        assert not homogeneous(kind), kind


def added_to(other: Value | None = None) -> tuple[Graph, GraphInput]:
    """Two layers of three channels whose sum a third reads, or one of them plus ``other``."""
    x = feature()
    a = apply(POINTWISE, x, const(np.float32([8, 1, 0.5, 2, 1, 1]).reshape(3, 2, 1, 1)))
    b = apply(POINTWISE, x, weight(3, 2, 1, 1)) if other is None else other
    y = apply(POINTWISE, apply(nn.Add(), a, b), weight(2, 3, 1, 1))
    return Graph((x,), (y,), ("y",)), x


def test_what_is_added_takes_one_factor() -> None:
    graph, x = added_to()
    batches = samples(x)
    after = equalized(graph, batches)
    assert after is not graph
    same_function(graph, after, batches[0])
    first, second = (o for o in after.outputs[0].producer.operands[0].producer.operands)
    old = [weight_of(o) for o in graph.outputs[0].producer.operands[0].producer.operands]
    factors = [(weight_of(new) / was)[:, 0, 0, 0] for new, was in zip((first, second), old, strict=True)]
    np.testing.assert_allclose(factors[0], factors[1], rtol=1e-6)
    assert factors[0].max() > 1.1


@pytest.mark.parametrize("shape", [(1, 1, 6, 6), (1, 3, 1, 1), (3, 1, 1)])
def test_an_added_constant_stops_factors(shape: tuple[int, ...]) -> None:
    graph, x = added_to(const(np.ones(shape, np.float32)))
    assert equalized(graph, samples(x)) is graph


@pytest.mark.parametrize(
    ("name", "origins", "where"),
    [("hidden", (), "value 'hidden'"), (None, (Origin("first", "Conv"),), "first"), (None, (), "nn.conv")],
)
def test_samples_that_are_no_numbers_are_found_at_their_value(
    name: str | None, origins: tuple[Origin, ...], where: str
) -> None:
    """By its name, or by the layer that computes it."""
    x = feature()
    y = apply(POINTWISE, x, weight(3, 2, 1, 1), name=name, origins=origins)
    graph = Graph((x,), (apply(POINTWISE, y, weight(2, 3, 1, 1)),), ("y",))
    batch = samples(x, 1)[0]
    batch["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=rf"^{where}: calibration data holds 3 values that are NaN"):
        equalized(graph, [batch])


@pytest.mark.parametrize("kind", [nn.Clip(0.0, 6.0), nn.Relu(), nn.Identity()])
def test_factors_pass_activations_that_stand_alone(kind: nn.Clip | nn.Relu | nn.Identity) -> None:
    x = feature()
    first = const(np.float32([8, 1, 0.5, 2, 0.1, 0.1]).reshape(3, 2, 1, 1))
    y = apply(kind, apply(POINTWISE, x, first))
    graph = Graph((x,), (apply(POINTWISE, y, weight(2, 3, 1, 1)),), ("y",))
    batches = samples(x)
    after = equalized(graph, batches)
    assert after is not graph
    same_function(graph, after, batches[0])


def test_layers_that_share_a_weight_take_no_factors_of_their_data() -> None:
    x = feature()
    first = const(np.float32([8, 1, 0.5, 2, 0.1, 0.1]).reshape(3, 2, 1, 1))
    y, shared = apply(POINTWISE, x, first), weight(2, 3, 1, 1)
    readers = apply(POINTWISE, y, shared), apply(POINTWISE, apply(nn.Relu(), y), shared)
    graph = Graph((x,), readers, ("a", "b"))
    assert equalized(graph, samples(x)) is graph


@pytest.mark.parametrize("kind", [nn.InstanceNorm(), nn.GroupNorm(2), nn.BatchNorm(), nn.LayerNorm(-1)])
def test_factors_of_a_normalization_go_into_its_scale_and_bias(kind: Any) -> None:
    """The mean and the variance of a batch normalization, which come behind them, stay."""
    x = feature(2, 2) if isinstance(kind, nn.LayerNorm) else feature()
    parameters = [const(np.float32(v)) for v in ([8.0, 0.5], [1.0, -0.25])]
    statistics = [const(np.float32(v)) for v in ([0.5, -1.0], [4.0, 0.25])] if isinstance(kind, nn.BatchNorm) else []
    y = apply(kind, x, *parameters, *statistics)
    last = isinstance(kind, nn.LayerNorm)
    z = apply(nn.MatMul(), y, weight(2, 3)) if last else apply(POINTWISE, y, weight(3, 2, 1, 1))
    graph, batches = Graph((x,), (z,), ("y",)), samples(x)
    after = equalized(graph, batches)
    assert after is not graph
    same_function(graph, after, batches[0])
    operands = after.outputs[0].producer.operands[0].producer.operands
    assert operands[3:] == tuple(statistics)
    assert operands[1] is not parameters[0]
