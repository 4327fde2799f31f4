"""Initializers, defaults of inputs and Constant nodes: what is a constant, and what can be fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper, parser

from amctc.errors import InputError, UnsupportedError
from amctc.ir import Constant, Graph, constant_data
from amctc.onnx_bridge import export_model, import_model
from tests.unit.onnx_bridge.round_trips import round_trip

X = np.array([[1.0, -2.0, 3.0], [-0.0, 5.5, -6.25]], np.float32)
ADD_W = """<ir_version: {ir}, opset_import: ["" : 17]>
net (float[2,3] x, float[3] w) => (float[2,3] y) <float[3] w = {{1, 2, 3}}> {{ y = Add(x, w) }}"""


def constant_model(node: NodeProto, elem: int, shape: Sequence[int]) -> onnx.ModelProto:
    """A model whose only output is the Constant ``node``."""
    y = helper.make_tensor_value_info("y", elem, shape)
    graph = helper.make_graph([node], "net", [], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def contents(graph: Graph) -> np.ndarray:
    """The array of a graph whose first output is a constant."""
    data = constant_data(graph.outputs[0])
    assert data is not None
    return data.read()


def test_below_ir_4_an_initializer_that_is_an_input_is_a_constant() -> None:
    graph, exported, outputs = round_trip(parser.parse_model(ADD_W.format(ir=3)), {"x": X})
    assert [i.name for i in graph.inputs] == ["x"]
    assert [i.name for i in exported.graph.input] == ["x"]
    np.testing.assert_array_equal(outputs["y"], X + np.float32([1, 2, 3]))


def test_from_ir_4_on_it_is_a_default_that_can_be_fed() -> None:
    fed = np.array([-1, 0.5, 4], np.float32)
    model = parser.parse_model(ADD_W.format(ir=8))
    graph, exported, outputs = round_trip(model, {"x": X}, {"x": X, "w": fed})
    assert [(i.name, i.default is None) for i in graph.inputs] == [("x", True), ("w", False)]
    assert [i.name for i in exported.graph.input] == ["x", "w"]
    assert [t.name for t in exported.graph.initializer] == ["w"]
    np.testing.assert_array_equal(outputs["y"], X + fed)


def test_a_default_is_never_taken_for_a_constant() -> None:
    """A bound that can be fed leaves Clip dynamic, although the file holds a value for it."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x, float high) => (float[2,3] y) <float high = {2}, float low = {0}> { y = Clip(x, low, high) }
    """)
    _, exported, outputs = round_trip(model, {"x": X}, {"x": X, "high": np.array(0.5, np.float32)})
    assert [n.op_type for n in exported.graph.node] == ["Clip"]
    assert outputs["y"].max() == 0.5


@pytest.mark.parametrize("other", [np.zeros(4, np.float32), np.zeros(3, np.float64), np.zeros((3, 1), np.float32)])
def test_a_default_of_another_type_than_its_input_is_refused(other: np.ndarray) -> None:
    model = parser.parse_model(ADD_W.format(ir=8))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(other, "w"))
    with pytest.raises(InputError, match="'w'"):
        import_model(model)


def test_a_default_may_be_more_exact_than_its_symbolic_input() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[K] w) => (float[K] y) <float[2] w = {1, 2}> { y = Neg(w) }""")
    graph, _, _ = round_trip(model, {}, {"w": X[0]})
    assert graph.inputs[0].type.dims == ("K",)


def test_unused_inputs_stay_and_unused_initializers_go() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x, float[1] spare) => (float[2,3] y) <float[4] dead = {1, 2, 3, 4}> { y = Relu(x) }""")
    graph, exported, _ = round_trip(model, {"x": X, "spare": np.zeros(1, np.float32)})
    assert [i.name for i in graph.inputs] == ["x", "spare"]
    assert not exported.graph.initializer


def test_an_initializer_can_be_an_output() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y, float[3] w) <float[3] w = {1, 2, 3}> { y = Add(x, w) }""")
    _, exported, outputs = round_trip(model, {"x": X})
    assert [o.name for o in exported.graph.output] == ["y", "w"]
    np.testing.assert_array_equal(outputs["w"], [1, 2, 3])


