"""drop-identity: everything that returns its operand, and what only looks like it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.ops import nn, quant
from amctc.types import F16, F32, I64, QuantizedType, TensorType

X = GraphInput("x", TensorType((2, 3, 4), F32))
N = GraphInput("x", TensorType(("N", 3, 4), F32))
INF = math.inf
RELU = apply(nn.Relu(), X)
CLIPPED = apply(nn.Clip(-1.0, 6.0), X)


def conv(activation: nn.Activation | None = None) -> Value:
    kind = nn.Conv((1,), (0, 0), (1,), activation=activation)
    return apply(kind, X, const(np.ones((2, 3, 1), np.float32)))


NOTHING: dict[str, Value] = {
    "identity": apply(nn.Identity(), X),
    "chain": apply(nn.Identity(), apply(nn.Identity(), apply(nn.Identity(), X))),
    "cast": apply(nn.Cast(F32), X),
    "reshape": apply(nn.Reshape((2, 3, 4)), X),
    "reshape with -1": apply(nn.Reshape((0, -1, 4)), X),
    "flatten": apply(nn.Flatten(1), apply(nn.Reshape((6, 4)), X)),
    "transpose": apply(nn.Transpose((0, 1, 2)), X),
    "concat": apply(nn.Concat(1), X),
    "open clip": apply(nn.Clip(), X),
    "relu of relu": apply(nn.Relu(), RELU),
    "clip of relu": apply(nn.Clip(0.0, INF), RELU),
    "wider clip": apply(nn.Clip(-2.0, 6.0), CLIPPED),
    "relu of clip above zero": apply(nn.Relu(), apply(nn.Clip(0.5, 6.0), X)),
    "relu of max pool": apply(nn.Relu(), apply(nn.MaxPool((1,), (0, 0), (1,), (2,)), RELU)),
    "relu of fused relu": apply(nn.Relu(), conv(nn.Relu())),
    "relu of a sum": apply(nn.Relu(), apply(nn.Add(), RELU, RELU)),
    "clip of softmax": apply(nn.Clip(0.0, 1.0), apply(nn.Softmax(), X)),
    "relu of concat": apply(nn.Relu(), apply(nn.Concat(0), RELU, apply(nn.Sigmoid(), X))),
    "relu of a constant": apply(nn.Add(), apply(nn.Relu(), const(np.float32([0, 1, 2, 3]))), X),
}
SOMETHING: dict[str, Value] = {
    "cast to half": apply(nn.Cast(F16), X),
    "reshape": apply(nn.Reshape((3, 2, 4)), X),
    "reshape of an unknown size": apply(nn.Reshape((-1, 3, 4)), N),
    "transpose of equal sizes": apply(nn.Transpose((1, 0)), apply(nn.Reshape((12, 2)), apply(nn.Reshape((2, 12)), X))),
    "concat of two": apply(nn.Concat(1), X, X),
    "relu": RELU,
    "relu of leaky relu": apply(nn.Relu(), apply(nn.LeakyRelu(0.1), X)),
    "narrower clip": apply(nn.Clip(0.0, 6.0), CLIPPED),
    "disjoint clip": apply(nn.Clip(7.0, 8.0), CLIPPED),
    "crossed clip": apply(nn.Clip(1.0, -1.0), RELU),
    "clip of relu from above": apply(nn.Clip(0.0, 6.0), RELU),
    "relu of a difference": apply(nn.Relu(), apply(nn.Sub(), RELU, RELU)),
    "relu of a padded average": apply(nn.Clip(1.0, 6.0), apply(nn.AveragePool((1,), (1, 1), (1,), (2,)), CLIPPED)),
    "relu of a layer": apply(nn.Relu(), conv()),
    "relu of a layer with a leaky activation": apply(nn.Relu(), conv(nn.LeakyRelu(0.1))),
}


def graph(value: Value) -> Graph:
    return Graph((X,), (value,), ("y",))


@pytest.mark.parametrize("name", NOTHING)
def test_goes(name: str, run, real) -> None:
    before = graph(NOTHING[name])
    after = run("drop-identity", before).graph
    assert len(after.ops) < len(before.ops)
    kept = {type(op.kind) for op in after.ops}
    assert not kept & {nn.Identity, nn.Cast, nn.Transpose, nn.Flatten}
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(real(before, x=x)["y"], real(after, x=x)["y"])


@pytest.mark.parametrize("name", SOMETHING)
def test_stays(name: str, run) -> None:
    value = SOMETHING[name]
    before = Graph((N if name == "reshape of an unknown size" else X,), (value,), ("y",))
    after = run("drop-identity", before).graph
    assert type(after.outputs[0].producer.kind) is type(value.producer.kind)
    assert after.outputs[0].producer.kind == value.producer.kind


def test_output_may_be_an_input(run) -> None:
    after = run("drop-identity", graph(NOTHING["chain"])).graph
    assert after.outputs == (X,)
    assert after.output_names == ("y",)


def test_clip_after_quantization_stays(run) -> None:
    """A dequantized value can leave the range that the quantized one had (design: never fold Clip into a quantizer)."""
    q = apply(quant.Quantize(QuantizedType.per_tensor(0.5)), RELU)
    before = graph(apply(nn.Relu(), apply(quant.Dequantize(), q)))
    assert run("drop-identity", before).graph is before


def test_observers_stay(run) -> None:
    from amctc.numerics.histogram import Histogram

    seen = quant.Observe.of(Histogram.empty(256).updated(np.ones(3, np.float32)))
    before = graph(apply(nn.Relu(), apply(seen, X)))
    assert run("drop-identity", before).graph is before


def test_integers_too(run) -> None:
    i = GraphInput("x", TensorType((2,), I64))
    before = Graph((i,), (apply(nn.Cast(I64), i),), ("y",))
    assert run("drop-identity", before).graph.outputs == (i,)
