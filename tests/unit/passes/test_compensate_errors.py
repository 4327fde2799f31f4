"""compensate-errors: a wrong bias and a wrong scale are put right exactly, and what does not help is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from amctc.calibrate.checkpoint import Checkpoint
from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data
from amctc.onnx_bridge.importer import import_model
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.types import F32, I8, I32, Array, QuantizedType, TensorType

RNG = np.random.default_rng(77)
STEP = 2.0**-4
X = GraphInput("x", TensorType((8, 4), F32))
WEIGHT = RNG.integers(-8, 9, (4, 3)).astype(np.int8)
STEPS = np.float32([2.0**-3, 2.0**-5, 2.0**-3])
BIAS = np.int64([40, -300, 7])
NAMED = (Origin("y", "Gemm"),)
BATCHES = [{"x": (RNG.integers(-90, 90, (8, 4)) * STEP).astype(np.float32)} for _ in range(6)]
"""Data that their quantizer represents exactly."""


def through_quantizer(x: Value, step: float = STEP) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(step, 0)), x))


def dequantized(integers: Array, storage: object, steps: Array, axis: int, name: str) -> Value:
    elem = QuantizedType(storage, F32, tuple(map(float, steps)), (0,) * len(steps), axis, *storage.integer_range)
    return apply(quant.Dequantize(), const(integers, elem, name=f"{name}.quant"), name=name)


def layer(
    x: Value, name: str = "y", *, weight: Array = WEIGHT, steps: Array = STEPS, bias: Array | None = BIAS,
    activation: nn.Activation | None = None,
) -> Value:  # fmt: skip
    """A product in integers, called ``name``."""
    operands = [through_quantizer(x), dequantized(weight, I8, steps, 1, f"{name}.w")]
    if bias is not None:
        operands.append(dequantized(bias.astype(np.int32), I32, steps * np.float32(STEP), 0, f"{name}.b"))
    return apply(nn.Gemm(activation=activation), *operands, name=name, origins=(Origin(name, "Gemm"),))


def float_layer(x: Value, name: str = "y", *, activation: nn.Activation | None = None, scale: float = 1.0) -> Value:
    real = const((WEIGHT * STEPS * scale).astype(np.float32)), const((BIAS * STEPS * STEP).astype(np.float32))
    return apply(nn.Gemm(activation=activation), x, *real, name=name, origins=(Origin(name, "Gemm"),))


def graph(y: Value) -> Graph:
    return Graph((X,), (y,), ("y",))


REFERENCE = graph(float_layer(X))


def run(
    y: Value | Graph, reference: Graph | None = REFERENCE, options: str = "", batches: object = BATCHES
) -> PipelineResult:
    context = Context(samples=batches, reference=reference)
    return Pipeline.parse(f"compensate-errors{options}").run(y if isinstance(y, Graph) else graph(y), context)


def stored(result: PipelineResult, operand: int, at: Op | None = None) -> tuple[list[int], Array]:
    """Integers and scales of an operand of the last layer."""
    op = at or result.graph.outputs[0].producer
    value = op.operands[operand].producer.operands[0]
    return constant_data(value).read().tolist(), value.type.elem.scale_array


def test_a_bias_shift_is_removed_exactly() -> None:
    result = run(layer(X, bias=BIAS + np.int64([64, 0, -9])))
    assert stored(result, 2)[0] == BIAS.tolist()
    assert stored(result, 1)[0] == WEIGHT.tolist()
    (note,) = result.notes
    assert note.layer == "y"
    assert note.text.startswith("bias corrected: its outputs come from ")
    assert note.text.endswith(" to inf dB")


@pytest.mark.parametrize("kind", ["conv", "depthwise", "transposed", "matmul"])
def test_a_bias_shift_of_other_layers(kind: str) -> None:
    """A layer without a bias gets the one its float twin has."""
    kinds = {
        "conv": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), (3, 2, 3, 3), (4, 2, 5, 5), 0),
        "depthwise": (nn.Conv((2, 1), (1, 1, 1, 1), (1, 1), 2), (2, 1, 3, 3), (4, 2, 5, 5), 0),
        "transposed": (nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1)), (2, 3, 2, 2), (4, 2, 5, 5), 1),
        "matmul": (nn.MatMul(), (4, 3), (4, 2, 4), 1),
    }
    layer_kind, shape, data, axis = kinds[kind]
    outputs = shape[axis]
    x = GraphInput("x", TensorType(data, F32))
    integers = RNG.integers(-8, 9, shape).astype(np.int8)
    steps, bias = np.full(outputs, 2.0**-3, np.float32), np.arange(1, outputs + 1) * 5
    read, weight = through_quantizer(x), dequantized(integers, I8, steps, axis, "w")
    real = const(integers.astype(np.float32) * np.float32(2.0**-3)), const((bias * 2.0**-3 * STEP).astype(np.float32))
    batches = [{"x": (RNG.integers(-90, 90, data) * STEP).astype(np.float32)} for _ in range(6)]
    quantized = apply(layer_kind, read, weight, name="y", origins=NAMED)
    reference = apply(layer_kind, x, *real, name="y", origins=NAMED)
    found = run(Graph((x,), (quantized,), ("y",)), Graph((x,), (reference,), ("y",)), batches=batches)
    assert stored(found, 2)[0] == bias.tolist()


def test_a_channel_scale_is_put_right_exactly() -> None:
    """Integers stay; the steps of weight and bias return to what they were."""
    wrong = STEPS * np.float32([17 / 16, 1.0, 15 / 16])
    result = run(layer(X, steps=wrong))
    (integers, scales), (biases, steps) = stored(result, 1), stored(result, 2)
    assert (integers, biases) == (WEIGHT.tolist(), BIAS.tolist())
    np.testing.assert_allclose(scales, STEPS, rtol=2.0**-20)
    np.testing.assert_allclose(steps, STEPS * np.float32(STEP), rtol=2.0**-20)
    assert "scale and bias corrected" in result.notes[0].text
    kept = run(layer(X, steps=wrong), options="{rescale=false}")
    assert stored(kept, 1)[1].tolist() == wrong.tolist()


def test_nothing_is_done_where_nothing_is_wrong() -> None:
    whole = graph(layer(X))
    assert run(whole).graph is whole
    assert run(whole, reference=None).graph is whole, "beside the network of its own weights"
    assert run(REFERENCE).graph is REFERENCE, "no layer computes in integers"


def test_what_an_activation_cuts_off_is_no_error() -> None:
    """Sums far below 0 are wrong, and the relu behind makes them all 0."""
    relu = nn.Relu()
    shifted = graph(layer(X, bias=np.int64([-9000, -9000, -9000]), activation=relu))
    real = const((WEIGHT * STEPS).astype(np.float32)), const((np.full(3, -5000) * STEPS * STEP).astype(np.float32))
    reference = graph(apply(nn.Gemm(activation=relu), X, *real, name="y", origins=NAMED))
    assert run(shifted, reference).graph is shifted


def test_later_layers_read_what_earlier_ones_became() -> None:
    """Only the first bias is wrong: the second layer has nothing to make up for."""
    weights = {"weight": np.eye(3, dtype=np.int8), "steps": np.float32([1.0, 1.0, 1.0]), "bias": np.int64([0, 0, 0])}
    y = layer(layer(X, "first", bias=BIAS + 80), **weights)
    real = apply(nn.Gemm(), float_layer(X, "first"), const(np.eye(3, dtype=np.float32)), name="y", origins=NAMED)
    result = run(y, graph(real))
    assert [n.layer for n in result.notes] == ["first"]
    first = result.graph.outputs[0].producer.operands[0].producer.operands[0].producer.operands[0].producer
    assert stored(result, 2, first)[0] == BIAS.tolist()


def test_a_correction_that_does_not_hold_is_left_out() -> None:
    """Samples that fit show a shift that those held back do not."""
    rows = np.stack([b for feeds in BATCHES for b in feeds["x"]])
    rows[np.arange(len(rows)) % 4 != 3] = np.float32(100 * STEP) * 2  # saturates, where others do not
    batches = [{"x": rows[i : i + 8]} for i in range(0, len(rows), 8)]
    plain = graph(layer(X))
    assert run(plain, batches=batches).graph is plain


def test_another_network_is_no_reference() -> None:
    """Weights that are further away than rounding takes them are not what this layer was made from."""
    whole = graph(layer(X))
    assert run(whole, graph(float_layer(X, scale=3.0))).graph is whole
    assert run(whole, graph(float_layer(X, "other"))).graph is whole


def test_a_bias_that_would_leave_int32_stays() -> None:
    """N9: the first channel lacks 2^31 steps, the second 5."""
    real = (BIAS + np.int64([2**31, 5, 0])) * STEPS * STEP
    y = apply(
        nn.Gemm(),
        X,
        const((WEIGHT * STEPS).astype(np.float32)),
        const(real.astype(np.float32)),
        name="y",
        origins=NAMED,
    )
    assert stored(run(layer(X), graph(y), "{rescale=false}"), 2)[0] == (BIAS + np.int64([0, 5, 0])).tolist()


def test_a_weight_with_one_scale_keeps_it() -> None:
    elem = QuantizedType.per_tensor(2.0**-3 * 1.25, 0)
    wrong = apply(quant.Dequantize(), const(WEIGHT, elem, name="w.quant"))
    real = const((WEIGHT * np.float32(2.0**-3)).astype(np.float32))
    batches = [{"x": feeds["x"] + np.float32(2.0)} for feeds in BATCHES]
    result = run(graph(apply(nn.Gemm(), through_quantizer(X), wrong, name="y", origins=NAMED)),
                 graph(apply(nn.Gemm(), X, real, name="y", origins=NAMED)), batches=batches)  # fmt: skip
    assert stored(result, 1)[1].tolist() == [2.0**-3 * 1.25]
    assert result.notes[0].text.startswith("bias corrected")


def test_a_float_bias_stays_float() -> None:
    y = apply(
        nn.Gemm(),
        through_quantizer(X),
        dequantized(WEIGHT, I8, STEPS, 1, "w"),
        const(np.zeros(3, np.float32)),
        name="y",
        origins=NAMED,
    )
    result = run(graph(y), options="{rescale=false}")
    bias = result.graph.outputs[0].producer.operands[2]
    np.testing.assert_allclose(constant_data(bias).read(), BIAS * STEPS * STEP, rtol=2.0**-20)


def test_a_run_that_resumes_gives_the_same(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        context = Context(samples=BATCHES, reference=REFERENCE,
                          checkpoint=Checkpoint(tmp_path / "kept", {"work": "same"}, interval=0))  # fmt: skip
        results.append(Pipeline.parse("compensate-errors").run(graph(layer(X, bias=BIAS + 3)), context))
    assert results[0].notes == results[1].notes
    assert stored(results[0], 2)[0] == stored(results[1], 2)[0] == BIAS.tolist()


def test_sums_that_are_not_finite_are_left_alone() -> None:
    whole = graph(layer(X, bias=BIAS + 64))
    real = const((WEIGHT * STEPS).astype(np.float32)), const(np.float32([np.inf, 0.0, 0.0]))
    assert run(whole, graph(apply(nn.Gemm(), X, *real, name="y", origins=NAMED))).graph is whole


def test_positions_that_hang_on_the_data_cannot_be_compared() -> None:
    """Rows with a positive sum are picked: quantized, others are than in float, and not as many."""
    first, second = (",".join(map(str, RNG.normal(size=24).round(3))) for _ in range(2))
    real = import_model(
        parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[16,4] x) => (float[N,4] y) <float[4,6] w1 = {{{first}}}, float[6,4] w2 = {{{second}}},
        int64[1] one = {{1}}, int64[1] first = {{0}}, float zero = {{0}}> {{
        h = MatMul(x, w1) s = ReduceSum<keepdims = 0>(h, one) c = Greater(s, zero) i = NonZero(c)
        j = Squeeze(i, first) r = Gather(h, j) y = MatMul(r, w2) }}""")
    )
    context = Context(samples=[{"x": RNG.normal(size=(16, 4)).astype(np.float32)} for _ in range(40)], reference=real)
    text = "observe,place-qdq{bits=4},quantize-weights{bits=4},quantize-bias,compensate-errors"
    made = Pipeline.parse(text).run(real, context)
    assert {note.layer for note in made.notes} <= {"MatMul_0"}


def test_an_activation_of_its_own_counts_as_the_layers() -> None:
    """As tools write it, that know no fused relu: below 0 nothing is wrong."""
    shifted = apply(nn.Relu(), layer(X, bias=np.int64([-9000, -9000, -9000])))
    real = const((WEIGHT * STEPS).astype(np.float32)), const((np.full(3, -5000) * STEPS * STEP).astype(np.float32))
    reference = apply(nn.Relu(), apply(nn.Gemm(), X, *real, name="y", origins=NAMED))
    whole = graph(shifted)
    assert run(whole, graph(reference)).graph is whole


def test_refusals() -> None:
    with pytest.raises(UsageError, match="columns=0"):
        Pipeline.parse("compensate-errors{columns=0}")
    with pytest.raises(UsageError, match=r"compensate-errors.*needs samples"):
        Pipeline.parse("compensate-errors").run(graph(layer(X)), Context())
