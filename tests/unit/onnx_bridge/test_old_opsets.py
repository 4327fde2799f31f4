"""Opsets before 7, opsets that meet in one graph, and the opset a file is written in."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from amctc.errors import UnsupportedError
from amctc.ir import Graph, apply
from amctc.onnx_bridge import FloatSession, export_model, import_model
from amctc.onnx_bridge.opsets import OPSET, oldest_version
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.types import I16, QuantizedType
from tests.unit.onnx_bridge.round_trips import round_trip, run_model

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def old(op_type: str, opset: int, inputs: dict[str, np.ndarray], **attributes: Any) -> onnx.ModelProto:
    """One node of an old opset on ``x`` and constants."""
    node = helper.make_node(op_type, ["x", *inputs], ["y"], "n", **attributes)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, X.shape if n == "x" else None) for n in "xy")
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()]
    tensors = [numpy_helper.from_array(a, n) for n, a in inputs.items()]
    graph = helper.make_graph([node], "old", [x, *infos], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


C = np.float32([1, -2, 3])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (old("Add", 6, {"c": C}, broadcast=1, axis=1), X + C[:, None, None]),
        (old("Sub", 6, {"c": C}, broadcast=1, axis=-3), X - C[:, None, None]),
        (old("Div", 6, {"c": np.float32([1, 2, 3, 4, 5])}, broadcast=1), X / np.float32([1, 2, 3, 4, 5])),
        (old("Add", 6, {"c": np.float32(3)}, broadcast=1), X + 3),
        (old("Mul", 1, {"c": C}, broadcast=1, axis=1, consumed_inputs=[0, 0]), X * C[:, None, None]),
        (old("PRelu", 6, {"c": C}), np.where(X < 0, X * C[:, None, None], X)),
        (old("PRelu", 6, {"c": C[:1]}), np.where(X < 0, X * C[0], X)),
        (old("Upsample", 1, {}, width_scale=2.0, height_scale=3.0), X.repeat(3, 2).repeat(2, 3)),
        (old("Dropout", 6, {}, is_test=1), X),
        (old("Concat", 1, {"c": X}), np.concatenate([X, X], 1)),
        (old("Reshape", 1, {}, shape=[6, 20]), X.reshape(6, 20)),
        (old("Sum", 1, {"c": X}), X + X),
        (old("Elu", 1, {}, alpha=1.0, consumed_inputs=[0]), np.where(X < 0, np.exp(X) - 1, X)),
    ],
    ids=lambda v: v.graph.node[0].op_type if isinstance(v, onnx.ModelProto) else "",
)
def test_opsets_before_7_mean_what_they_meant(model: onnx.ModelProto, expected: np.ndarray) -> None:
    graph = import_model(model)
    (y,) = FloatSession(graph).run({"x": X}).values()
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(run_model(export_model(graph), {"x": X})["y"], y)


def test_a_slope_per_channel_needs_a_known_rank() -> None:
    model = old("PRelu", 6, {"c": C})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedError, match=r"PRelu.*rank"):
        import_model(model)


@pytest.mark.parametrize("op_type", ["NoSuch", "Tile"])
def test_an_op_that_onnx_does_not_convert_is_refused(op_type: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"opset 1 is too old.*{op_type}"):
        import_model(old(op_type, 1, {"tiles": np.float32(2), "axis": np.float32(1)}))


def test_a_body_of_a_changed_op_is_refused_and_metadata_stays() -> None:
    model = parser.parse_model("""<ir_version: 3, opset_import: ["" : 6]> net (float[2] x, bool c) => (float[2] y) {
        y = If <then_branch = t () => (float[2] u) { u = Add(x, x) },
                else_branch = e () => (float[2] v) { v = Relu(x) }> (c) }""")
    with pytest.raises(UnsupportedError, match="bodies"):
        import_model(model)
    plain = old("Sum", 6, {"c": X})
    helper.set_model_props(plain, {"k": "v"})
    assert import_model(plain).metadata == (("k", "v"),)


def test_a_scan_over_batches_is_a_scan_of_scans() -> None:
    """Running sums along the second axis, one for each sample; the body reads a value from outside."""
    body = "{ s = Add(a, x) t = Add(s, k) o = Identity(s) }"
    inner = parser.parse_graph(f"body (float[2] a, float[2] x) => (float[2] s, float[2] t) {body}")
    scan = helper.make_node("Scan", ["", "init", "xs"], ["last", "all"], "scan", body=inner, num_scan_inputs=1)
    k = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([10, 20])))
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in
             (("init", [3, 2]), ("xs", [3, 4, 2]), ("last", [3, 2]), ("all", [3, 4, 2]))]  # fmt: skip
    graph = helper.make_graph([k, scan], "net", infos[:2], infos[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=4)
    feeds = {"init": np.float32([[0, 1], [2, 3], [4, 5]]), "xs": X.ravel()[:24].reshape(3, 4, 2)}
    sums = feeds["init"][:, None] + np.cumsum(feeds["xs"], 1)
    outputs = FloatSession(import_model(model)).run(feeds)
    np.testing.assert_allclose(outputs["last"], sums[:, -1], rtol=1e-5)
    np.testing.assert_allclose(outputs["all"], sums + np.float32([10, 20]), rtol=1e-5)
    exported = export_model(import_model(model))
    assert exported.opset_import[0].version == OPSET
    onnx.checker.check_model(exported, full_check=True)


def net(body: str, opset: int, inputs: str = "float[2,3] x", outputs: str = "float[2,3] y") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {body}')


def opset_of(model: onnx.ModelProto) -> int:
    return next(o.version for o in model.opset_import if not o.domain)


@pytest.mark.parametrize(
    ("body", "opset", "written"),
    [
        ("{ y = Relu(x) }", 22, OPSET), ("{ y = Celu(x) }", 22, OPSET), ("{ y = Sign(x) }", 18, OPSET),
        ("{ a = Constant<value_ints = [1]>() r = ReduceSumSquare<keepdims = 0>(x, a) y = Sub(x, x) }", 18, OPSET),
        ("{ y = BitwiseNot(y0) y0 = BitwiseNot(x) }", 21, 18),
    ],
)  # fmt: skip
def test_a_file_is_of_the_oldest_opset_that_says_it(body: str, opset: int, written: int) -> None:
    integers = ("int32[2,3] x", "int32[2,3] y") if "Bitwise" in body else ("float[2,3] x", "float[2,3] y")
    graph = import_model(net(body, opset, *integers))
    assert opset_of(export_model(graph)) == written


def test_the_oldest_version_looks_into_bodies() -> None:
    body = """{ y = If <then_branch = t () => (float[2,3] u) { u = Gelu(x) },
                        else_branch = e () => (float[2,3] v) { v = Relu(x) }> (c) }"""
    (node,) = net(body, 21, "float[2,3] x, bool c").graph.node
    assert oldest_version(node, 21) == 21  # If itself changed its types there
    assert oldest_version(helper.make_node("Gelu", ["x"], ["y"]), 22) == 20
    assert oldest_version(helper.make_node("Relu", ["x"], ["y"]), 22) == OPSET
    assert oldest_version(helper.make_node("NoSuchOp", ["x"], ["y"]), 22) == 22
    assert oldest_version(helper.make_node("Relu", ["x"], ["y"]), 9) == 9


def sixteen_bits(graph: Graph) -> Graph:
    """The graph with its output quantized to int16, which opset 21 brought."""
    real = apply(
        quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(2.0**-10, 0, I16)), graph.outputs[0])
    )
    return graph.with_outputs((real,))


LOOP = """{ y = Loop <body = b (int64 i, bool c, float[2,3] v) => (bool d, float[2,3] w) {
    d = Identity(c) r = ReduceL1<axes = [1], keepdims = 1>(v) w = Add(v, r) }> (n, k, x) }"""


@pytest.mark.parametrize(
    ("body", "shape", "others"),
    [
        ("{ y = ReduceL2<axes = [1], keepdims = 1>(x) }", "2,1", {}),  # the axes became an operand with opset 18
        ("{ y = GridSample<mode = \"bilinear\">(i, g) }", "2,3,2,2", {  # bilinear is called linear since opset 20
            "i": X, "g": np.linspace(-0.9, 0.9, 16, dtype=np.float32).reshape(2, 2, 2, 2)}),
        (LOOP, "2,3", {"n": np.array(3), "k": np.array(True)}),
    ],
    ids=["ReduceL2", "GridSample", "Loop"],
)  # fmt: skip
def test_carried_ops_are_brought_to_the_opset_that_others_need(body: str, shape: str, others: dict[str, Any]) -> None:
    types = {"i": "float[2,3,4,5] i", "g": "float[2,2,2,2] g", "n": "int64 n", "k": "bool k"}
    model = net(body, OPSET, ", ".join(["float[2,3] x", *(types[n] for n in others)]), f"float[{shape}] y")
    feeds = {"x": X[:, :, 0, 0], **others}
    exported = export_model(sixteen_bits(import_model(model)))
    assert opset_of(exported) == 21
    onnx.checker.check_model(exported, full_check=True)
    (expected,) = run_model(model, feeds).values()
    stored = np.clip(np.rint(expected * np.float32(1024)), -(1 << 15), (1 << 15) - 1) / np.float32(1024)
    np.testing.assert_allclose(run_model(exported, feeds)["y"], stored, atol=2.0**-10)
    assert export_model(import_model(exported)).SerializeToString() == exported.SerializeToString()


def test_what_no_converter_brings_there_is_refused_by_name() -> None:
    model = net("{ y = Hardmax<axis = 0>(x) }", 12)
    graph = import_model(model)
    assert any(isinstance(op.kind, Node) and op.kind.version == 12 for op in graph.ops)
    with pytest.raises(UnsupportedError, match=r"Hardmax of opset 12.*17.*other ops need"):
        export_model(graph)


def test_values_captured_by_a_body_may_be_called_like_operands() -> None:
    """A carried node's operands are i0, i1… inside its kind, and so may be what its body reads."""
    body = """{ i0 = Neg(x) o0 = Abs(x) y = If <then_branch = t () => (float[2,3] u) { u = Sub(i0, o0) },
        else_branch = e () => (float[2,3] v) { v = Mul(i0, x) }> (c) }"""
    feeds = [{"x": X[:, :, 0, 0], "c": np.array(c)} for c in (True, False)]
    round_trip(net(body, OPSET, "float[2,3] x, bool c"), *feeds)