CONSTANTS: list[tuple[dict[str, Any], np.ndarray]] = [
    ({"value_float": 0.1}, np.float32(0.1)),
    ({"value_floats": [0.1, -2.5]}, np.float32([0.1, -2.5])),
    ({"value_int": -(1 << 40)}, np.int64(-(1 << 40))),
    ({"value_ints": [1, -(1 << 62)]}, np.int64([1, -(1 << 62)])),
    ({"value": numpy_helper.from_array(np.float64([[0.1], [1e300]]))}, np.float64([[0.1], [1e300]])),
    ({"value": numpy_helper.from_array(np.array(True))}, np.array(True)),
    ({"value": numpy_helper.from_array(np.zeros((2, 0, 3), np.int8))}, np.zeros((2, 0, 3), np.int8)),
    ({"value": helper.make_tensor("", TensorProto.FLOAT16, [2], [1.5, -0.25])}, np.float16([1.5, -0.25])),
    ({"value": helper.make_tensor("", TensorProto.UINT16, [2], [0, 65535])}, np.uint16([0, 65535])),
    ({"value": helper.make_tensor("", TensorProto.COMPLEX64, [1], [1 + 2j])}, np.complex64([1 + 2j])),
]


@pytest.mark.parametrize(("attribute", "expected"), CONSTANTS, ids=[f"{next(iter(a))}-{e.dtype}" for a, e in CONSTANTS])
def test_a_constant_node_in_any_form(attribute: dict[str, Any], expected: np.ndarray) -> None:
    node = helper.make_node("Constant", [], ["y"], **attribute)
    graph = import_model(constant_model(node, helper.np_dtype_to_tensor_dtype(expected.dtype), expected.shape))
    assert (contents(graph).dtype, contents(graph).shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(contents(graph), expected)
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    np.testing.assert_array_equal(numpy_helper.to_array(exported.graph.initializer[0]), expected)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [({"value_string": "Grüße"}, "Grüße"), ({"value_strings": ["a", "", "ü\n"]}, ["a", "", "ü\n"])],
)
def test_constant_strings(attribute: dict[str, Any], expected: Any) -> None:
    node = helper.make_node("Constant", [], ["y"], **attribute)
    model = constant_model(node, TensorProto.STRING, np.shape(expected))
    _, _, outputs = round_trip(model, {})
    assert outputs["y"].tolist() == expected


def test_an_empty_list_of_floats_is_an_empty_constant() -> None:
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.add(name="value_floats", type=onnx.AttributeProto.FLOATS)
    read = contents(import_model(constant_model(node, TensorProto.FLOAT, [0])))
    assert (read.dtype, read.shape) == (np.float32, (0,))


def test_int4_constants_keep_their_values() -> None:
    values = [-8, 7, 0, -1, 3]
    node = helper.make_node("Constant", [], ["y"], value=helper.make_tensor("", TensorProto.INT4, [5], values))
    graph = import_model(constant_model(node, TensorProto.INT4, [5]))
    assert [int(v) for v in contents(graph)] == values
    tensor = export_model(graph).graph.initializer[0]
    assert tensor.data_type == TensorProto.INT4
    assert [int(v) for v in numpy_helper.to_array(tensor)] == values


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"value_float": 1.0, "value_int": 1},
        {"value_floats": 1.0},
        {"other": 1},
        {"value": 3},
        {"value_string": 1.0},
    ],
)
def test_a_constant_node_without_one_value_is_refused(attributes: dict[str, Any]) -> None:
    node = helper.make_node("Constant", [], ["y"], "here", **attributes)
    with pytest.raises(InputError, match=r"'here'"):
        import_model(constant_model(node, TensorProto.FLOAT, []))


def test_constant_nodes_and_initializers_are_one() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) { c = Constant <value_floats = [1.0, 2.0, 3.0]> () y = Add(x, c) }""")
    graph, exported, _ = round_trip(model, {"x": X})
    assert next(type(op.kind) for op in graph.ops) is Constant
    assert [n.op_type for n in exported.graph.node] == ["Add"]


@pytest.mark.parametrize(
    "damage",
    [
        {"raw_data": bytes(11)}, {"raw_data": b""}, {"dims": [-3]}, {"dims": [4]}, {"dims": [1 << 62, 1 << 62]},
        {"data_type": 0}, {"data_type": TensorProto.STRING}, {"data_type": TensorProto.DOUBLE},
        {"float_data": [1.0, 2.0]}, {"float_data": [1.0] * 6}, {"int32_data": [1, 2, 3]},
        {"dims": [0, 1 << 40, 1 << 40]},
    ],
    ids=str,
)  # fmt: skip
def test_a_tensor_with_more_or_less_data_than_its_shape_says_is_refused(damage: dict[str, Any]) -> None:
    model = parser.parse_model(ADD_W.format(ir=3))
    tensor = model.graph.initializer[0]
    content = {"dims": [3], "data_type": TensorProto.FLOAT, "raw_data": bytes(12), **damage}
    if {"float_data", "int32_data"} & set(damage):
        del content["raw_data"]
    tensor.CopyFrom(TensorProto(name="w", **content))
    with pytest.raises((InputError, UnsupportedError), match="'w'"):
        import_model(model)
