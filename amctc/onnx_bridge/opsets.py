"""Opset versions: carried nodes are brought to one version at import, so that one model can hold them all."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto, TensorProto, helper, version_converter

from amctc.errors import UnsupportedError, printable
from amctc.onnx_bridge.subgraphs import inner_nodes
from amctc.onnx_bridge.tensors import value_info
from amctc.ops.onnx import Node
from amctc.types import TensorType

OPSET = 17
"""Version we write unless a model is newer: old enough for every runtime of note, new enough for QDQ per channel."""


@functools.cache
def since_version(op_type: str, domain: str, version: int) -> int | None:
    """The version in which the meaning of an op at opset ``version`` was set, ``None`` for an unknown op."""
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except Exception:  # SchemaError is not exported
        return None


def same_meaning(node: NodeProto, old: int, new: int) -> bool:
    """True when ``node`` and the nodes in its bodies mean the same at both versions."""
    every = (node, *inner_nodes(node))
    return all(
        since_version(n.op_type, n.domain, old) == since_version(n.op_type, n.domain, new)
        for n in every
        if n.domain in ("", "ai.onnx")
    )


def upgraded(
    node: NodeProto, version: int, operands: Sequence[TensorType | None], constants: Mapping[str, TensorProto]
) -> list[NodeProto] | None:
    """The node rewritten for :data:`OPSET` by ONNX's own converter; ``None`` where it cannot and the node stays as is.

    Several nodes come back where, for example, an attribute became an operand; their new names carry the node's.
    """
    if same_meaning(node, version, OPSET):
        return [node]
    if any(True for _ in inner_nodes(node)):
        return None
    named = {n: t for n, t in zip(node.input, operands, strict=False) if n and t is not None}
    inputs = [value_info(n, t) for n, t in named.items() if n not in constants]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    graph = helper.make_graph([node], "node", inputs, outputs, [constants[n] for n in named if n in constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    try:
        newer = version_converter.convert_version(model, OPSET)
    except Exception:  # the C++ converter raises bare exceptions for ops it does not know
        return None
    prefix = node.output[0]
    fixed = {*node.input, *node.output}
    for part in newer.graph.node:
        for names in (part.input, part.output):
            for k, n in enumerate(names):
                if n and n not in fixed and n not in constants:
                    names[k] = f"{prefix}/{n}"
    return list(newer.graph.node) if not _lost(newer, constants) else None


def _lost(model: onnx.ModelProto, constants: Mapping[str, TensorProto]) -> bool:
    """True when the converter put a value where we would not find it again."""
    return any(t.name not in constants for t in model.graph.initializer)


def export_opset(nodes: Sequence[Node], at_least: int = OPSET) -> int:
    """The version a model holding these carried nodes is written in; they must all mean the same there."""
    default = [n for n in nodes if n.domain == ""]
    version = max([OPSET, at_least, *(n.version for n in default)])
    for kind in default:
        if not same_meaning(NodeProto.FromString(kind.proto), kind.version, version):
            raise UnsupportedError(
                f"carried op {printable(kind.op_type)} of opset {kind.version} means something else at {version}",
                remedy="convert the model to a newer opset first",
            )
    return version
