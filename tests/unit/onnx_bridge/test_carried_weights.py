"""Weights in carried ops are named: recurrent layers, bodies, layers on data of unknown rank."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from amctc.ir import Graph
from amctc.onnx_bridge import import_model
from amctc.onnx_bridge.carried_weights import carried_weights, random_ops

F = TensorProto.FLOAT
node = helper.make_node


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def graph_of(nodes: list[NodeProto], weights: list[TensorProto], *dims: int | str) -> Graph:
    x, y = (helper.make_tensor_value_info(n, F, shape) for n, shape in (("x", dims), ("y", None)))
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_model(model)


def found(nodes: list[NodeProto], weights: list[TensorProto], *dims: int | str) -> list[tuple[str, str]]:
    """Name and remark of each."""
    return list(carried_weights(graph_of(nodes, weights, *dims)))


def test_recurrent_layers() -> None:
    nodes = [node("RNN", ["x", "w", "r"], ["y"], name="rnn", hidden_size=3)]
    assert found(nodes, [weight("w", 1, 3, 2), weight("r", 1, 3, 3)], 5, "n", 2) == [
        ("rnn", "left as it came: RNN is a carried op")
    ]


def test_ordinary_layers_and_ops_without_weights_are_not_named() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("Einsum", ["m", "m"], ["e"], equation="ij,kj->ik"),
        node("CumSum", ["e", "axis"], ["y"]),
    ]  # fmt: skip
    axis = numpy_helper.from_array(np.int64(0), "axis")
    assert found(nodes, [weight("w", 2, 3), axis], "n", 2) == []


def test_products_in_einstein_notation() -> None:
    nodes = [node("Einsum", ["x", "w"], ["y"], name="mix", equation="ij,jk->ik")]
    assert found(nodes, [weight("w", 2, 3)], "n", 2) == [("mix", "left as it came: Einsum is a carried op")]


def test_layers_in_bodies_nested_ones_too_and_behind_them() -> None:
    out = [helper.make_tensor_value_info("b", F, None)]
    inner = helper.make_graph([node("MatMul", ["x", "w"], ["b"])], "inner", [], out)
    other = helper.make_graph([node("Unsqueeze", ["x", "axis"], ["b"])], "other", [], out)
    nested = helper.make_graph([node("If", ["on"], ["b"], then_branch=inner, else_branch=other)], "nested", [], out)
    plain = helper.make_graph([node("Conv", ["x", "k"], ["b"])], "plain", [], out)
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0), node("Greater", ["most", "zero"], ["on"]),
        node("If", ["on"], ["i"], name="choice", then_branch=nested, else_branch=plain),
        node("MatMul", ["i", "w"], ["y"], name="behind"),
    ]  # fmt: skip
    weights = [
        weight("w", 4, 4), weight("k", 2, 3, 1), numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.array([0]), "axis"),
    ]  # fmt: skip
    assert found(nodes, weights, "n", 3, 4) == [
        ("choice", "left as it came: 2 layers in the body of If"),
        ("behind", "left as it came: the rank of its input is not known"),
    ]


def test_ops_that_draw_random_numbers() -> None:
    nodes = [
        node("RandomNormalLike", ["x"], ["e"], name="noise"), node("Dropout", ["e", "", "on"], ["d"], name="drop"),
        node("Dropout", ["d", "", "off"], ["y"], name="none"),
    ]  # fmt: skip
    flags = [numpy_helper.from_array(np.array(on), name) for name, on in (("on", True), ("off", False))]
    graph = graph_of(nodes, flags, "n", 3)
    assert not list(carried_weights(graph))
    assert list(random_ops(graph)) == [
        ("noise", "draws random numbers: the models differ by chance too"),
        ("drop", "draws random numbers: the models differ by chance too"),
    ]
