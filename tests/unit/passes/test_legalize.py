"""legalize: quantizers that the target has no integer form for are taken off, with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import ascend, nn, quant
from amctc.types import F32, I4, I8, I16, I32, U8, QuantizedType, ScalarType, TensorType

RNG = np.random.default_rng(15)
ROWS = GraphInput("x", TensorType((2, 4), F32))
IMAGE = GraphInput("x", TensorType((1, 4, 3, 3), F32))
DATA, WEIGHT = QuantizedType.per_tensor(0.5, 4), QuantizedType.per_tensor(0.25)


def dq(value: Value, elem: QuantizedType = DATA) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(elem), value))


def stored(shape: tuple[int, ...], elem: QuantizedType = WEIGHT, name: str | None = None) -> Value:
    low, high = max(elem.low, -100), min(elem.high, 100)
    return apply(quant.Dequantize(), const(RNG.integers(low, high, shape).astype(elem.dtype), elem), name=name)


def one(kind: nn.Layer, *operands: Value, x: GraphInput = ROWS) -> Graph:
    return Graph((x,), (apply(kind, *operands, name="y", origins=(Origin("layer", "Gemm"),)),), ("y",))


def i32(*scales: float) -> QuantizedType:
    axis = 0 if len(scales) > 1 else None
    return QuantizedType(I32, F32, scales, (0,) * len(scales), axis, *I32.integer_range)


def test_what_the_target_computes_stays(run) -> None:
    per_channel = QuantizedType.per_axis((0.25, 0.5, 1.0), 1)
    for graph in (
        one(nn.MatMul(), dq(ROWS), stored((4, 3))),
        one(nn.Gemm(), dq(ROWS), stored((4, 3)), stored((3,), i32(0.125))),
        one(nn.Gemm(), dq(ROWS), stored((4, 3), per_channel), stored((3,), i32(0.125, 0.25, 0.5))),
    ):
        result = run("legalize", graph)
        assert result.graph is graph
        assert result.notes == ()


def elem_of(storage: ScalarType, zero: int = 0) -> QuantizedType:
    return QuantizedType.per_tensor(0.25, zero, storage)


REASONS = {
    "transpose": (
        one(nn.ConvTranspose((1, 1), (0,) * 4, (1, 1)), dq(IMAGE), stored((4, 2, 1, 1)), x=IMAGE),
        "int8 ConvTranspose is not simulated yet",
    ),
    "unsigned data": (
        one(nn.MatMul(), dq(ROWS, elem_of(U8, 128)), stored((4, 3))),
        "activations stored as u8 are not simulated",
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
    "float weight": (
        one(nn.MatMul(), ROWS, stored((4, 3))),
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


def test_odd_int4_weights_return_to_float(run) -> None:
    rows = GraphInput("x", TensorType((2, 3), F32))
    result = run("legalize", one(nn.MatMul(), dq(rows), stored((3, 4), elem_of(I4)), x=rows))
    (note,) = result.notes
    assert "an int4 weight of an odd number of input channels, 3" in note.text


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
    assert [op.kind.op_name for op in result.graph.ops] == ["ascend.quant", "ascend.anti_quant", "nn.add"]
    assert result.graph.ops[-1].operands[0] is ROWS
    assert all("no quantizer of the target" in n.text for n in result.notes)
    assert len(result.notes) == 1


def test_another_target(run) -> None:
    graph = one(nn.MatMul(), dq(ROWS), stored((4, 3)))
    assert run("legalize{target=ascend910b1}", graph, target="ascend310p3").graph is graph
    with pytest.raises(UsageError, match="unknown target 'ascend999'"):
        run("legalize{target=ascend999}", graph)


def test_lowered_graphs_are_refused(run) -> None:
    lowered = run("to-ascend", one(nn.MatMul(), dq(ROWS), stored((4, 3)))).graph
    with pytest.raises(UsageError, match="not not lowered"):
        run("legalize", lowered)
