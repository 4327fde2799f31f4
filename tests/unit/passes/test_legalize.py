"""legalize: quantizers that the target has no integer form for are taken off, with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.targets import profile_names
from amctc.types import F32, I4, I8, I16, I32, U8, Array, QuantizedType, ScalarType, TensorType
from amctc_passes.facts import is_quantized
from amctc_passes.quantize.stored_forms import bias_obstacle

RNG = np.random.default_rng(15)
ROWS = GraphInput("x", TensorType((2, 4), F32))
IMAGE = GraphInput("x", TensorType((1, 4, 3, 3), F32))
DATA, WEIGHT = QuantizedType.per_tensor(0.5, 4), QuantizedType.per_tensor(0.25)


def dq(value: Value, elem: QuantizedType = DATA) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(elem), value))


def stored(shape: tuple[int, ...], elem: QuantizedType = WEIGHT, name: str | None = None) -> Value:
    low, high = max(elem.low, -100), min(elem.high, 100)
    return dq_constant(RNG.integers(low, high, shape), elem, name)


def dq_constant(integers: Array, elem: QuantizedType, name: str | None = None) -> Value:
    return apply(quant.Dequantize(), const(integers.astype(elem.dtype), elem), name=name)


def one(kind: nn.Layer | nn.AveragePool, *operands: Value, x: GraphInput = ROWS) -> Graph:
    return Graph((x,), (apply(kind, *operands, name="y", origins=(Origin("layer", "Gemm"),)),), ("y",))


def i32(*scales: float) -> QuantizedType:
    axis = 0 if len(scales) > 1 else None
    return QuantizedType(I32, F32, scales, (0,) * len(scales), axis, *I32.integer_range)


def test_an_int4_vector_is_no_weight_of_any_target(run) -> None:
    graph = one(nn.MatMul(), ROWS, stored((4,), QuantizedType(I4, F32, (0.5,), (0,), None, -8, 7)))
    for target in profile_names():
        (op,) = [op for op in run("legalize", graph, target=target).graph.ops if isinstance(op.kind, nn.MatMul)]
        assert not is_quantized(op.operands[1])


def test_what_the_target_computes_stays(run) -> None:
    per_channel = QuantizedType.per_axis((0.25, 0.5, 1.0), 1)
    groups = nn.ConvTranspose((2, 2), (0,) * 4, (1, 1), 2)
    for graph in (
        one(
            groups,
            dq(IMAGE),
            stored((4, 2, 1, 1), QuantizedType.per_axis((0.25, 0.5), 1)),
            stored((4,), i32(0.125, 0.25, 0.125, 0.25)),
            x=IMAGE,
        ),
        one(nn.AveragePool((1, 1), (0,) * 4, (1, 1), (2, 2)), dq(IMAGE), x=IMAGE),
        one(nn.AveragePool((1, 1), (1,) * 4, (1, 1), (2, 2), False, True), dq(IMAGE), x=IMAGE),
        one(nn.MatMul(), dq(ROWS), stored((4, 3))),
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), stored((3,), i32(0.125))),
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), stored((3,), i32(0.125, 0.125, 0.125))),
        one(nn.Gemm(), dq(ROWS), stored((4, 3), per_channel), stored((3,), i32(0.125, 0.25, 0.5))),
    ):
        result = run("legalize", graph)
        assert result.graph is graph
        assert result.notes == ()


def elem_of(storage: ScalarType, zero: int = 0) -> QuantizedType:
    return QuantizedType.per_tensor(0.25, zero, storage)


def blocks(count: int, axis: int, block: int = 2, storage: ScalarType = I8) -> QuantizedType:
    return QuantizedType(storage, F32, (0.25,) * count, (1,) * count, axis, *storage.integer_range, block)


REASONS = {
    "dilated transpose": (
        one(nn.ConvTranspose((1, 1), (0,) * 4, (2, 1)), dq(IMAGE), stored((4, 2, 2, 1)), x=IMAGE),
        "a dilated transposed convolution",
    ),
    "average without its padding": (
        one(nn.AveragePool((1, 1), (1,) * 4, (1, 1), (3, 3)), dq(IMAGE), x=IMAGE),
        "its windows average different numbers of inputs",
    ),
    "average in ceil mode": (
        one(nn.AveragePool((2, 2), (0,) * 4, (1, 1), (2, 2), ceil_mode=True), dq(IMAGE), x=IMAGE),
        "its windows average different numbers of inputs",
    ),
    "average of wide data": (
        one(nn.AveragePool((1, 1), (0,) * 4, (1, 1), (2, 2)), dq(IMAGE, elem_of(I16)), x=IMAGE),
        "activations stored as i16",
    ),
    "unsigned data": (
        one(nn.MatMul(), dq(ROWS, elem_of(U8, 128)), stored((4, 3))),
        "no rule says how ascend910b1 multiplies activations stored as u8",
    ),
    "wide data": (one(nn.MatMul(), dq(ROWS, elem_of(I16)), stored((4, 3))), "activations stored as i16"),
    "data per channel": (
        one(nn.MatMul(), dq(ROWS, QuantizedType.per_axis((0.5,) * 4, 1)), stored((4, 3))),
        "activations quantized per channel",
    ),
    "unsigned weight": (one(nn.MatMul(), dq(ROWS), stored((4, 3), elem_of(U8, 128))), "weights must be symmetric int8"),
    "offset weight": (one(nn.MatMul(), dq(ROWS), stored((4, 3), elem_of(I8, 3))), "weights must be symmetric int8"),
    "scales along the wrong axis": (
        one(nn.MatMul(), dq(ROWS), stored((4, 3), QuantizedType.per_axis((0.5,) * 4, 0))),
        "weight scales do not run over output channels",
    ),
    "float data": (
        one(nn.Conv((1, 1), (0,) * 4, (1, 1)), IMAGE, stored((3, 4, 1, 1)), x=IMAGE),
        "only its weight is quantized, and the target has no such convolution",
    ),
    "float data, unsigned weight": (
        one(nn.MatMul(), ROWS, stored((4, 3), elem_of(U8, 128))),
        "only its weight is quantized, stored as u8",
    ),
    "float data, scales along the wrong axis": (
        one(nn.MatMul(), ROWS, stored((4, 3), QuantizedType.per_axis((0.5,) * 4, 0))),
        "weight scales run over another axis",
    ),
    "float data, blocks along the wrong axis": (
        one(nn.MatMul(), ROWS, stored((4, 3), blocks(8, 1))),
        "weight scales run over another axis",
    ),
    "float data, scales beyond float16": (
        one(nn.MatMul(), ROWS, stored((4, 3), QuantizedType.per_tensor(2.0**-25))),
        "a weight scale is beyond float16",
    ),
    "float data, factors": (one(nn.Gemm(2.0), ROWS, stored((4, 3))), "Gemm with factors alpha or beta"),
    "float weight": (
        one(nn.MatMul(), dq(ROWS), const(np.ones((4, 3), np.float32))),
        "only some of its operands are quantized",
    ),
    "float bias": (
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), const(np.ones(3, np.float32))),
        "its bias is not quantized",
    ),
    "narrow bias": (
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), stored((3,), QuantizedType.per_tensor(0.125))),
        "its bias is stored as i8",
    ),
    "bias of other steps": (
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), stored((3,), i32(0.5))),
        "its bias has other steps",
    ),
    "bias of one other step": (
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), stored((3,), i32(0.125, 0.125, 0.126953125))),
        "its bias has other steps",
    ),
    "short bias": (
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), stored((1,), i32(0.125))),
        "is not one per output",
    ),
    "factors": (one(nn.Gemm(2.0), dq(ROWS), stored((4, 3))), "Gemm with factors alpha or beta"),
    "constant data": (one(nn.MatMul(), stored((2, 4), DATA), stored((4, 3))), "its input is constant"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_it_does_not_returns_to_float(name: str, run, real) -> None:
    graph, reason = REASONS[name]
    result = run("legalize", graph)
    assert not any(isinstance(op.kind, quant.Quantize | quant.Dequantize) for op in result.graph.ops)
    texts = [n.text for n in result.notes if n.layer == "layer"]
    assert len(texts) == 1
    assert reason in texts[0]
    assert result.graph.outputs[0].name == "y"
    assert run("legalize", result.graph).graph is result.graph
    lowered = run("legalize,to-ascend", graph).graph
    assert not any(isinstance(op.kind, ascend.Conv | ascend.MatMul) for op in lowered.ops)
    # Weights and biases stay rounded; only the rounding of the data (half a step of 0.5) is gone.
    x = (np.rint(RNG.standard_normal([int(d) for d in graph.inputs[0].type.dims]) * 2) / 2).astype(np.float32)
    np.testing.assert_allclose(real(graph, x=x)["y"], real(result.graph, x=x)["y"], atol=1e-4)


WEIGHT_ONLY = {
    "per tensor": one(nn.MatMul(), ROWS, stored((4, 3), elem_of(I8, 3))),
    "per channel": one(nn.MatMul(), ROWS, stored((4, 3), QuantizedType.per_axis((0.5,) * 3, 1))),
    "blocks": one(nn.Gemm(trans_b=True), ROWS, stored((3, 4), blocks(6, 1)), const(np.ones(3, np.float32))),
    "int4 blocks": one(nn.Gemm(), ROWS, stored((4, 3), blocks(3, 0, 4, I4))),
}


@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_weight_only_products_stay_where_the_target_computes_them(name: str, run) -> None:
    graph = WEIGHT_ONLY[name]
    assert run("legalize", graph).graph is graph
    result = run("legalize", graph, target="ascend310b1")
    assert [n.text for n in result.notes] == ["left in float: ascend310b1 computes no integer weights under float data"]
    assert not any(isinstance(op.kind, quant.Dequantize) for op in result.graph.ops)


def test_odd_int4_weights_return_to_float(run) -> None:
    rows = GraphInput("x", TensorType((2, 3), F32))
    result = run("legalize", one(nn.MatMul(), dq(rows), stored((3, 4), elem_of(I4)), x=rows))
    (note,) = result.notes
    assert "an int4 weight of an odd number of input channels, 3" in note.text


def test_steps_of_a_bias_that_runs_over_other_channels_than_the_weight() -> None:
    """Four scales along the wrong axis of the weight meet the three of the bias: an answer, not a broadcast error."""
    weight = QuantizedType.per_axis((0.25,) * 4, 0)
    layer = one(nn.Gemm(), dq(ROWS), stored((4, 3), weight), stored((3,), i32(0.125, 0.125, 0.125))).outputs[0].producer
    assert layer is not None
    assert "other steps" in str(bias_obstacle(layer, DATA, weight))


def test_names_of_what_returns_to_float(run) -> None:
    """The weight and the bias keep those of what was dequantized; the data is what was quantized."""
    wide = nn.Gemm(2.0)  # the target has no factors
    weight, bias = stored((4, 3), name="w"), stored((3,), i32(0.125), "b")
    (op,) = (op for op in run("legalize", one(wide, dq(ROWS), weight, bias)).graph.ops if op.kind == wide)
    assert [o.name for o in op.operands[1:]] == ["w", "b"]
    assert isinstance(op.operands[0].producer.kind, nn.Clip)
    assert op.operands[0].producer.operands[0] is ROWS
    assert (op.result.name, op.origins) == ("y", (Origin("layer", "Gemm"),))


def test_computed_bias_returns_to_float(run) -> None:
    b = GraphInput("b", TensorType((3,), F32))
    y = apply(nn.Gemm(), dq(ROWS), stored((4, 3)), b, origins=(Origin("layer", "Gemm"),))
    result = run("legalize", Graph((ROWS, b), (y,), ("y",)))
    assert [n.text for n in result.notes] == ["left in float: the bias is computed, not constant"]


@pytest.mark.parametrize(
    "elem",
    [
        elem_of(U8, 128),
        elem_of(I4),
        QuantizedType.per_axis((0.5,) * 4, 1),
        QuantizedType(I8, F32, (0.5,), (0,), None, -127, 127),
    ],
)
def test_quantizers_between_other_ops_go_too(elem: QuantizedType, run) -> None:
    """What ONNX Runtime's quantizer writes around Add, pools and outputs, in uint8 by default."""
    graph = Graph((ROWS,), (apply(nn.Add(), dq(ROWS, elem), dq(ROWS, DATA)),), ("y",))
    result = run("legalize,to-ascend", graph)
    assert [op.kind.op_name for op in result.graph.ops] == ["nn.clip", "ascend.quant", "ascend.anti_quant", "nn.add"]
    assert result.graph.ops[0].operands[0] is ROWS
    assert all("no quantizer of the target" in n.text for n in result.notes)
    assert len(result.notes) == 1


