"""Sequences, optionals, maps and sparse tensors as values: carried, opaque to everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from amctc.errors import TypeConstraintError
from amctc.interp import Plan
from amctc.ir import Graph, GraphInput, apply
from amctc.onnx_bridge import FloatSession, export_model, import_model
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.onnx_bridge.tensors import type_of, type_proto
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.parser import parse_graph
from amctc.text import print_graph
from amctc.types import F32, OpaqueType, TensorType
from amctc.verify import verify

A, B = np.float32([[1, 2]]), np.float32([[-3, 4]])


def net(body: str, inputs: str, outputs: str, opset: int = 17) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {body}')


def both(model: onnx.ModelProto, feeds: dict[str, Any]) -> tuple[Graph, list[Any]]:
    """The graph, and its outputs: equal in the session of the graph, of its export, and op by op."""
    graph = import_model(model)
    verify(graph, deep=True)
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert export_model(import_model(exported)).SerializeToString() == exported.SerializeToString()
    runs = [FloatSession(graph).run(feeds), FloatSession(import_model(exported)).run(feeds),
            Plan(graph, WHOLE_FLOAT).run(feeds)]  # fmt: skip
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert_equal(value, run[name])
    return graph, list(runs[0].values())


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif a is not None:
        np.testing.assert_array_equal(a, b)


def test_a_sequence_between_tensors() -> None:
    body = "{ r = Relu(a) s = SequenceConstruct(r, b) z = Constant<value_int = 1>() y = SequenceAt(s, z) }"
    graph, (y,) = both(net(body, "float[1,2] a, float[1,2] b", "float[1,2] y"), {"a": A, "b": B})
    np.testing.assert_array_equal(y, B)
    (opaque,) = {v.type for v in graph.values() if isinstance(v.type.elem, OpaqueType)}
    assert str(opaque.elem.name) == "seq(tensor(float))"
    assert sum(isinstance(op.kind, nn.Relu) for op in graph.ops) == 1


def test_sequences_at_the_interface() -> None:
    body = "{ t = SequenceInsert(s, x) n = SequenceLength(t) }"
    graph, (t, n) = both(net(body, "seq(float[1,2]) s, float[1,2] x", "seq(float[1,2]) t, int64 n"), {"s": [A], "x": B})
    assert n == 2
    assert_equal(t, [A, B])
    assert [i.type.shape for i in graph.inputs] == [None, (1, 2)]


@pytest.mark.parametrize("present", [True, False])
def test_an_optional_may_hold_nothing(present: bool) -> None:
    model = net("{ y = OptionalHasElement(o) }", "optional(float[1,2]) o", "bool y", opset=18)
    graph = import_model(model)
    feeds = {"o": A if present else None}
    assert bool(FloatSession(graph).run(feeds)["y"]) is present
    assert bool(Plan(graph, WHOLE_FLOAT).run(feeds)["y"]) is present


def test_a_map_comes_out_of_a_classifier() -> None:
    node = helper.make_node("ZipMap", ["x"], ["m"], "zip", domain="ai.onnx.ml", classlabels_int64s=[7, 8])
    pair = onnx.TypeProto()
    pair.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    pair.sequence_type.elem_type.map_type.value_type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2]), onnx.ValueInfoProto(name="m", type=pair)
    graph = helper.make_graph([node], "net", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    ours = import_model(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    assert ours.outputs[0].type.elem.name == "seq(map(int64,tensor(float)))"
    assert FloatSession(ours).run({"x": A})["m"] == [{7: 1.0, 8: 2.0}]
    assert Plan(ours, WHOLE_FLOAT).run({"x": A})["m"] == [{7: 1.0, 8: 2.0}]


def test_a_body_may_capture_a_sequence() -> None:
    body = """{ s = SequenceConstruct(x, x) z = Constant<value_int = 0>()
        y = If <then_branch = t () => (float[1,2] u) { u = SequenceAt(s, z) },
                else_branch = e () => (float[1,2] v) { v = Neg(x) }> (c) }"""
    graph, (y,) = both(net(body, "float[1,2] x, bool c", "float[1,2] y"), {"x": A, "c": np.array(True)})
    np.testing.assert_array_equal(y, A)
    assert sum(isinstance(op.kind, Node) for op in graph.ops) == 2


@pytest.mark.parametrize(
    "notation",
    ["seq(float[2])", "optional(float[2])", "optional(seq(int64[N]))", "sparse_tensor(float[2])", "map(int64, float)"],
)
def test_an_opaque_input_that_nothing_reads_stays(notation: str) -> None:
    model = net("{ y = Relu(x) }", f"float[2,3] x, {notation} s", "float[2,3] y")
    graph = import_model(model)
    exported = export_model(graph)
    assert exported.graph.input[1].type == model.graph.input[1].type
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)


def opaque() -> TensorType:
    proto = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"]))
    type_ = type_of(proto, "here")
    assert type_ is not None
    assert type_proto(type_) == proto
    return type_


def test_opaque_types_have_no_shape_and_are_no_numbers() -> None:
    elem = opaque().elem
    assert isinstance(elem, OpaqueType)
    assert (elem.is_float, elem.is_integer, elem.dtype) == (False, False, np.dtype(object))
    with pytest.raises(TypeConstraintError, match="T8"):
        TensorType((2,), elem)
    assert opaque() == opaque()
    assert opaque() != TensorType(None, F32)


def test_no_op_of_ours_takes_an_opaque_value() -> None:
    x = GraphInput("x", opaque())
    for kind in (nn.Relu(), nn.Concat(0), nn.Transpose((0,)), nn.Reshape((1,))):
        with pytest.raises(TypeConstraintError):
            apply(kind, x)
