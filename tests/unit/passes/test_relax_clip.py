"""relax-clip: relu6 becomes relu where the quantizer after it saturates, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.tables import ORACLE
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, I16, Array, QuantizedType, TensorType
from amctc_passes.ranges.ranges import below_relu6

X = GraphInput("x", TensorType((1, 2, 3, 3), F32))
SIX = nn.Clip(0.0, 6.0)
IDENTITY = const(np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1))
FITTING = QuantizedType.per_tensor(float(below_relu6(np.float32(6 / 255), -128, 8)), -128)


def conv(activation: nn.Activation | None) -> Value:
    return apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), activation=activation), X, IDENTITY, name="c")


def quantized(value: Value, to: QuantizedType = FITTING) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(to), value))


def relaxed(value: Value) -> Graph:
    return Pipeline.parse("relax-clip").run(Graph((X,), (value,), ("y",)), Context()).graph


def activations(graph: Graph) -> list[nn.Activation | None]:
    """Those of their own and those of layers, in order."""
    kinds = [op.kind for op in graph.ops]
    return [k if isinstance(k, nn.Activation) else k.activation for k in kinds
            if isinstance(k, nn.Activation | nn.Layer)]  # fmt: skip


def test_of_its_own_and_in_a_layer() -> None:
    assert activations(relaxed(quantized(apply(SIX, X, name="six")))) == [nn.Relu()]
    assert activations(relaxed(quantized(conv(SIX)))) == [nn.Relu()]
    assert relaxed(quantized(apply(SIX, X, name="six"))).ops[0].result.name == "six"
    assert relaxed(quantized(conv(SIX))).ops[1].result.name == "c"


@pytest.mark.parametrize(
    "to",
    [
        QuantizedType.per_tensor(float(np.float32(6 / 255)), -128),  # reaches 6 exactly: the test is strict
        QuantizedType.per_tensor(0.03125, -128), QuantizedType.per_axis([2.0**-7] * 2, 1),
        QuantizedType.per_tensor(2.0**-17, 0, I16),
    ],
)  # fmt: skip
def test_a_clip_that_may_show_stays(to: QuantizedType) -> None:
    graph = Graph((X,), (quantized(conv(SIX), to),), ("y",))
    assert Pipeline.parse("relax-clip").run(graph, Context()).graph is graph


def test_other_readers_need_the_clip() -> None:
    clip = apply(SIX, X)
    graph = Graph((X,), (quantized(clip), apply(nn.Tanh(), clip)), ("y", "z"))
    assert Pipeline.parse("relax-clip").run(graph, Context()).graph is graph


def test_clips_that_begin_elsewhere_stay() -> None:
    assert activations(relaxed(quantized(conv(nn.Clip(-1.0, 6.0))))) == [nn.Clip(-1.0, 6.0)]
    assert activations(relaxed(quantized(conv(nn.Clip(0.0, 4.0))))) == [nn.Clip(0.0, 4.0)]
    assert activations(relaxed(quantized(conv(nn.Clip(0.0, np.inf))))) == [nn.Relu()]


@given(
    st.floats(0.125, 64.0, width=32), st.integers(-128, 127), st.floats(0.875, 1.125, width=32), st.integers(0, 9999)
)  # fmt: skip
def test_integers_stay_the_same(bound: float, zero_point: int, factor: float, seed: int) -> None:
    """Around the place where the quantizer's range ends at the bound, on both sides of it and far beyond."""
    step = np.float32(bound) * np.float32(factor) / np.float32(max(1, 127 - zero_point))
    to = QuantizedType.per_tensor(float(step), zero_point)
    value = apply(quant.Quantize(to), apply(nn.Clip(0.0, bound), X))
    graph = Graph((X,), (value,), ("y",))
    after = Pipeline.parse("relax-clip").run(graph, Context()).graph
    x: Array = np.random.default_rng(seed).normal(bound, bound / 4, (1, 2, 3, 3)).astype(np.float32)
    x[0, 0, 0] = [np.inf, -np.inf, bound]
    x[0, 1, 0] = [np.nextafter(np.float32(bound), np.float32(s)) for s in (0, np.inf, -1)]
    np.testing.assert_array_equal(evaluate(graph, {"x": x}, ORACLE)["y"], evaluate(after, {"x": x}, ORACLE)["y"])


def test_the_quantizers_of_place_qdq_relax_relu6(run, chip) -> None:
    """A range observed to end at 6 is placed just below it, so the pass finds what place-qdq prepared."""
    inner = conv(SIX)
    graph = Graph((X,), (apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), inner, IDENTITY, name="y"),), ("y",))
    samples = [{"x": np.linspace(-9, 9, 18, dtype=np.float32).reshape(1, 2, 3, 3)}]
    text = "observe,place-qdq{method=min-max}%s,quantize-weights,quantize-bias,to-ascend,fuse-requant"
    before, after = (run(text % relax, graph, samples).graph for relax in ("", ",relax-clip"))
    assert activations(run("observe,place-qdq{method=min-max},relax-clip", graph, samples).graph)[0] == nn.Relu()
    assert [type(op.kind) for op in before.ops] == [type(op.kind) for op in after.ops]
    assert any(isinstance(op.kind, ascend.Requant) for op in after.ops)
    np.testing.assert_array_equal(chip(before, **samples[0])["y"], chip(after, **samples[0])["y"])
