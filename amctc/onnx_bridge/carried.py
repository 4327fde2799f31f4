"""What becomes of carried nodes once more is known about their operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnx import AttributeProto, NodeProto

from amctc.ir import Op, Value, build, constant_data
from amctc.onnx_bridge.converters import CONVERTERS, NodeView, build_named
from amctc.onnx_bridge.inference import node_types, small_constants
from amctc.onnx_bridge.subgraphs import inner_nodes
from amctc.ops.onnx import Node
from amctc.types import TensorType, merge_types, shapes_agree


def attribute_names(kind: Node) -> tuple[str, ...]:
    """Names of the attributes a carried node has, in file order."""
    return tuple(a.name for a in NodeProto.FromString(kind.proto).attribute)


def integer_attributes(kind: Node) -> dict[str, int]:
    """The integer attributes of a carried node by name."""
    return {a.name: a.i for a in NodeProto.FromString(kind.proto).attribute if a.type == AttributeProto.INT}


def inner_ops(kind: Node) -> Iterator[tuple[str, str]]:
    """Domain and op type of every node in the bodies of a carried node."""
    return ((n.domain, n.op_type) for n in inner_nodes(NodeProto.FromString(kind.proto)))


def recognised(op: Op, operands: tuple[Value | None, ...]) -> Sequence[Value] | None:
    """A carried op as one of ours, now that an operand it was carried for is constant; ``None`` while it is not."""
    kind = op.kind
    converter = CONVERTERS.get((kind.domain, kind.op_type)) if isinstance(kind, Node) else None
    if converter is None or not isinstance(kind, Node):
        return None
    node = NodeProto.FromString(kind.proto)
    named = iter(op.results)
    wanted = [next(named) if output else None for output in node.output]
    node.output[:] = ["" if r is None else r.name or "result" for r in wanted]
    converted = converter(NodeView(node, operands, kind.version, op.origins))
    if converted is None or isinstance(converted, Value):
        return None if converted is None else (converted,)
    ours = build_named(*converted, [r.name or "" if r else "" for r in wanted], op.origins)
    return [new for new, old in zip(ours.results, wanted, strict=False) if old is not None]


def refined(op: Op, operands: tuple[Value | None, ...]) -> Sequence[Value] | None:
    """A carried op whose unknown dimensions follow from operands that are constant by now; ``None`` if none do."""
    kind = op.kind
    if not isinstance(kind, Node) or all(r.type.is_static for r in op.results):
        return None
    node = NodeProto.FromString(kind.proto)
    types = tuple(None if o is None else o.type for o in operands)
    constants = small_constants(node, [constant_data(o) for o in operands], types)
    found = node_types(node, kind.version, types[: len(node.input)], constants)
    named = [t for name, t in zip(node.output, found, strict=True) if name]
    merged = tuple(_merged(r.type, t) for r, t in zip(op.results, named, strict=True))
    if merged == tuple(r.type for r in op.results):
        return None
    better = replace(kind, operand_types=types, result_types=merged)
    return build(better, *operands, names=tuple(r.name for r in op.results), origins=op.origins).results


def _merged(known: TensorType, found: TensorType | None) -> TensorType:
    agree = found is not None and known.elem == found.elem and shapes_agree(known.shape, found.shape)
    return merge_types(known, found) if agree and found is not None else known
