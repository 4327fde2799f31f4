"""Equal ops become one; what need not compute the same twice stays apart."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from amctc.ir import Graph, GraphInput, apply, const
from amctc.onnx_bridge import import_model
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.pipeline import Pipeline
from amctc.types import F32, TensorType

X = GraphInput("x", TensorType(("N", 3), F32))


def deduped(graph: Graph) -> Graph:
    return Pipeline.parse("dedup").run(graph).graph


def test_chains_collapse_and_the_first_keeps_its_name() -> None:
    a = apply(nn.Sigmoid(), apply(nn.Relu(), X, name="a"), name="left")
    b = apply(nn.Sigmoid(), apply(nn.Relu(), X, name="b"), name="right")
    graph = deduped(Graph((X,), (apply(nn.Add(), a, b),), ("y",)))
    assert [op.kind.op_name for op in graph.ops] == ["nn.relu", "nn.sigmoid", "nn.add"]
    assert [v.name for v in graph.ops[-1].operands if v is not None] == ["left", "left"]
    assert deduped(graph) is graph


def test_attributes_types_and_contents_tell_apart() -> None:
    ones = np.ones((1, 3))
    values = [const(ones.astype(np.float32)), const(-ones.astype(np.float32)), const(ones.astype(np.float16))]
    outputs = (apply(nn.LeakyRelu(0.1), X), apply(nn.LeakyRelu(0.2), X), *values)
    graph = Graph((X,), outputs, tuple("abcde"))
    assert deduped(graph) is graph


def test_two_outputs_may_become_one_value() -> None:
    graph = deduped(Graph((X,), (apply(nn.Relu(), X), apply(nn.Relu(), X)), ("a", "b")))
    assert graph.outputs[0] is graph.outputs[1]
    assert graph.output_names == ("a", "b")


def carried(*nodes: onnx.NodeProto) -> Graph:
    outputs = [helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, [2]) for n in nodes]
    return import_model(helper.make_model(helper.make_graph(list(nodes), "g", [], outputs)))


def test_random_nodes_stay_apart() -> None:
    random = [helper.make_node("RandomNormal", [], [n], shape=[2]) for n in ("a", "b")]
    assert len(deduped(carried(*random)).ops) == 2


def test_random_nodes_in_bodies_stay_apart() -> None:
    for op_type, kept in (("RandomNormal", 2), ("Constant", 1)):
        attributes = {"shape": [2]} if op_type == "RandomNormal" else {"value_floats": [1.0, 2.0]}
        drawn = helper.make_node(op_type, [], ["drawn"], **attributes)
        body = helper.make_graph([drawn], "body", [], [helper.make_tensor_value_info("drawn", TensorProto.FLOAT, [2])])
        nodes = [helper.make_node("If", ["on"], [n], then_branch=body, else_branch=body) for n in ("a", "b")]
        on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("a", "b")]
        graph = import_model(helper.make_model(helper.make_graph(nodes, "g", [on], outputs)))
        assert len(deduped(graph).ops) == kept


def test_equal_carried_nodes_become_one() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    nodes = [helper.make_node("Sin", ["x"], [n]) for n in ("a", "b")]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("a", "b")]
    graph = import_model(helper.make_model(helper.make_graph(nodes, "g", [x], outputs)))
    assert all(isinstance(op.kind, Node) for op in graph.ops)
    assert (len(graph.ops), len(deduped(graph).ops)) == (2, 1)