def test_gelu_stays_one_node_where_the_opset_has_it() -> None:
    graph = import_model(net("{ y = Gelu(x) }", 20))
    assert [op.kind for op in graph.ops] == [nn.Gelu(False)]
    assert [n.op_type for n in export_model(graph, opset=20).graph.node] == ["Gelu"]


@pytest.mark.parametrize(
    ("elem", "body", "opset"),
    [
        ("bfloat16", "{ y = Sigmoid(x) }", 22), ("bfloat16", "{ y = AveragePool<kernel_shape = [1,1]>(x) }", 22),
        ("float8e4m3fn", "{ y = Transpose(x) }", 21), ("int4", "{ y = Transpose(x) }", 21),
        ("int2", "{ y = Transpose(x) }", 25), ("float4e2m1", "{ y = Transpose(x) }", 23),
    ],
)  # fmt: skip
def test_a_file_is_of_an_opset_that_knows_its_element_types(elem: str, body: str, opset: int) -> None:
    model = net(body, 25, f"{elem}[2,3,4,4] x", f"{elem}[4,4,3,2] y" if "Trans" in body else f"{elem}[2,3,4,4] y")
    onnx.checker.check_model(model, full_check=True)
    graph = import_model(model)
    assert not any(isinstance(op.kind, Node) for op in graph.ops)
    exported = export_model(graph)
    assert opset_of(exported) <= opset
    onnx.checker.check_model(exported, full_check=True)
