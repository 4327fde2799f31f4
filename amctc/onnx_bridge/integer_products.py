"""What carried products of integers compute on real numbers."""

from __future__ import annotations

from onnx import NodeProto

from amctc.ir import Op, Origin, Result, Value, apply
from amctc.onnx_bridge.converters.linear import LINEAR
from amctc.onnx_bridge.converters.node_view import NodeView
from amctc.ops.onnx import Node

FLOAT_FORM = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
"""The op type that computes on real numbers what each of these computes on integers less their zero points."""


def float_product(op: Op, a: Value, b: Value) -> Value | None:
    """The layer on real operands that ``op`` is on integers, called after the same node.

    ``None`` for other ops, and where no layer has such attributes.
    """
    kind = op.kind
    if not isinstance(kind, Node) or kind.domain or kind.op_type not in FLOAT_FORM:
        return None
    origins = tuple(Origin(o.name, FLOAT_FORM[kind.op_type]) for o in op.origins)
    view = NodeView(NodeProto.FromString(kind.proto), (a, b), kind.version, origins)
    converted = LINEAR[FLOAT_FORM[kind.op_type]](view)
    if converted is None or isinstance(converted, Result):
        return None
    layer, operands = converted
    return apply(layer, *operands, origins=origins)
