"""tune-ranges: what a range costs by hand, which ranges are found, and which stay."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.targets import DEFAULT_TARGET, load_profile
from amctc.types import F32, Array, QuantizedType, TensorType
from amctc_passes.facts import quantized_type
from amctc_passes.ranges.headroom import fits_accumulator
from amctc_passes.ranges.noise_at_layers import NoiseAtLayers
from amctc_passes.ranges.noise_at_outputs import NoiseAtOutputs
from amctc_passes.ranges.quantized_tensors import QuantizedTensor, quantized_tensors

RNG = np.random.default_rng(5)
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
TARGET = load_profile(DEFAULT_TARGET)
TIMES_TWO = const(np.full((1, 1, 1, 1), 2, np.float32))


def typed(low: float, high: float) -> QuantizedType:
    """int8 from ``low`` to ``high``; 0 stands at -128 or in between."""
    step = float(np.float32((high - low) / 255))
    return QuantizedType.per_tensor(step, round(-128 - low / step))


def quantized(x: Value, elem: QuantizedType) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(elem), x))


def feature(*dims: int | str) -> GraphInput:
    return GraphInput("x", TensorType(dims or ("n", 1, 4, 4), F32))


def clipped(elem: QuantizedType, activation: object = None, *, pool: bool = False) -> Graph:
    """2·x, clipped to 2 by the layer or not; x in [0, 8] with most below 1."""
    x, layer = feature(), nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, activation)
    y = apply(layer, quantized(x, elem), TIMES_TWO, origins=(Origin("conv", "Conv"),))
    return Graph((x,), (apply(nn.GlobalAveragePool(), y) if pool else y,), ("y",))


def rare(count: int = 16) -> list[dict[str, Array]]:
    """Uniform numbers below 1; the first of each sample is 8."""
    found = []
    for _ in range(count):
        x = RNG.uniform(0, 1, (2, 1, 4, 4)).astype(np.float32)
        x[:, 0, 0, 0] = 8.0
        found.append({"x": x})
    return found


SAMPLES = rare()


def run(graph: Graph, options: str = "", samples: list[dict[str, Array]] = SAMPLES) -> PipelineResult:
    text = f"tune-ranges{{{options}}}" if options else "tune-ranges"
    return Pipeline.parse(text).run(graph, Context(samples=samples))


def types(graph: Graph) -> list[QuantizedType]:
    kinds = [op.kind for op in graph.ops]
    return [kind.to for kind in kinds if isinstance(kind, quant.Quantize)]


def tensors(graph: Graph) -> tuple[Graph, list[QuantizedTensor]]:
    return quantized_tensors(graph, TARGET)


@pytest.mark.parametrize("at", ["layers", "outputs"])
def test_noise_by_hand(at: str) -> None:
    """Fifteen values 1 and one 3 that becomes 2, and all doubled: errors of 4 where energies are 4 · 15 + 36."""
    x = np.ones((4, 1, 4, 4), np.float32)
    x[:, 0, 1, 1] = 3
    graph, context = clipped(typed(0, 8)), Context(samples=[{"x": x}])
    reference, found = tensors(graph)
    measure = (NoiseAtLayers(reference, found, context, "test", 4, 16) if at == "layers" else
               NoiseAtOutputs(reference, context, "test", 4))  # fmt: skip
    coarse = QuantizedType.per_tensor(1.0, -126)  # -2 … 253, whole numbers
    assert measure.alone(found[0], coarse) == (0.0, 0.0)
    saturating = QuantizedType.per_tensor(1.0, 125)  # … up to 2
    assert measure.alone(found[0], saturating) == pytest.approx((4 / 96, 4 / 96))


@pytest.mark.parametrize("at", ["layers", "outputs"])
def test_what_an_activation_cuts_off_is_given_up(at: str) -> None:
    """Beyond 1 the layer gives 2 whatever it reads: the range ends near 1, an eighth of what was seen."""
    graph = clipped(typed(0, 8), nn.Clip(0.0, 2.0))
    result = run(graph, f"at={at}")
    (elem,) = types(result.graph)
    assert elem.zero_points == (-128,)
    assert 0.95 <= 255 * elem.scales[0] <= 1.2
    (note,) = result.notes
    assert note.layer == "conv"
    assert note.text.startswith("reads [0, 1")
    where = "its layers" if at == "layers" else "the outputs"
    assert note.text.endswith(f"dB less noise in {where}")
    again = run(graph, f"at={at}")
    assert types(again.graph) == [elem]


@pytest.mark.parametrize("at", ["layers", "outputs"])
def test_what_counts_stays(at: str) -> None:
    """Without the clip the rare 8 carries most of the energy."""
    graph = clipped(typed(0, 8))
    assert run(graph, f"at={at}").graph is graph


def test_held_back_samples_have_the_last_word() -> None:
    """The large values are in every fourth sample alone, and there they count."""
    x = [{"x": RNG.uniform(0, 1, (1, 1, 4, 4)).astype(np.float32)} for _ in range(16)]
    for feeds in x[3::4]:
        feeds["x"][0, 0, 0] = 8
    graph = clipped(typed(0, 8))
    for at in ("layers", "outputs"):
        assert run(graph, f"at={at}", x).graph is graph
        assert run(graph, f"at={at}", [f for f in x if f["x"].max() < 1]).graph is not graph
        assert run(graph, f"at={at}", x[:3]).graph is graph  # nobody is held back: nobody can say


def test_a_range_without_offset_keeps_none() -> None:
    x = feature("n", 4)
    y = apply(nn.MatMul(activation=nn.Clip(-0.1, 0.1)), quantized(x, QuantizedType.per_tensor(0.0625, 0)),
              const(np.eye(4, dtype=np.float32)))  # fmt: skip
    graph = Graph((x,), (y,), ("y",))
    (elem,) = types(run(graph, "", [{"x": RNG.uniform(-1, 1, (256, 4)).astype(np.float32)} for _ in range(4)]).graph)
    assert elem.zero_points == (0,)
    assert elem.scales[0] < 0.0625 / 8


def test_tensors_with_one_range_keep_one() -> None:
    """Two layers read one value, and a third the maximum of it."""
    x, elem = feature(), typed(0, 8)
    a = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, nn.Clip(0.0, 2.0)), quantized(x, elem), TIMES_TWO)
    b = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, nn.Clip(0.0, 2.0)), quantized(x, elem), TIMES_TWO)
    graph = Graph((x,), (a, b), ("a", "b"))
    assert len(tensors(graph)[1]) == 1
    first, second = types(run(graph).graph)
    assert first == second != elem


def test_types_that_differ_are_apart() -> None:
    x = feature()
    values = [apply(POINTWISE, quantized(x, typed(0, high)), TIMES_TWO) for high in (4, 8)]
    assert len(tensors(Graph((x,), tuple(values), ("a", "b")))[1]) == 2


def test_noise_among_all_quantizers_decides() -> None:
    """in_place takes the other types too: without error of its own it has theirs."""
    x = feature()
    first = apply(POINTWISE, quantized(x, typed(0, 8)), TIMES_TWO)
    graph = Graph((x,), (apply(POINTWISE, quantized(first, typed(0, 16)), TIMES_TWO),), ("y",))
    reference, (a, b) = tensors(graph)
    measure = NoiseAtOutputs(reference, Context(samples=SAMPLES), "test", 32)
    both = measure.in_place(b, {a: a.elem, b: b.elem})
    assert both.chosen == pytest.approx(measure.alone(a, a.elem).chosen + measure.alone(b, b.elem).chosen, rel=0.5)
    coarse = typed(0, 64)
    assert measure.in_place(b, {a: coarse, b: b.elem}).chosen > 10 * both.chosen
    assert (
        measure.alone(b, b.elem).chosen == measure.alone(b, b.elem).chosen
    )  # what lies before is kept, and read again


def test_bounds_of_a_relu6_hold() -> None:
    """Nothing lies beyond 6, and the quantizer saturates below it (N19)."""
    x = feature()
    six = apply(nn.Clip(0.0, 6.0), x)
    graph = Graph((x,), (apply(POINTWISE, quantized(six, typed(0, 3)), TIMES_TWO),), ("y",))
    (elem,) = types(run(graph, "", [{"x": 6 * RNG.random((4, 1, 4, 4), np.float32)} for _ in range(4)]).graph)
    assert 255 * np.float64(elem.scales[0]) <= 6
    assert 255 * elem.scales[0] > 5.9


def test_a_range_beyond_the_bounds_is_measured_too() -> None:
    """A quantizer of nothing but zeros has steps of 1, far beyond the relu6 before it."""
    x = feature()
    graph = Graph((x,), (apply(POINTWISE, quantized(apply(nn.Clip(0.0, 6.0), x), QuantizedType.per_tensor(1.0, -128)),
                               TIMES_TWO),), ("y",))  # fmt: skip
    (elem,) = types(run(graph, "", [{"x": 6 * RNG.random((4, 1, 4, 4), np.float32)} for _ in range(4)]).graph)
    assert 255 * elem.scales[0] <= 6
    zeros = [{"x": np.zeros((4, 1, 4, 4), np.float32)}] * 4
    assert run(graph, "", zeros).graph is graph


def test_integer_biases_keep_the_range() -> None:
    graph = clipped(typed(0, 8), nn.Clip(0.0, 2.0))
    done = Pipeline.parse("quantize-weights,quantize-bias").run(graph, Context()).graph
    assert types(run(done).graph) != types(done)  # without a bias there is nothing to keep
    x = feature()
    y = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, nn.Clip(0.0, 2.0)), quantized(x, typed(0, 8)), TIMES_TWO,
              const(np.float32([0.1])))  # fmt: skip
    done = Pipeline.parse("quantize-weights,quantize-bias").run(Graph((x,), (y,), ("y",)), Context()).graph
    assert run(done).graph is done


def test_integer_weights_keep_their_headroom() -> None:
    """A bias of 2**20 steps of 2**-20 · scale: 2**31 - 1 at most, so the scale may shrink by no 2**-11."""
    x, step = feature(), QuantizedType.per_tensor(1.0, 0)
    weight = QuantizedType.per_tensor(2.0**-20, 0)
    stored = apply(quant.Dequantize(), const(np.ones((1, 1, 1, 1), np.int8), weight))
    y = apply(POINTWISE, quantized(x, step), stored, const(np.float32([1.0])))
    (op,) = (o for o in Graph((x,), (y,), ("y",)).ops if isinstance(o.kind, nn.Conv))
    assert fits_accumulator(op, step)
    assert fits_accumulator(op, QuantizedType.per_tensor(2.0**-10, 0))
    assert not fits_accumulator(op, QuantizedType.per_tensor(2.0**-11, 0))
    assert not fits_accumulator(op, QuantizedType.per_tensor(2.0**-126, 0))


def test_other_readers_are_not_measured_at_layers() -> None:
    """A pool is no layer with a weight; at the outputs it counts like any."""
    x = feature()
    pooled = apply(nn.GlobalAveragePool(), quantized(x, typed(0, 64)))
    graph = Graph((x,), (pooled,), ("y",))
    assert run(graph, "at=layers").graph is graph
    assert 255 * types(run(graph).graph)[0].scales[0] < 16


def test_grouped_transposed_and_matrix_layers() -> None:
    """at=layers gives about what at=outputs gives where a layer is all there is."""
    x = feature("n", 4, 5, 5)
    w = RNG.normal(size=(4, 2, 3, 3)).astype(np.float32)
    bias = const(RNG.normal(size=4).astype(np.float32))
    for kind, weight in (
        (nn.Conv((2, 1), (1, 0, 1, 0), (1, 1), 2), w),
        (nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), 2), w),
    ):
        y = apply(kind, quantized(x, typed(-4, 4)), const(weight), bias)
        graph = Graph((x,), (y,), ("y",))
        reference, found = tensors(graph)
        context = Context(samples=[{"x": RNG.normal(size=(4, 4, 5, 5)).astype(np.float32)} for _ in range(2)])
        layers = NoiseAtLayers(reference, found, context, "test", 8, 10**6)
        outputs = NoiseAtOutputs(reference, context, "test", 8)
        for elem in (typed(-4, 4), typed(-1, 0.5)):
            assert layers.alone(found[0], elem) == pytest.approx(outputs.alone(found[0], elem), rel=1e-3)


def test_nothing_to_do_and_wrong_options() -> None:
    x = feature()
    graph = Graph((x,), (apply(POINTWISE, x, TIMES_TWO),), ("y",))
    assert run(graph).graph is graph
    with pytest.raises(UsageError, match="samples=0 is not positive"):
        run(graph, "samples=0")
    with pytest.raises(UsageError, match="needs samples"):
        Pipeline.parse("tune-ranges").run(clipped(typed(0, 8)), Context())


@pytest.mark.parametrize("at", ["layers", "outputs"])
def test_behind_integer_weights(at: str) -> None:
    """Weights that are rounded without loss cost the same."""
    graph = clipped(typed(0, 8), nn.Clip(0.0, 2.0))
    rounded = Pipeline.parse("quantize-weights").run(graph, Context()).graph
    assert types(run(rounded, f"at={at}").graph) == types(run(graph, f"at={at}").graph)


def test_after_the_whole_quantization() -> None:
    """Behind round-weights the types of layers follow: what is lowered next agrees with them."""
    graph = clipped(typed(0, 8), nn.Clip(0.0, 2.0))
    rounded = Pipeline.parse("round-weights,tune-ranges,quantize-bias,legalize,to-ascend").run(
        graph, Context(samples=SAMPLES)
    )
    assert rounded.notes
    assert not types(rounded.graph)
    before = Pipeline.parse("round-weights,tune-ranges").run(graph, Context(samples=SAMPLES)).graph
    (conv,) = (op for op in before.ops if isinstance(op.kind, nn.Conv))
    assert quantized_type(conv.operands[0]).scales[0] < 0.006
