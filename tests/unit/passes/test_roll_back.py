"""roll-back: the noise of single layers, and which go back to float within the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from onnx import helper

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.types import F32, I64, Array, QuantizedType, TensorType
from amctc_passes.quantize.reference import before_quantizer, without_quantizers
from amctc_passes.ranges.output_noise import OutputNoise

POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
BATCHES = [{"x": np.random.default_rng(i).uniform(-1, 1, (2, 2, 4, 4)).astype(np.float32)} for i in range(4)]


def through_quantizer(x: Value, step: float) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(float(np.float32(step)), 0)), x))


def chain(*steps: float, final: object = None) -> Graph:
    """Layers called a, b, c … of one channel mix each, their data quantized in the given steps."""
    x = GraphInput("x", TensorType(("n", 2, 4, 4), F32))
    y: Value = x
    for name, step in zip("abcdef", steps, strict=False):
        mix = const(np.float32([[0.8, 0.6], [-0.6, 0.8]]).reshape(2, 2, 1, 1))
        y = apply(POINTWISE, through_quantizer(y, step), mix, origins=(Origin(name, "Conv"),))
    return Graph((x,), (y if final is None else apply(final, y),), ("y",))


def run(graph: Graph, options: str = "") -> PipelineResult:
    return Pipeline.parse(f"roll-back{{{options}}}" if options else "roll-back").run(graph, Context(samples=BATCHES))


def floats(graph: Graph) -> list[str]:
    ops = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    return [op.origins[0].name for op in ops if before_quantizer(op.operands[0]) is op.operands[0]]


def share_of_all(graph: Graph) -> float:
    ops = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    return OutputNoise(graph, ops, BATCHES, 8, "cpu").share(ops)


def test_noise_by_hand() -> None:
    """Rotations keep energy: step² / 12 per element over the energy of uniform numbers, 1/3."""
    graph = chain(0.1, 0.02)
    ops = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    probe = OutputNoise(graph, ops, BATCHES, 8, "cpu")
    for op, step in zip(ops, (0.1, 0.02), strict=True):
        assert probe.share([op]) == pytest.approx(step**2 / 12 * 3, rel=0.25)  # 256 random numbers
    assert probe.share([]) == 0.0
    assert probe.share(ops) == pytest.approx(sum(probe.share([op]) for op in ops), rel=0.25)


def test_the_noisiest_layer_goes_back() -> None:
    result = run(chain(0.01, 0.3, 0.01), "sqnr=30.0 budget=0.4")
    assert floats(result.graph) == ["b"]
    (note,) = result.notes
    assert (note.source, note.layer) == ("roll-back", "b")
    assert note.text.startswith("left in float: quantized, it alone limits the outputs to 1")


def test_the_budget_holds() -> None:
    graph = chain(0.25, 0.3, 0.01, 0.01, 0.01, 0.01)  # a sixth of the work each
    assert floats(run(graph, "sqnr=60.0 budget=0.3").graph) == ["b"]
    assert floats(run(graph, "sqnr=60.0 budget=0.4").graph) == ["a", "b"]
    assert run(graph, "sqnr=60.0 budget=0.1").graph is graph


def test_clean_networks_stay() -> None:
    graph = chain(0.001, 0.001)
    assert run(graph).graph is graph


def test_even_noise_is_no_reason() -> None:
    """Layers that make no more than their share of the noise stay, however noisy the whole."""
    graph = chain(0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert run(graph, "sqnr=60.0 budget=0.25").graph is graph


def test_what_is_out_of_proportion_is_judged_by_the_noise_that_is_left() -> None:
    """Steps of 0.3, 0.1 and four of 0.01 make noises 900, 100 and 1: behind the first, the second is nearly all."""
    graph = chain(0.3, 0.1, 0.01, 0.01, 0.01, 0.01)  # a sixth of the work each: the second makes a tenth of all noise
    assert floats(run(graph, "sqnr=60.0 budget=0.2").graph) == ["a"]
    assert floats(run(graph, "sqnr=60.0 budget=0.4").graph) == ["a", "b"]


def test_a_final_softmax_is_looked_through() -> None:
    graph = chain(0.01, 0.3)
    with_softmax = chain(0.01, 0.3, final=nn.Softmax(1))
    noise = [share_of_all(g) for g in (graph, with_softmax)]
    assert noise[0] == noise[1]


def test_outputs_whose_shape_depends_on_the_data() -> None:
    """Numbers of detections that change say nothing about noise."""
    graph = chain(0.01, 0.3)
    scores = apply(nn.Relu(), graph.outputs[0])
    proto = helper.make_node("NonZero", ["x"], ["y"]).SerializeToString()
    node = Node("NonZero", "", 13, proto, (scores.type,), (TensorType((4, None), I64),))
    found = apply(nn.Cast(F32), apply(node, scores))
    detector = Graph(graph.inputs, (found, graph.outputs[0]), ("found", "y"))
    ops = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    share = OutputNoise(detector, ops, BATCHES, 8, "cpu").share(ops)
    assert share_of_all(graph) / 2 <= share < 1, "the mean over both outputs"


def test_without_quantizers() -> None:
    graph = chain(0.1, 0.2)
    bare, twins = without_quantizers(graph)
    assert not any(isinstance(op.kind, quant.Quantize | quant.Dequantize) for op in bare.ops)
    assert [op.kind for op in bare.ops if isinstance(op.kind, nn.Conv)] == [POINTWISE, POINTWISE]
    assert twins[graph.outputs[0]] is bare.outputs[0]
    first = next(op for op in graph.ops if isinstance(op.kind, nn.Conv))
    assert twins[first.operands[0]] is bare.inputs[0]


@pytest.mark.parametrize("options", ["budget=1.5", "budget=-0.1", "samples=0"])
def test_refused_options(options: str) -> None:
    with pytest.raises(UsageError):
        Pipeline.parse(f"roll-back{{{options}}}")


def test_needs_samples() -> None:
    with pytest.raises(UsageError, match=r"roll-back.*needs samples"):
        Pipeline.parse("roll-back").run(chain(0.1, 0.1), Context())
    with pytest.raises(UsageError, match="no calibration samples"):
        Pipeline.parse("roll-back").run(chain(0.1, 0.1), Context(samples=[]))


def test_layers_go_back_until_the_noise_is_as_low_as_asked() -> None:
    """Steps of 0.1 and three of 0.02 leave 10·log10((0.1² + 3·0.02²) / 12 · 3) = -25.5 dB, the three -35 dB."""
    graph = chain(0.1, 0.02, 0.02, 0.02)
    assert run(graph, "sqnr=24.5 budget=1.0").graph is graph
    assert floats(run(graph, "sqnr=27.0 budget=1.0").graph) == ["a"]
    assert floats(run(graph, "sqnr=33.0 budget=1.0").graph) == ["a"]


def test_what_is_told_while_measuring() -> None:
    """A run of all quantizers, then one per layer."""
    told: list[tuple[str, int, int]] = []
    context = Context(samples=BATCHES, progress=lambda *step: told.append(step))
    Pipeline.parse("roll-back{sqnr=90.0}").run(chain(0.1, 0.2, 0.1), context)
    assert told == [("measuring sensitivities", done, 3) for done in range(4)]


def test_the_allowed_noise_is_that_of_the_decibels() -> None:
    """30 dB are a thousandth: it decides whether layers are measured one by one."""
    graph = chain(0.1, 0.1)
    share = share_of_all(graph)
    decibels = -10 * np.log10(share)
    for sqnr, runs in (float(decibels) - 0.01, 1), (float(decibels) + 0.01, 3):
        told: list[int] = []
        context = Context(samples=BATCHES, progress=lambda what, done, total, told=told: told.append(done))
        Pipeline.parse(f"roll-back{{sqnr={sqnr} samples=8}}").run(graph, context)
        assert len(told) == runs


def test_whole_batches_are_measured_until_there_are_enough_samples() -> None:
    """Batches of two: three samples take two of them, and what comes behind is not read."""
    graph = chain(0.1, 0.2)
    ops = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    read: list[int] = []

    def batches() -> Iterator[dict[str, Array]]:
        for number, batch in enumerate(BATCHES):
            read.append(number)
            yield batch

    probe = OutputNoise(graph, ops, Once(batches), 3, "cpu")
    assert read == [0, 1]
    two = OutputNoise(graph, ops, BATCHES[:2], 99, "cpu")
    assert probe.share(ops) == two.share(ops)


class Once:
    """Samples made by a function at every reading."""

    def __init__(self, batches: Callable[[], Iterator[dict[str, Array]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self._batches()


def test_a_note_says_how_far_the_layer_alone_limits_the_outputs() -> None:
    graph = chain(0.01, 0.3, 0.01)
    noisy = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    share = OutputNoise(graph, noisy, BATCHES, 16, "cpu").share(noisy[1:2])
    (note,) = run(graph, "sqnr=30.0 budget=0.4").notes
    decibels = f"{-10 * np.log10(share):.1f} dB"
    assert note.text == f"left in float: quantized, it alone limits the outputs to {decibels}"


def test_noise_does_not_depend_on_what_is_switched_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual sums keep values alive across the places where the network is cut."""
    x = GraphInput("x", TensorType(("n", 2, 4, 4), F32))
    y: Value = x
    for i in range(7):
        mix = const(np.float32([[0.8, 0.6], [-0.6, 0.8]]).reshape(2, 2, 1, 1))
        z = apply(POINTWISE, through_quantizer(y, 0.1), mix, origins=(Origin(f"layer{i}", "Conv"),))
        y = apply(nn.Add(), z, x if i == 5 else y)
    graph = Graph((x,), (y,), ("y",))
    ops = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    shares = []
    for together in (1, 3, 100):
        monkeypatch.setattr("amctc_passes.ranges.output_noise._TOGETHER", together)
        probe = OutputNoise(graph, ops, BATCHES, 8, "cpu")
        shares.append([probe.share(some) for some in ([op] for op in ops)] + [probe.share(ops), probe.share(ops[2:4])])
    assert shares[0] == shares[1] == shares[2]
    assert all(share > 0 for share in shares[0])
