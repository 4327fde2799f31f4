"""round-weights: biases corrected exactly, outputs closer than by rounding to nearest, layers seen as they will be."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.types import F32, I4, I8, Array, QuantizedType, TensorType
from amctc_passes.quantize import round_weights

RNG = np.random.default_rng(31)
WIDE = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1))
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def weight(*shape: int) -> Value:
    return const(RNG.normal(size=shape).astype(np.float32), name="w")


def through_quantizer(x: Value, step: float = 0.05) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(float(np.float32(step)), 0)), x))


def smooth(count: int, *shape: int) -> list[dict[str, Array]]:
    """Batches of images whose neighbours are alike, as in photographs, around a mean of 1."""
    noise = RNG.normal(size=(count, *shape)).astype(np.float32)
    images = 1 + noise.cumsum(-1).cumsum(-2) / np.float32(np.sqrt(shape[-1] * shape[-2]))
    return [{"x": images[i : i + 4].astype(np.float32)} for i in range(0, count, 4)]


def run(graph: Graph, batches: list[dict[str, Array]], text: str = "round-weights", seed: int = 0) -> PipelineResult:
    return Pipeline.parse(text).run(graph, Context(samples=batches, seed=seed))


def outputs(graph: Graph, batches: list[dict[str, Array]]) -> Array:
    return np.concatenate([evaluate(graph, b, WHOLE_FLOAT)["y"] for b in batches]).astype(np.float64)


def layer_of(kind: nn.Layer, shape: tuple[int, ...], data: tuple[int, ...], *, bias: int = 0) -> tuple[Graph, Graph]:
    """A layer on quantized data, and the same in float."""
    x = GraphInput("x", TensorType(data, F32))
    rest = (weight(*shape), *((weight(bias),) if bias else ()))
    origins = (Origin("layer", "Conv"),)
    graphs = [
        Graph((x,), (apply(kind, d, *rest, name="y", origins=origins),), ("y",)) for d in (through_quantizer(x), x)
    ]
    return graphs[0], graphs[1]


CASES = {
    "conv": (WIDE, (6, 3, 3, 3), (4, 3, 8, 8), 6),
    "depthwise": (nn.Conv((2, 2), (1, 1, 1, 1), (1, 1), 4), (4, 1, 3, 3), (4, 4, 8, 8), 4),
    "transposed": (nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), 2), (4, 3, 3, 3), (4, 4, 8, 8), 6),
    "conv without bias": (POINTWISE, (6, 3, 1, 1), (4, 3, 8, 8), 0),
    "matmul": (nn.MatMul(), (8, 5), (4, 3, 8, 8), 0),
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("case", CASES)
def test_closer_than_rounding_to_nearest(case: str, bits: int) -> None:
    kind, shape, data, bias = CASES[case]
    graph, reference = layer_of(kind, shape, data, bias=bias)
    batches = smooth(12, *data[1:])
    real = outputs(reference, batches)
    errors = [
        np.square(outputs(run(graph, batches, f"{name}{{bits={bits}}}").graph, batches) - real).mean()
        for name in ("round-weights", "quantize-weights")
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_every_output_channel_is_kept(case: str) -> None:
    """What is left of the mean error is the rounding of the bias to float32."""
    kind, shape, data, bias = CASES[case]
    graph, reference = layer_of(kind, shape, data, bias=bias)
    batches = smooth(12, *data[1:])
    real, found = (outputs(g, batches) for g in (reference, run(graph, batches).graph))
    axis = nn.result_channel_axis(kind, real.ndim)
    others = tuple(i for i in range(real.ndim) if i != axis)
    left = np.abs((found - real).mean(axis=others))
    assert (left < 2.0**-20 * np.abs(real).max()).all()


def test_a_bias_shift_by_hand() -> None:
    # 1.0 is stored as 2 steps of 0.4: x loses 0.2 throughout. The bias takes up 3 · 0.2.
    x = GraphInput("x", TensorType((1, 1), F32))
    data = apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(float(np.float32(0.4)), 0)), x))
    graph = Graph((x,), (apply(nn.Gemm(), data, const(np.float32([[3.0]])), const(np.float32([0.5]))),), ("y",))
    result = run(graph, [{"x": np.float32([[1.0]])}]).graph
    bias = constant_data(result.outputs[0].producer.operands[2]).read()
    np.testing.assert_allclose(bias, [0.5 + 3 * (1.0 - 2 * np.float32(0.4))], rtol=1e-6)
    plain = run(graph, [{"x": np.float32([[1.0]])}], "round-weights{correct-bias=false}").graph
    assert constant_data(plain.outputs[0].producer.operands[2]).read().tolist() == [0.5]


def test_later_layers_see_what_earlier_ones_became() -> None:
    """Two layers with 4-bit weights: the second corrects the mean that the first shifted, residual sum included."""
    x = GraphInput("x", TensorType((4, 3, 6, 6), F32))
    y = apply(WIDE, through_quantizer(x), weight(3, 3, 3, 3))
    y = apply(nn.Add(), apply(nn.Relu(), y), x)
    z = apply(WIDE, through_quantizer(y), weight(2, 3, 3, 3), name="y")
    graph, batches = Graph((x,), (z,), ("y",)), smooth(8, 3, 6, 6)
    first, second = (w for w in (op for op in graph.ops) if isinstance(w.kind, nn.Conv))
    bare = Graph((x,), (apply(WIDE, apply(nn.Add(), apply(nn.Relu(), apply(WIDE, x, first.operands[1])), x),
                              second.operands[1]),), ("y",))  # fmt: skip
    real, found = (outputs(g, batches) for g in (bare, run(graph, batches, "round-weights{bits=4}").graph))
    assert np.abs((found - real).mean(axis=(0, 2, 3))).max() < 2.0**-18 * np.abs(real).max()


def test_long_sums_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts know nothing of each other, and still the outputs come closer than by rounding to nearest."""
    graph, reference = layer_of(WIDE, (6, 3, 3, 3), (4, 3, 8, 8), bias=6)
    batches = smooth(12, 3, 8, 8)
    whole = run(graph, batches, "round-weights{bits=4}").graph
    monkeypatch.setattr(round_weights, "LONGEST", 10)
    parts = run(graph, batches, "round-weights{bits=4}").graph
    nearest = run(graph, batches, "quantize-weights{bits=4}").graph
    real = outputs(reference, batches)
    errors = [np.square(outputs(g, batches) - real).mean() for g in (whole, parts, nearest)]
    assert errors[0] < errors[1] < errors[2]


