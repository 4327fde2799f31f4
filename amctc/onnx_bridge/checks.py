"""What must hold of a node before ONNX's own C++ code sees it: there, wrong attribute types end the process."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from amctc.errors import InputError, printable
from amctc.onnx_bridge.names import node_names
from amctc.onnx_bridge.subgraphs import DEFAULT, bodies, inner_nodes

AGAIN = "export the model again"

_TERM = rb"[A-Za-z\s]*(?:\.\.\.[A-Za-z\s]*)?"
_EQUATION = re.compile(rb"%b(?:,%b)*(?:->%b)?" % (_TERM, _TERM, _TERM))
"""The equation of an Einsum."""


def check_names(model: ModelProto) -> None:
    """Raise :class:`InputError` for a name that is not UTF-8: protobuf reads it, as bytes, and cannot write it."""
    domains = (o.domain for o in (*model.opset_import, *model.functions))
    metadata = (t for p in model.metadata_props for t in (p.key, p.value))
    nodes = (t for f in model.functions for n in (f, *f.node) for t in (n.name, *n.input, *n.output))
    for text in (*domains, *metadata, *nodes, *_names(model.graph)):
        if isinstance(text, bytes):
            raise InputError(f"the name {printable(text)} is not UTF-8", remedy=AGAIN)


def _names(graph: GraphProto) -> Iterator[str]:
    """All names in a graph and in the bodies of its nodes, and the symbols of dimensions."""
    stack = [graph]
    while stack:
        graph = stack.pop()
        yield graph.name
        for info in (*graph.input, *graph.output, *graph.value_info):
            yield info.name
            yield from (d.dim_param for d in info.type.tensor_type.shape.dim)
        yield from (t.name for t in (*graph.initializer, *(s.values for s in graph.sparse_initializer)))
        for node in graph.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (a.name for a in node.attribute)
            stack.extend(bodies(node))


def check_nodes(model: ModelProto, version: int) -> None:
    """Raise :class:`InputError` for an attribute of another type than the standard gives it.

    Bodies and local functions are looked at too. Attributes of ops that the standard does not know may be anything.
    """
    _check(model.graph.node, version, "")
    for function in model.functions:
        own = {o.domain: o.version for o in function.opset_import}
        _check(function.node, own.get("", own.get("ai.onnx", version)), f"function {printable(function.name)!r}, ")


def _check(nodes: Iterable[NodeProto], version: int, place: str) -> None:
    nodes = list(nodes)
    for node, name in zip(nodes, node_names(nodes), strict=True):
        for inner in (node, *inner_nodes(node)):
            problem = _problem(inner, version)
            if problem:
                raise InputError(
                    problem, where=f"{place}node {printable(name)!r} ({printable(node.op_type)})", remedy=AGAIN
                )


def _problem(node: NodeProto, version: int) -> str | None:
    if node.domain not in DEFAULT:
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
