"""Opset versions: carried nodes are brought to one version at import, so that one model can hold them all."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, version_converter

from amctc.errors import UnsupportedError, printable
from amctc.onnx_bridge.inference import has_fragile_body
from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.old_forms import scan_of_batches, with_numpy_broadcasts
from amctc.onnx_bridge.subgraphs import DEFAULT, DOMAIN, bodies, captured_names, defined_names, inner_names, inner_nodes
from amctc.onnx_bridge.tensors import value_info
from amctc.onnx_bridge.version_conversion import converted
from amctc.ops.onnx import Node
from amctc.types import TensorType

OPSET = 17
"""Version we write unless a model needs a newer one: every runtime of note has it, and it has QDQ per channel."""

OLDEST_OPSET = 7
"""Oldest version whose nodes are read as they are; broadcasting was by attributes before."""

OVERLOOKED = {"Scan": 9, "Hardmax": 13}
"""Ops that changed in this version (no batch axis; one axis only), which ONNX's converter overlooks."""


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
        if n.domain in DEFAULT
    )


def modernised(model: ModelProto, version: int) -> ModelProto:
    """A model of an opset before :data:`OLDEST_OPSET`, brought there by ONNX's own converter.

    Raises :class:`UnsupportedError` for an op that it does not convert.
    """
    remedy = f"export the model again with opset {OPSET}"
    for node in model.graph.node:
        if any(not same_meaning(inner, version, OLDEST_OPSET) for inner in inner_nodes(node)):
            raise UnsupportedError(f"opset {version} is too old for a node with bodies", remedy=remedy,
                                   where=f"node {printable(node.name)!r} ({node.op_type})")  # fmt: skip
    spread = with_numpy_broadcasts(model)
    try:
        newer = version_converter.convert_version(spread, OLDEST_OPSET)
    except Exception as error:  # the C++ converter raises bare exceptions for ops it does not know
        raise UnsupportedError(f"opset {version} is too old, and onnx cannot convert it: {printable(error, 200)}",
                               remedy=remedy) from error  # fmt: skip
    newer.ClearField("metadata_props")
    newer.metadata_props.extend(model.metadata_props)
    others = {o.domain for o in newer.opset_import}
    newer.opset_import.extend(o for o in model.opset_import if o.domain not in others)
    return newer


def oldest_version(node: NodeProto, version: int) -> int:
    """The oldest version from :data:`OPSET` on at which ``node`` and its bodies mean what they mean at ``version``."""
    since = [since_version(n.op_type, "", version) for n in (node, *inner_nodes(node)) if n.domain in DEFAULT]
    known = [s for s in since if s is not None]
    return min(version, max([OPSET, *known])) if len(known) == len(since) else version


def upgraded(
    node: NodeProto,
    version: int,
    known: Mapping[str, TensorType],
    constants: Mapping[str, TensorProto],
    target: int = OPSET,
) -> list[NodeProto] | None:
    """The node rewritten for ``target`` by ONNX's own converter; ``None`` where it cannot and the node stays as is.

    ``known`` are the types of the values it reads, captured ones included. Several nodes come back where, for example,
    an attribute became an operand; their new names carry the node's.
    """
    if same_meaning(node, version, target):
        return [node]
    if version == 8 and node.op_type == "Scan" and all(same_meaning(n, 8, 9) for n in inner_nodes(node)):
        scan = scan_of_batches(node)
        return None if scan is None else upgraded(scan, 9, known, constants, target)
    overlooked = any(version < OVERLOOKED.get(n.op_type, 0) for n in (node, *inner_nodes(node)))
    if overlooked or has_fragile_body(node):
        return None
    inputs = [value_info(n, t) for n, t in known.items() if n not in constants]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    graph = helper.make_graph([node], "node", inputs, outputs, [constants[n] for n in known if n in constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    newer = converted(model, target)
    if newer is None:
        return None
    if version < 11:
        for part in newer.graph.node:
            _keep_coordinates(part)
    if _lost(newer, constants) or _hidden(node, newer.graph.node):
        return None
    prefix = next(n for n in node.output if n)
    kept = {*node.input, *node.output, *captured_names(node), *inner_names(node), *constants, ""}
    fresh = Names(kept).fresh
    made_up = {o: fresh(f"{prefix}/{o}") for part in newer.graph.node for o in part.output if o not in kept}
    for part in newer.graph.node:
        _rename(part, made_up, kept, fresh)
    return list(newer.graph.node)


def _hidden(node: NodeProto, parts: Sequence[NodeProto]) -> bool:
    """True when a name that the converter made up in a body is one that the bodies of ``node`` use already."""
    old = Counter(defined_names(node))
    new = Counter(name for part in parts for name in defined_names(part))
    return any(new[name] > old[name] for name in {*captured_names(node), *old})


def _rename(node: NodeProto, names: Mapping[str, str], kept: Set[str], fresh: Callable[[str], str]) -> None:
    """Give ``node`` the new ``names``, and names of their own to what the converter made up in its bodies."""
    for field in (node.input, node.output):
        field[:] = [names.get(n, n) for n in field]
    for body in bodies(node):
        inside = {**names, **{o: fresh(o) for inner in body.node for o in inner.output if o not in kept}}
        typed = [info for info in body.value_info if info.name in kept]
        body.ClearField("value_info")
        body.value_info.extend(typed)
        for inner in body.node:
            _rename(inner, inside, kept, fresh)


def _keep_coordinates(node: NodeProto) -> None:
    """Upsample and the first Resize were asymmetric; the converter leaves their successor its default, half_pixel."""
    if node.op_type == "Resize" and not any(a.name == "coordinate_transformation_mode" for a in node.attribute):
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        node.attribute.extend(helper.make_attribute(name, mode) for name, mode in modes.items())


def _lost(model: onnx.ModelProto, constants: Mapping[str, TensorProto]) -> bool:
    """True when the converter put a value where we would not find it again."""
    return any(t.name not in constants for t in model.graph.initializer)


def export_opset(nodes: Sequence[Node], at_least: int = OPSET) -> int:
    """The version to write a model in that holds these carried nodes: the newest that any of them needs."""
    return max([OPSET, at_least, *(n.version for n in nodes if not n.domain), *map(_version_inside, nodes)])


def _version_inside(kind: Node) -> int:
    """The version of the default domain that the bodies of a node of another domain are written in, 0 without."""
    entries = NodeProto.FromString(kind.proto).metadata_props
    return max((int(e.value) for e in entries if e.key == DOMAIN), default=0)