def test_values_stay_within_the_range_of_a_quantizer_taken_off(run, real) -> None:
    """ONNX Runtime's quantizer drops a relu before a quantizer that begins at 0."""
    relu = QuantizedType.per_tensor(0.25, 0, U8)
    y = apply(nn.MatMul(), dq(ROWS, relu), stored((4, 3)), origins=(Origin("layer", "MatMul"),))
    for value in (y, apply(nn.Neg(), dq(ROWS, relu))):
        graph = Graph((ROWS,), (value,), ("y",))
        x = np.array([[-3.0, -0.25, 0.5, 63.75], [64.0, 1e6, -1e6, 0.0]], np.float32)
        np.testing.assert_array_equal(real(graph, x=x)["y"], real(run("legalize", graph).graph, x=x)["y"])


def test_a_quantizer_that_saturates_nothing_leaves_no_clip(run) -> None:
    relu6 = apply(nn.Clip(0.0, 6.0), ROWS)
    for scale, expected in (0.25, []), (2.0**-6, [nn.Clip(0.0, 255 * 2.0**-6)]):
        graph = Graph((ROWS,), (apply(nn.Neg(), dq(relu6, QuantizedType.per_tensor(scale, 0, U8))),), ("y",))
        kinds = [op.kind for op in run("legalize", graph).graph.ops]
        assert kinds == [nn.Clip(0.0, 6.0), *expected, nn.Neg()]


