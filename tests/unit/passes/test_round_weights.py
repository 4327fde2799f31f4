"""round-weights: biases corrected exactly, outputs closer than by rounding to nearest, layers seen as they will be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amctc.calibrate.checkpoint import Checkpoint
from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.numerics import parted_gram
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.text import print_graph
from amctc.types import F32, I4, I8, Array, QuantizedType, TensorType

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


def layer_of(
    kind: nn.Layer, shape: tuple[int, ...], data: tuple[int, ...], *, bias: int = 0, step: float = 0.05
) -> tuple[Graph, Graph]:
    """A layer on quantized data, and the same in float."""
    x = GraphInput("x", TensorType(data, F32))
    rest = (weight(*shape), *((weight(bias),) if bias else ()))
    origins = (Origin("layer", "Conv"),)
    graphs = [
        Graph((x,), (apply(kind, d, *rest, name="y", origins=origins),), ("y",))
        for d in (through_quantizer(x, step), x)
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
    """A quantizer that clips at 1.4 moves the means. What is left of that is the rounding of the bias to float32."""
    kind, shape, data, bias = CASES[case]
    graph, reference = layer_of(kind, shape, data, bias=bias, step=0.011)
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
    monkeypatch.setattr(parted_gram, "LONGEST", 10)
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
    graph = Graph(
        graph.inputs, (apply(op.kind, op.operands[0], const(masked, name="w"), op.operands[2], name="z"),), ("y",)
    )
    result = run(graph, smooth(4, 3, 8, 8)).graph.outputs[0].producer
    stored = result.operands[1].producer.operands[0]
    assert stored.name == "w.quant"
    assert stored.type.elem.storage == I8
    assert stored.type.elem.axis == 0
    assert (constant_data(stored).read()[:, 0] == 0).all()
    assert result.operands[2].name == "w"
    assert result.result.name == "z"
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


@pytest.mark.parametrize(
    "options", ["bits=6", "damping=0.0", "damping=2.0", "columns=0", "sweeps=-1", "scales=0", "method=nearest"]
)
def test_refused_options(options: str) -> None:
    with pytest.raises(UsageError):
        Pipeline.parse(f"round-weights{{{options}}}")


def test_needs_samples() -> None:
    graph, _ = layer_of(WIDE, (4, 3, 3, 3), (4, 3, 8, 8))
    with pytest.raises(UsageError, match=r"round-weights.*needs samples"):
        Pipeline.parse("round-weights").run(graph, Context())
    with pytest.raises(UsageError, match="no calibration samples"):
        run(graph, [])


FOUR = {
    "conv": (WIDE, (6, 4, 3, 3), (4, 4, 8, 8), 6),
    "transposed": (nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), 1), (4, 6, 3, 3), (4, 4, 8, 8), 6),
    "matmul": (nn.MatMul(), (32, 6), (4, 4, 8, 32), 0),
}
"""Layers that can store 4 bits (N4)."""


def weight_type(graph: Graph) -> QuantizedType:
    return graph.outputs[0].producer.operands[1].producer.operands[0].type.elem


@pytest.mark.parametrize("case", FOUR)
def test_scales_are_searched_for_four_bits_only(case: str) -> None:
    kind, shape, data, bias = FOUR[case]
    graph, reference = layer_of(kind, shape, data, bias=bias)
    batches = smooth(40, *data[1:])
    plain, searched = (run(graph, batches, f"round-weights{{bits=4 compensate=false correct-bias=false{o}}}").graph
                       for o in (" scales=1", ""))  # fmt: skip
    assert (weight_type(searched).scale_array <= weight_type(plain).scale_array).all()
    assert weight_type(searched).scales != weight_type(plain).scales
    real = outputs(reference, batches)
    before, after = (np.square(outputs(g, batches) - real).mean() for g in (plain, searched))
    assert after < before
    eight = [run(graph, batches, f"round-weights{o}").graph for o in ("", "{scales=1}")]
    assert weight_type(eight[0]).scales == weight_type(eight[1]).scales


def test_a_scale_that_int32_needs_is_not_narrowed() -> None:
    """N9: the bias of the first channel takes three quarters of int32 at full range; the other is free."""
    rng = np.random.default_rng(5)
    w = rng.normal(size=(64, 2)).astype(np.float32)
    step = np.float32(0.05)
    full = np.abs(w).max(axis=0) / 7
    bias = np.float32([0.75 * 2.0**31 * full[0] * step, 0.0])
    x = GraphInput("x", TensorType((16, 64), F32))
    graph = Graph((x,), (apply(nn.Gemm(), through_quantizer(x), const(w), const(bias)),), ("y",))
    mixed = rng.normal(size=(16 * 8, 4)) @ rng.normal(size=(4, 64))
    batches = [{"x": mixed[i : i + 16].astype(np.float32)} for i in range(0, len(mixed), 16)]
    found = weight_type(run(graph, batches, "round-weights{bits=4 compensate=false}").graph).scale_array
    assert found[0] >= full[0]
    assert found[1] < full[1]


@pytest.mark.parametrize("case", FOUR)
def test_a_layer_makes_up_for_what_was_lost_before_it(case: str) -> None:
    """A coarse quantizer that clips upstream: the layer behind it comes closer to what it gives in float."""
    kind, shape, data, _ = FOUR[case]
    x, w = GraphInput("x", TensorType(data, F32)), weight(*shape)
    lossy = through_quantizer(x, 0.011)  # up to 1.4; the data reach 4
    graph = Graph((x,), (apply(kind, through_quantizer(lossy), w, name="y"),), ("y",))
    reference = Graph((x,), (apply(kind, x, w, name="y"),), ("y",))
    batches, test = smooth(64, *data[1:]), smooth(64, *data[1:])
    real = outputs(reference, test)
    errors = [
        np.square(outputs(run(graph, batches, f"round-weights{{bits=4 compensate={c}}}").graph, test) - real).mean()
        for c in ("true", "false")
    ]
    assert errors[0] < errors[1]


def test_adaround_is_closer_than_nearest() -> None:
    kind, shape, data, bias = FOUR["conv"]
    graph, reference = layer_of(kind, shape, data, bias=bias)
    batches = smooth(24, *data[1:])
    real = outputs(reference, batches)
    texts = ("round-weights{bits=4 method=adaround scales=1}", "quantize-weights{bits=4}")
    errors = [np.square(outputs(run(graph, batches, t).graph, batches) - real).mean() for t in texts]
    assert errors[0] < errors[1]


def test_ends_in_eight_bits() -> None:
    x = GraphInput("x", TensorType((8, 4), F32))
    value: Value = x
    for name in ("first", "middle", "last"):
        value = apply(nn.MatMul(), through_quantizer(value), weight(4, 4), origins=(Origin(name, "MatMul"),))
    graph = Graph((x,), (value,), ("y",))
    batches = [{"x": RNG.normal(size=(8, 4)).astype(np.float32)}]
    result = run(graph, batches, "round-weights{bits=4 ends-int8 correct-bias=false}")
    stored = [op.operands[1].producer.operands[0].type.elem.storage for op in result.graph.ops
              if isinstance(op.kind, nn.MatMul)]  # fmt: skip
    assert stored == [I8, I4, I8]
    text = "weights stored in 8 bits, not 4: at an end of the network"
    assert [(n.layer, n.text) for n in result.notes] == [("first", text), ("last", text)]


def test_few_samples_do_no_harm() -> None:
    """Four samples for four bits: on others no worse than to nearest."""
    kind, shape, data, bias = FOUR["conv"]
    graph, reference = layer_of(kind, shape, data, bias=bias)
    test = smooth(64, *data[1:])
    real = outputs(reference, test)
    errors = [np.square(outputs(run(graph, smooth(4, *data[1:]), t).graph, test) - real).mean()
              for t in ("round-weights{bits=4}", "quantize-weights{bits=4}")]  # fmt: skip
    assert errors[0] < errors[1]


def test_a_run_with_searched_scales_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    x = GraphInput("x", TensorType((4, 4, 6, 6), F32))
    value: Value = x
    for name in ("a", "b", "c"):
        value = apply(WIDE, through_quantizer(value), weight(4, 4, 3, 3), weight(4), origins=(Origin(name, "Conv"),))
    graph, batches = Graph((x,), (value,), ("y",)), smooth(16, 4, 6, 6)
    whole = run(graph, batches, "round-weights{bits=4}")

    def killed(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    context = Context(samples=batches, progress=killed, checkpoint=Checkpoint(tmp_path / "c", {}, interval=0))
    with pytest.raises(KeyboardInterrupt):
        Pipeline.parse("round-weights{bits=4}").run(graph, context)
    context = Context(samples=batches, checkpoint=Checkpoint(tmp_path / "c", {}, interval=0))
    resumed = Pipeline.parse("round-weights{bits=4}").run(graph, context)
    assert print_graph(resumed.graph) == print_graph(whole.graph)
    assert (outputs(resumed.graph, batches) == outputs(whole.graph, batches)).all()


def held_apart(choosing: Array, judging: Array) -> list[dict[str, Array]]:
    """Samples of which every fourth, which judges, is one of ``judging``, and the others are of ``choosing``."""
    count = 4 * len(judging)
    rows = np.stack([judging[i // 4] if i % 4 == 3 else choosing[i - i // 4] for i in range(count)])
    return [{"x": rows[i : i + 6].astype(np.float32)} for i in range(0, count, 6)]


def test_rounding_that_does_not_hold_is_undone() -> None:
    """Samples that choose lie along (1, 1), so errors of two weights cancel; those held back lie along (1, -1)."""
    w, size = np.float32([[0.45], [0.45], [127.0]]), RNG.uniform(0.5, 1.0, size=(48, 1))
    x = GraphInput("x", TensorType((6, 3), F32))
    product = apply(nn.Gemm(), through_quantizer(x, 0.01), const(w), name="y", origins=(Origin("layer", "Gemm"),))
    graph, text = Graph((x,), (product,), ("y",)), "round-weights{correct-bias=false}"
    same, opposite = size * [1.0, 1.0, 0.0], size * [1.0, -1.0, 0.0]

    def integers(result: PipelineResult) -> list[int]:
        stored = result.graph.outputs[0].producer.operands[1].producer.operands[0]
        return constant_data(stored).read().ravel().tolist()

    kept, undone = run(graph, held_apart(same[:36], same[36:]), text), run(graph, held_apart(same, opposite[:12]), text)
    assert sorted(integers(kept)) == [0, 1, 127], "0.45 + 0.45 in steps of 1 is nearest to 0 + 1"
    assert integers(undone) == [0, 0, 127]
    assert [n.text for n in kept.notes] == []
    assert [n.layer for n in undone.notes] == ["layer"]
    assert undone.notes[0].text.startswith("weights rounded to nearest: ")


def test_what_is_kept_is_fitted_to_all_samples() -> None:
    """The input that varies most is rounded first, down, and the other up for it: that is the second input only where
    the samples held back, along (1, 2), count. On these (1, 0) adds 0.34, rounded to nearest 1.34."""
    w, size = np.float32([[0.46], [0.44], [127.0]]), RNG.uniform(0.3, 0.6, size=(48, 1))
    x = GraphInput("x", TensorType((6, 3), F32))
    product = apply(nn.Gemm(), through_quantizer(x, 0.01), const(w), name="y", origins=(Origin("layer", "Gemm"),))
    graph, text = Graph((x,), (product,), ("y",)), "round-weights{correct-bias=false}"
    for held, expected in (([1.0, 0.9, 0.0], [0, 1, 127]), ([1.0, 2.0, 0.0], [1, 0, 127])):
        result = run(graph, held_apart(size[:36] * [1.0, 0.9, 0.0], size[36:] * held), text)
        stored = result.graph.outputs[0].producer.operands[1].producer.operands[0]
        assert constant_data(stored).read().ravel().tolist() == expected
        assert not result.notes


def test_biases_are_corrected_beside_weights_of_four_bits_only() -> None:
    kind, shape, data, bias = CASES["conv"]
    graph, _ = layer_of(kind, shape, data, bias=bias)
    batches = smooth(16, *data[1:])

    def stored_bias(text: str) -> list[float]:
        return constant_data(run(graph, batches, text).graph.outputs[0].producer.operands[2]).read().tolist()

    own = constant_data(graph.outputs[0].producer.operands[2]).read().tolist()
    assert stored_bias("round-weights{correct-int8=false}") == own
    assert stored_bias("round-weights{bits=4 correct-int8=false}") == stored_bias("round-weights{bits=4}") != own


@pytest.mark.parametrize("shifts", [(1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0), (1.0, -1.0, 1.0, -1.0)])
def test_a_correction_that_does_not_hold_is_undone(shifts: tuple[float, ...]) -> None:
    """A quantizer that clips at 1.27 takes 0.73 from 2, 0.73 from -2 towards zero, and nothing from 0; by folds."""
    x = GraphInput("x", TensorType((4, 1), F32))
    product = apply(nn.Gemm(), through_quantizer(x, 0.01), const(np.float32([[1.0]])), const(np.float32([0.5])))
    result = run(Graph((x,), (product,), ("y",)), [{"x": 2.0 * np.float32(shifts)[:, None]}])
    bias = constant_data(result.graph.outputs[0].producer.operands[2]).read()
    lost = np.mean(shifts) * (2.0 - 1.27)
    if lost:
        np.testing.assert_allclose(bias, [0.5 + lost], rtol=1e-5)
        assert not result.notes
    else:
        assert bias.tolist() == [0.5]
        assert [n.text.partition(":")[0] for n in result.notes] == ["bias left as it was"]


def test_remarks_are_those_of_the_run_that_is_resumed(tmp_path: Path) -> None:
    x = GraphInput("x", TensorType((4, 1), F32))
    product = apply(nn.Gemm(), through_quantizer(x, 0.01), const(np.float32([[1.0]])))
    graph, batches = Graph((x,), (product,), ("y",)), [{"x": np.float32([[2.0], [-2.0], [2.0], [-2.0]])}]
    notes = []
    for _ in range(2):
        context = Context(samples=batches, checkpoint=Checkpoint(tmp_path / "kept", {"work": "same"}, interval=0))
        notes.append(Pipeline.parse("round-weights").run(graph, context).notes)
    assert notes[0] == notes[1]
    assert len(notes[0]) == 1
