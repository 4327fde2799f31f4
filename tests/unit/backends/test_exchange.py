"""Graphs to and from ONNX GraphSurgeon, and to networkx."""

from __future__ import annotations

import networkx
import numpy as np
import onnx_graphsurgeon as gs
import pytest

import amctc
from amctc.errors import InputError
from amctc.examples import model_path
from amctc.ops import nn


def test_graphsurgeon_and_back_computes_the_same() -> None:
    graph = amctc.load(model_path())
    held = amctc.to_graphsurgeon(graph)
    assert [t.name for t in held.inputs] == ["image"]
    assert sum(n.op == "Conv" for n in held.nodes) == 11
    x = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    before, after = (amctc.Session(g).run({"image": x})["logits"] for g in (graph, amctc.from_graphsurgeon(held)))
    assert np.array_equal(before, after)


def test_from_graphsurgeon_leaves_its_argument_alone() -> None:
    x, y = gs.Variable("x", np.float32, (1, 2)), gs.Variable("y", np.float32, (1, 2))
    held = gs.Graph([gs.Node("Relu", "act", inputs=[x], outputs=[y])], [x], [y], opset=17)
    graph = amctc.from_graphsurgeon(held)
    assert [op.kind for op in graph.ops] == [nn.Relu()]
    assert len(held.nodes) == 1
    assert held.nodes[0].inputs == [x]


def test_from_graphsurgeon_refuses_a_dangling_tensor() -> None:
    x, y = gs.Variable("x", np.float32, (1, 2)), gs.Variable("y", np.float32, (1, 2))
    held = gs.Graph([gs.Node("Relu", "act", inputs=[gs.Variable("nowhere", np.float32)], outputs=[y])], [x], [y])
    with pytest.raises(InputError, match="'nowhere' is never computed"):
        amctc.from_graphsurgeon(held)


def test_networkx() -> None:
    text = """graph "g"(%x: tensor<2xf32>) -> ("y" = %1, "x again" = %x) {
      %0 = nn.relu(%x) : tensor<2xf32> loc("act": Relu)
      %1 = nn.add(%0, %0) : tensor<2xf32> loc("twice": Add)
    }"""
    network = amctc.to_networkx(amctc.parse_graph(text))
    assert networkx.is_directed_acyclic_graph(network)
    assert {n: network.nodes[n]["op_name"] for n in network} == {
        "x": "input", 0: "nn.relu", 1: "nn.add", ("output", "y"): "output", ("output", "x again"): "output"
    }  # fmt: skip
    assert sorted((str(a), str(b), d["operand"]) for a, b, d in network.edges(data=True)) == [
        ("0", "1", 0), ("0", "1", 1), ("1", "('output', 'y')", 0), ("x", "('output', 'x again')", 0), ("x", "0", 0)
    ]  # fmt: skip
    assert network.nodes[1]["layer"] == "twice"