def test_channels_keep_their_own_ranges(run, real) -> None:
    elem = QuantizedType(U8, F32, (0.5, 0.25, 1.0, 2.0), (0, 128, 255, 0), 1, 0, 255)
    graph = Graph((ROWS,), (apply(nn.Neg(), dq(ROWS, elem)),), ("y",))
    x = np.array([[-1e6] * 4, [1e6] * 4], np.float32)
    result = run("legalize", graph).graph
    assert real(result, x=x)["y"].tolist() == [[0, 32, 255, 0], [-127.5, -31.75, 0, -510]]


@pytest.mark.parametrize("elem", [elem_of(U8, 3), elem_of(I16, -9), DATA])
def test_what_moves_integers_moves_real_numbers(elem: QuantizedType, run, real) -> None:
    """As in ONNX Runtime's QOperator format, where a Reshape stands between a quantizer and the layer it is for."""
    image = GraphInput("x", TensorType((1, 2, 2, 2), F32))
    a, b = apply(quant.Quantize(elem), image), const(np.full((1, 2, 2, 2), 5, elem.dtype), elem)
    joined = apply(nn.MaxPool((1, 1), (0,) * 4, (1, 1), (2, 2)), apply(nn.Concat(1), a, b))
    rows = apply(quant.Dequantize(), apply(nn.Reshape((1, 4)), joined))
    y = apply(nn.MatMul(), rows, stored((4, 3), elem_of(I8, 3)), origins=(Origin("layer", "MatMul"),))
    graph = Graph((image,), (y, apply(nn.Neg(), rows)), ("y", "z"))
    result = run("legalize,to-ascend", graph).graph
    assert not any(isinstance(op.kind, ascend.Layer) for op in result.ops)
    x = (np.arange(-4, 4) * 1000).reshape(1, 2, 2, 2).astype(np.float32)
    for name in "yz":
        legal = run("legalize", graph).graph
        np.testing.assert_array_equal(real(legal, x=x)[name], real(graph, x=x)[name])


