"""What must hold of a node before ONNX's own C++ code sees it: there, wrong attribute types end the process."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

import onnx
from onnx import AttributeProto, GraphProto, ModelProto

from amctc.errors import InputError, printable
from amctc.onnx_bridge.fields import GraphFields, NodeFields, read_graphs
from amctc.onnx_bridge.names import node_names
from amctc.onnx_bridge.subgraphs import DEFAULT

AGAIN = "export the model again"

_TERM = rb"[A-Za-z\s]*(?:\.\.\.[A-Za-z\s]*)?"
_EQUATION = re.compile(rb"%b(?:,%b)*(?:->%b)?" % (_TERM, _TERM, _TERM))
"""The equation of an Einsum."""


def check_names(model: ModelProto, graphs: Sequence[GraphFields]) -> None:
    """Raise :class:`InputError` for a name that is not UTF-8: protobuf reads it, as bytes, and cannot write it.

    ``graphs`` are those of the model's nodes.
    """
    domains = (o.domain for o in (*model.opset_import, *model.functions))
    metadata = (t for p in model.metadata_props for t in (p.key, p.value))
    nodes = (t for f in model.functions for n in (f, *f.node) for t in (n.name, *n.input, *n.output))
    for texts in ([*domains, *metadata, *nodes], *map(_names, graphs)):
        if not set(map(type, texts)) <= {str}:
            wrong = next(t for t in texts if not isinstance(t, str))
            raise InputError(f"the name {printable(wrong)} is not UTF-8", remedy=AGAIN)


def _names(graph: GraphFields) -> list[str]:
    """All names in a graph, and the symbols of dimensions."""
    proto = graph.proto
    assert isinstance(proto, GraphProto)
    names = [proto.name]
    for info in (*proto.input, *proto.output, *proto.value_info):
        names.append(info.name)
        names += (d.dim_param for d in info.type.tensor_type.shape.dim)
    names += [t.name for t in proto.initializer]
    names += (s.values.name for s in proto.sparse_initializer)
    for node in graph.nodes:
        names += (node.name, node.op_type, node.domain)
        names += node.input
        names += node.output
        names += [a.name for a in node.attribute]
    return names


def check_nodes(model: ModelProto, graphs: Sequence[GraphFields], version: int) -> None:
    """Raise :class:`InputError` for an attribute of another type than the standard gives it.

    ``graphs`` are those of the model's nodes; local functions are looked at too. Attributes of ops that the standard
    does not know may be anything.
    """
    _check(graphs, version, "")
    for function in model.functions:
        own = {o.domain: o.version for o in function.opset_import}
        default = own.get("", own.get("ai.onnx", version))
        _check(read_graphs(function), default, f"function {printable(function.name)!r}, ")


def _check(graphs: Sequence[GraphFields], version: int, place: str) -> None:
    for graph in graphs:
        for node in graph.nodes:
            if (problem := _problem(node, version)) is not None:
                named = graph.owner or node
                name = dict(zip(graphs[0].nodes, node_names(graphs[0].nodes), strict=True))[named]
                raise InputError(
                    problem, where=f"{place}node {printable(name)!r} ({printable(named.op_type)})", remedy=AGAIN
                )


def _problem(node: NodeFields, version: int) -> str | None:
    if not node.attribute or node.domain not in DEFAULT:
        return None
    declared = attribute_types(node.op_type, version)
    for attribute in node.attribute:
        wanted = declared.get(attribute.name, attribute.type)
        if attribute.type != wanted:
            name = AttributeProto.AttributeType.Name
            return f"attribute {printable(attribute.name)!r} is of type {name(attribute.type)}, not {name(wanted)}"
        if node.op_type == "Einsum" and attribute.name == "equation" and not _EQUATION.fullmatch(attribute.s):
            return f"the equation {printable(attribute.s)} is malformed"  # some never end ONNX's parser
        if node.op_type == "Split" and attribute.name == "num_outputs" and attribute.i != len(node.output):
            return f"num_outputs is {attribute.i}, but there are {len(node.output)} outputs"
    return None


@functools.cache
def attribute_types(op_type: str, version: int) -> Mapping[str, int]:
    """Types (of AttributeProto) of the attributes of an op of the default domain; empty for an unknown op."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except Exception:  # SchemaError is not exported
        return {}
    return {name: int(a.type.value) for name, a in schema.attributes.items()}