def test_types_names_and_masks() -> None:
    graph, _ = layer_of(WIDE, (4, 3, 3, 3), (4, 3, 8, 8), bias=4)
    op = graph.outputs[0].producer
    masked = constant_data(op.operands[1]).read().copy()
    masked[:, 0] = 0
    graph = Graph(graph.inputs, (apply(op.kind, op.operands[0], const(masked, name="w"), op.operands[2]),), ("y",))
    result = run(graph, smooth(4, 3, 8, 8)).graph.outputs[0].producer
    stored = result.operands[1].producer.operands[0]
    assert stored.name == "w.quant"
    assert stored.type.elem.storage == I8
    assert stored.type.elem.axis == 0
    assert (constant_data(stored).read()[:, 0] == 0).all()
    assert result.operands[2].name == "w"
    assert run(graph, smooth(4, 3, 8, 8), "round-weights{bits=4}").notes, "three input channels cannot be int4 (N4)"
    even, _ = layer_of(WIDE, (4, 2, 3, 3), (4, 2, 8, 8))
    four = run(even, smooth(4, 2, 8, 8), "round-weights{bits=4}").graph.outputs[0].producer
    assert four.operands[1].producer.operands[0].type.elem.storage == I4


def test_runs_repeat_and_seeds_matter_little() -> None:
    graph, _ = layer_of(WIDE, (6, 3, 3, 3), (4, 3, 8, 8))
    batches = smooth(16, 3, 8, 8)
    few = "round-weights{columns=64}"
    a, b = (outputs(run(graph, batches, few).graph, batches) for _ in range(2))
    assert (a == b).all()
    other = outputs(run(graph, batches, few, seed=1).graph, batches)
    assert np.abs(a - other).max() < np.abs(a).max() / 10


def test_nothing_to_do() -> None:
    x = GraphInput("x", TensorType((4, 3, 8, 8), F32))
    graph = Graph((x,), (apply(WIDE, x, weight(4, 3, 3, 3)),), ("y",))
    assert run(graph, []).graph is graph
    quantized, _ = layer_of(WIDE, (4, 3, 3, 3), (4, 3, 8, 8))
    once = run(quantized, smooth(4, 3, 8, 8)).graph
    assert run(once, []).graph is once


@pytest.mark.parametrize("options", ["bits=6", "damping=0.0", "damping=2.0", "columns=0"])
def test_refused_options(options: str) -> None:
    with pytest.raises(UsageError):
        Pipeline.parse(f"round-weights{{{options}}}")


def test_needs_samples() -> None:
    graph, _ = layer_of(WIDE, (4, 3, 3, 3), (4, 3, 8, 8))
    with pytest.raises(UsageError, match=r"round-weights.*needs samples"):
        Pipeline.parse("round-weights").run(graph, Context())
    with pytest.raises(UsageError, match="no calibration samples"):
        run(graph, [])
