"""Graphs for other Python libraries: ONNX GraphSurgeon to edit, networkx for graph algorithms."""

from __future__ import annotations

import networkx
import onnx_graphsurgeon

from amctc.backends.onnx_file import exported
from amctc.ir import Graph, Result, layer_name


def to_graphsurgeon(graph: Graph) -> onnx_graphsurgeon.Graph:
    """A ``gs.Graph`` that computes ``graph``; it shares nothing with it."""
    return onnx_graphsurgeon.import_onnx(exported(graph))


def to_networkx(graph: Graph) -> networkx.MultiDiGraph:
    """A directed multigraph of ops, numbered in topological order.

    Nodes have ``op`` (ours), ``op_name`` and ``layer``; edges, from producer to reader, ``value``, ``result`` and
    ``operand`` (positions). Graph inputs are nodes called by their names, outputs edges to nodes ``("output", name)``.
    """
    network = networkx.MultiDiGraph(name=graph.name)
    number = {op: i for i, op in enumerate(graph.ops)}
    for given in graph.inputs:
        network.add_node(given.name, op=None, op_name="input", layer=given.name)
    for op, node in number.items():
        network.add_node(node, op=op, op_name=op.kind.op_name, layer=layer_name(op))
    readers = [(number[op], position, v) for op in graph.ops for position, v in enumerate(op.operands) if v is not None]
    outputs = [(("output", name), 0, v) for name, v in zip(graph.output_names, graph.outputs, strict=True)]
    for reader, position, value in (*readers, *outputs):
        source = value.name if value.producer is None else number[value.producer]
        result = value.index if isinstance(value, Result) else 0
        network.add_edge(source, reader, value=value, result=result, operand=position)
    for name in graph.output_names:
        network.nodes["output", name].update(op=None, op_name="output", layer=name)
    return network
