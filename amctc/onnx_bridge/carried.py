"""What can be asked about a carried node without knowing its op."""

from __future__ import annotations

from onnx import NodeProto

from amctc.ops.onnx import Node


def attribute_names(kind: Node) -> tuple[str, ...]:
    """Names of the attributes a carried node has, in file order."""
    return tuple(a.name for a in NodeProto.FromString(kind.proto).attribute)
