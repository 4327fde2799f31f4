"""What stands in the nodes of a model, read out of protobuf once: each look at a message there makes new objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

_BODIES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


@dataclass(slots=True, eq=False)
class NodeFields:
    """A node; its fields are called as in protobuf. ``bodies`` are its graph attributes."""

    proto: NodeProto
    name: str
    op_type: str
    domain: str
    input: list[str]
    output: list[str]
    attribute: list[AttributeProto]
    bodies: list[GraphProto]


@dataclass(slots=True, eq=False)
class GraphFields:
    """The nodes of a graph or function; of a body also the graph around it and, in the outermost, the node it is of."""

    proto: GraphProto | FunctionProto
    nodes: list[NodeFields]
    outer: GraphFields | None = None
    owner: NodeFields | None = None


def read_graphs(root: GraphProto | FunctionProto) -> list[GraphFields]:
    """``root`` and all bodies in it, graphs before the bodies of their nodes."""
    found = [GraphFields(root, list(map(node_fields, root.node)))]
    for graph in found:  # grows meanwhile
        found.extend(
            GraphFields(body, list(map(node_fields, body.node)), graph, graph.owner or node)
            for node in graph.nodes
            for body in node.bodies
        )
    return found


def node_fields(node: NodeProto) -> NodeFields:
    """What stands in one node."""
    attributes = node.attribute[:]  # three times as fast as list()
    return NodeFields(
        node, node.name, node.op_type, node.domain, node.input[:], node.output[:], attributes,
        list(_bodies(attributes)) if attributes else [],
    )  # fmt: skip


def _bodies(attributes: list[AttributeProto]) -> Iterator[GraphProto]:
    for attribute in attributes:
        if attribute.type in _BODIES:
            yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
