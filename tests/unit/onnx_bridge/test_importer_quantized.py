"""Whole QDQ networks: imported as quantized types, exported to the same bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from amctc.errors import InputError
from amctc.ir import Constant
from amctc.onnx_bridge import import_model
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.types import F32, I8, I32, QuantizedType
from tests.unit.onnx_bridge.round_trips import round_trip

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)


def qdq_conv(activations: str, weights: str, *, per_channel: bool, opset: int) -> onnx.ModelProto:
    """A convolution between quantizers: int8 weight, int32 bias."""
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.01, 0.02, 4).astype(np.float32)
    if not per_channel:
        scale = scale[:1].reshape(())
    low, high = (0, 256) if weights == "uint8" else (-127, 128)
    tensors = {
        "w": rng.integers(low, high, (4, 3, 3, 3)).astype(weights), "ws": scale,
        "wz": np.full(scale.shape, 128 if weights == "uint8" else 0, weights),
        "b": rng.integers(-900, 900, 4).astype(np.int32), "bs": np.float32(0.04) * scale,
        "as": np.array(0.04, np.float32), "az": np.array(120 if activations == "uint8" else -3, activations),
        "ys": np.array(0.1, np.float32), "yz": np.array(7, activations),
    }  # fmt: skip
    axis = {"axis": 0} if per_channel else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "as", "az"], ["xq"], "q_x"),
        helper.make_node("DequantizeLinear", ["xq", "as", "az"], ["xd"], "d_x"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "d_w", **axis),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], "d_b", **axis),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"], "q_y"),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"], "d_y"),
    ]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", c, 6, 6]) for n, c in (("x", 3), ("y", 4))]
    graph = helper.make_graph(
        nodes, "qdq", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("activations", ["int8", "uint8"])
@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize(("per_channel", "opset"), [(False, 10), (False, 13), (True, 13), (True, 21)])
def test_a_quantized_convolution(activations: str, weights: str, per_channel: bool, opset: int) -> None:
    model = qdq_conv(activations, weights, per_channel=per_channel, opset=opset)
    graph, exported, _ = round_trip(model, {"x": IMAGE})
    assert not any(isinstance(op.kind, Node) for op in graph.ops)
    (conv,) = [op for op in graph.ops if isinstance(op.kind, nn.Conv)]
    stored = {}
    for name, operand in zip(("data", "weight", "bias"), conv.operands, strict=True):
        assert operand is not None
        assert operand.producer is not None
        assert isinstance(operand.producer.kind, quant.Dequantize)
        source = operand.producer.operands[0]
        assert source is not None
        assert isinstance(source.type.elem, QuantizedType)
        stored[name] = source.type.elem
    assert (stored["data"].storage.name, stored["weight"].storage.name, stored["bias"].storage) == (
        {"int8": "i8", "uint8": "u8"}[activations], {"int8": "i8", "uint8": "u8"}[weights], I32,
    )  # fmt: skip
    assert stored["weight"].axis == (0 if per_channel else None)
    assert len(stored["bias"].scales) == (4 if per_channel else 1)
    assert {t.name: t.data_type for t in exported.graph.initializer}["w"] == helper.np_dtype_to_tensor_dtype(
        np.dtype(weights)
    )


def test_a_shared_bias_of_two_quantizers_gets_two_types() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) <int8[3] b = {1, -2, 3}, float s = {0.5}, float t = {0.25}> {
        p = DequantizeLinear(b, s) q = DequantizeLinear(b, t) r = Add(x, p) y = Mul(r, q) }""")
    graph, _, outputs = round_trip(model, {"x": np.ones((2, 3), np.float32)})
    types = {str(op.result.type.elem) for op in graph.ops if isinstance(op.kind, Constant)}
    assert len(types) == 2
    np.testing.assert_array_equal(outputs["y"][0], [1.5 * 0.25, 0.0, 2.5 * 0.75])


def test_a_dequantizer_that_contradicts_its_quantizer_is_carried() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y, int8[2,3] q) <float s = {0.5}, float t = {0.25}, int8 z = {3}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z) }""")
    graph, _, _ = round_trip(model, {"x": np.float32([[0.3, -1, 200], [-200, 0, 2]])})
    assert [type(op.kind) for op in graph.ops if op.operands] == [quant.Quantize, Node]
    assert graph.outputs[1].type.elem == QuantizedType(I8, F32, (0.5,), (3,), None, -128, 127)


def test_integer_ops_with_computed_scales_are_carried() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,2] y) <int8[3,2] w = {1,2,3,-4,5,6}, int8 wz = {0}> {
        q, s, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, z, wz) f = Cast<to = 1>(m) y = Mul(f, s) }""")
    graph, _, _ = round_trip(model, {"x": np.float32([[0.3, -1, 20], [-20, 0, 2]])})
    carried = [op.kind.op_type for op in graph.ops if isinstance(op.kind, Node)]
    assert carried == ["DynamicQuantizeLinear", "MatMulInteger"]


@pytest.mark.parametrize("scale", ["0", "-0.5", "nan", "inf"])
def test_scales_that_no_type_can_have_are_carried_or_refused(scale: str) -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) <float s = {0.5}, int8 z = {3}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(float(scale), np.float32), "s"))
    graph = import_model(model)
    assert all(isinstance(op.kind, Node | Constant) for op in graph.ops)


def test_scales_that_do_not_fit_the_axis_are_refused() -> None:
    model = qdq_conv("int8", "int8", per_channel=True, opset=13)
    model.graph.node[2].attribute[0].i = 1
    with pytest.raises(InputError, match=r"'d_w' \(DequantizeLinear\)"):
        import_model(model)