@st.composite
def quantizers(draw: st.DrawFn) -> QuantizedType:
    storage = draw(st.sampled_from((I4, I8, U8, I16)))
    low, high = storage.integer_range
    count = draw(st.sampled_from((1, 4)))
    scales = tuple(2.0 ** draw(st.integers(-8, 8)) for _ in range(count))
    zeros = tuple(draw(st.integers(low, high)) for _ in range(count))
    return QuantizedType(storage, F32, scales, zeros, None if count == 1 else 1, low, high)


SIXTEENTHS = st.integers(-(2**24), 2**24).map(lambda i: i / 16)


@given(quantizers(), st.lists(SIXTEENTHS, min_size=8, max_size=8), st.booleans())
def test_taking_a_quantizer_off_moves_values_by_half_a_step(
    elem: QuantizedType, drawn: list[float], relu: bool
) -> None:
    """No more: what saturates in the quantizer does so in the clip. All numbers here are exact in float64."""
    data = dq(apply(nn.Relu(), ROWS) if relu else ROWS, elem)
    x = {"x": np.array(drawn, np.float32).reshape(2, 4)}
    half = np.broadcast_to(elem.scale_array / 2, (2, 4))
    weight = np.arange(-8, 8).reshape(4, 4)
    product = apply(nn.MatMul(), data, dq_constant(weight, elem_of(I8, 3)))
    for value, bound in (apply(nn.Neg(), data), half), (product, half @ np.abs((weight - 3) * 0.25)):
        graph = Graph((ROWS,), (value,), ("y",))
        stripped = Pipeline.parse("legalize").run(graph, Context()).graph
        before, after = (evaluate(g, x, WHOLE_FLOAT, float_type=np.float64)["y"] for g in (graph, stripped))
        assert (np.abs(before - after) <= bound).all()


def test_another_target(run) -> None:
    graph = one(nn.MatMul(), dq(ROWS), stored((4, 3)))
    assert run("legalize{target=ascend910b1}", graph, target="ascend310p3").graph is graph
    with pytest.raises(UsageError, match="unknown target 'ascend999'"):
        run("legalize{target=ascend999}", graph)


def test_lowered_graphs_are_refused(run) -> None:
    lowered = run("to-ascend", one(nn.MatMul(), dq(ROWS), stored((4, 3)))).graph
    with pytest.raises(UsageError, match="not not lowered"):
        run("legalize", lowered)
