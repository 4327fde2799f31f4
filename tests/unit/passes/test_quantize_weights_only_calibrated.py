"""quantize-weights-only with samples: closer outputs, never worse on samples held back, the same function in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amctc.calibrate.checkpoint import Checkpoint
from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data, layer_name
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.text import print_graph
from amctc.types import F32, Array, TensorType
from amctc_passes.weights import calibrated_weights, salient_channels

RNG = np.random.default_rng(101)
METHODS = ("gptq", "awq", "best")
WIDTH = 64


def weight(*shape: int) -> Value:
    return const(RNG.normal(size=shape).astype(np.float32), name="w")


def product(x: Value, outputs: int, name: str, *, transposed: bool = False) -> Value:
    inputs = x.type.dims[-1]
    assert isinstance(inputs, int)
    if transposed:
        return apply(nn.Gemm(trans_b=True), x, weight(outputs, inputs), weight(outputs), name=name,
                     origins=(Origin(name, "Gemm"),))  # fmt: skip
    return apply(nn.MatMul(), x, weight(inputs, outputs), name=name, origins=(Origin(name, "MatMul"),))


def network() -> Graph:
    """A normalisation with large channels, two layers on it, two on what follows."""
    x = GraphInput("x", TensorType(("N", WIDTH), F32))
    gain = const(np.where(np.arange(WIDTH) % 16 == 0, 40.0, 1.0).astype(np.float32), name="gain")
    normal = apply(nn.LayerNorm(-1, 1e-5), x, gain, const(np.zeros(WIDTH, np.float32), name="shift"))
    branches = apply(nn.Add(), product(normal, WIDTH, "a"), product(normal, WIDTH, "b"))
    hidden = product(apply(nn.Relu(), branches), 96, "c", transposed=True)
    return Graph((x,), (product(hidden, 5, "d"),), ("y",))


NETWORK = network()


def batches(count: int = 400) -> list[dict[str, Array]]:
    mixed = RNG.normal(size=(count, 8)) @ np.random.default_rng(1).normal(size=(8, WIDTH))
    x = (mixed + RNG.normal(size=(count, WIDTH))).astype(np.float32)
    return [{"x": x[i : i + 32]} for i in range(0, count, 32)]


SAMPLES, TEST = batches(), batches(200)


def run(graph: Graph, text: str, samples: list[dict[str, Array]] = SAMPLES, **context: object) -> PipelineResult:
    return Pipeline.parse(f"quantize-weights-only{{{text}}}").run(graph, Context(samples=samples, **context))


def noise(graph: Graph, reference: Graph) -> float:
    found, real = (np.concatenate([evaluate(g, b, WHOLE_FLOAT)["y"] for b in TEST]) for g in (graph, reference))
    return float(np.square(found - real).sum())


@pytest.mark.parametrize("options", ["bits=4", "bits=4 group=32", "bits=4 group=32 symmetric=false", "bits=8"])
@pytest.mark.parametrize("method", METHODS)
def test_closer_than_rounding_to_nearest(method: str, options: str) -> None:
    result = run(NETWORK, f"{options} method={method}")
    assert noise(result.graph, NETWORK) < noise(run(NETWORK, options).graph, NETWORK)
    assert {n.layer for n in result.notes if "dB less noise" in n.text}


def without_rounding(graph: Graph) -> Graph:
    """The graph with float weights that AWQ scales, nothing rounded."""
    schemes = {op: salient_channels.BlockScheme(4, 0, symmetric=True) for op in graph.ops
               if isinstance(op.kind, nn.Layer)}  # fmt: skip
    return salient_channels.scaled_inputs(graph, schemes, Context(samples=SAMPLES), "test")


def test_scaled_inputs_leave_the_function_as_it_is() -> None:
    scaled = without_rounding(NETWORK)
    assert scaled is not NETWORK
    found, real = (evaluate(g, TEST[0], WHOLE_FLOAT, float_type=np.float64)["y"] for g in (scaled, NETWORK))
    # Each factor is rounded into two float32 constants; a few roundings on the way of sums of 64 such products.
    np.testing.assert_allclose(found, real, atol=64 * 2.0**-22 * np.abs(real).max())
    gain = next(constant_data(op.operands[1]).read() for op in scaled.ops if isinstance(op.kind, nn.LayerNorm))
    assert gain[0] / gain[1] < 40, "the large channels shrink"


def test_layers_that_share_inputs_share_factors() -> None:
    context = Context(samples=SAMPLES)
    Pipeline.parse("quantize-weights-only{bits=4 method=awq}").run(NETWORK, context)
    (text,) = [n.text for n in context.notes if n.layer == "a" and "(AWQ)" in n.text]
    assert text.endswith("read by a, b")


def test_groups_too_large_for_memory_are_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    together = run(NETWORK, "bits=4 method=awq").graph
    monkeypatch.setattr(salient_channels, "_MEMORY", 1)
    apart = run(NETWORK, "bits=4 method=awq").graph
    assert noise(together, apart) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_where_nothing_helps_is_rounded_to_nearest(method: str) -> None:
    """Weights that are on the grid already."""
    x = GraphInput("x", TensorType(("N", WIDTH), F32))
    codes = RNG.integers(-7, 8, (WIDTH, 6)).astype(np.float32)
    codes[0] = 7
    value = apply(nn.MatMul(), x, const(codes, name="w"), origins=(Origin("fc", "MatMul"),))
    result = run(Graph((x,), (value,), ("y",)), f"bits=4 method={method}")
    assert [n.text for n in result.notes] == ["rounded to nearest: no samples held back say that anything is better"]
    assert noise(result.graph, Graph((x,), (value,), ("y",))) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_too_few_samples_to_hold_any_back(method: str) -> None:
    result = run(NETWORK, f"bits=4 method={method}", [{"x": SAMPLES[0]["x"][:3]}])
    assert noise(result.graph, run(NETWORK, "bits=4").graph) == 0.0
    assert {n.text for n in result.notes} == {"rounded to nearest: no samples held back say that anything is better"}


def test_later_layers_see_what_earlier_ones_became() -> None:
    """The note on a layer changes when the layers before it are left in float."""
    texts = []
    for skip in ("", ' skip=["a", "b"]'):
        notes = run(NETWORK, f"bits=4 method=gptq{skip}").graph
        (op,) = [op for op in notes.ops if isinstance(op.kind, nn.Layer) and layer_name(op) == "c"]
        texts.append(constant_data(op.operands[1].producer.operands[0]).read())
    assert (texts[0] != texts[1]).any()


def test_a_shared_weight_is_rounded_to_nearest_and_stored_once() -> None:
    x = GraphInput("x", TensorType(("N", WIDTH), F32))
    w = weight(WIDTH, WIDTH)
    inner = apply(nn.MatMul(), x, w, origins=(Origin("a", "MatMul"),))
    graph = Graph((x,), (product(apply(nn.MatMul(), inner, w, origins=(Origin("b", "MatMul"),)), 4, "c"),), ("y",))
    result = run(graph, "bits=4 method=best")
    assert [n.layer for n in result.notes if "other layers read its weight" in n.text] == ["a", "b"]
    assert sum(isinstance(op.kind, quant.Dequantize) for op in result.graph.ops) == 2
    assert noise(result.graph, graph) < noise(run(graph, "bits=4").graph, graph)


def test_transposed_data_say_nothing() -> None:
    x = GraphInput("x", TensorType((WIDTH, 32), F32))
    value = apply(nn.Gemm(trans_a=True), x, weight(WIDTH, 6), origins=(Origin("fc", "Gemm"),))
    graph, samples = Graph((x,), (value,), ("y",)), [{"x": RNG.normal(size=(WIDTH, 32)).astype(np.float32)}]
    result = run(graph, "bits=4 method=best", samples)
    assert [n.text for n in result.notes] == ["rounded to nearest: its data are transposed"]


@pytest.mark.parametrize("method", METHODS)
def test_odd_data(method: str) -> None:
    """Vectors, sequences, a layer of constant data and one of data that are always 0."""
    x = GraphInput("x", TensorType((1, 3, 4), F32))
    zero = apply(nn.Mul(), x, const(np.zeros(4, np.float32)))
    vector = apply(nn.Reshape((4,)), apply(nn.Slice((0,), (1,), (1,), (1,)), x))
    values = [apply(nn.MatMul(), v, weight(4, 6), origins=(Origin(str(i), "MatMul"),))
              for i, v in enumerate((x, zero, vector, weight(2, 4)))]  # fmt: skip
    graph = Graph((x,), tuple(values), ("a", "b", "c", "d"))
    samples = [{"x": RNG.normal(size=(1, 3, 4)).astype(np.float32)} for _ in range(8)]
    result = run(graph, f"bits=4 method={method}", samples).graph
    found, real = (evaluate(g, samples[0], WHOLE_FLOAT) for g in (result, graph))
    assert all(found[n].shape == real[n].shape for n in real)
    assert np.abs(found["a"] - real["a"]).max() < np.abs(real["a"]).max()


@pytest.mark.parametrize("method", ["gptq", "best"])
def test_a_run_goes_on_where_it_was_killed(method: str, tmp_path: Path) -> None:
    """The same integers and notes as in one go, and what was rounded is not rounded again."""
    path, text = tmp_path / "checkpoint", f"bits=4 method={method}"
    whole = run(NETWORK, text)
    context = Context(samples=SAMPLES, checkpoint=Checkpoint(path, {}, interval=0))

    def killed(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    context.progress = killed
    with pytest.raises(KeyboardInterrupt):
        Pipeline.parse(f"quantize-weights-only{{{text}}}").run(NETWORK, context)
    with pytest.MonkeyPatch.context() as patch:
        tried = []
        original = calibrated_weights.weight_candidates
        patch.setattr(calibrated_weights, "weight_candidates", lambda *a, **o: tried.append(a) or original(*a, **o))
        resumed = run(NETWORK, text, checkpoint=Checkpoint(path, {}, interval=0))
    assert len(tried) == 2
    assert print_graph(resumed.graph) == print_graph(whole.graph)
    assert resumed.notes == whole.notes
    assert noise(resumed.graph, whole.graph) == 0.0


def test_needs_samples() -> None:
    with pytest.raises(UsageError, match=r"quantize-weights-only.*needs samples"):
        Pipeline.parse("quantize-weights-only{method=gptq}").run(NETWORK, Context())
