"""The oldest opset in which the ops of ours in a graph can be said."""

from __future__ import annotations

from amctc.ir import Constant, Graph, Op
from amctc.onnx_bridge.opsets import OPSET
from amctc.ops import ascend, nn
from amctc.ops.onnx import Node
from amctc.schema import OpKind
from amctc.types import I4, I8, I32, U8, QuantizedType, ScalarType

TYPES_SINCE = {
    "bf16": 22, "f8e4m3fn": 21, "f8e5m2": 21, "f8e4m3fnuz": 21, "f8e5m2fnuz": 21, "i4": 21, "u4": 21, "f4e2m1": 23,
    "f8e8m0": 24, "i2": 25, "u2": 25,
}  # fmt: skip
"""The opset in which all ops that we write take elements of a type, for those that came later than :data:`OPSET`."""


def needed_opset(graph: Graph) -> int:
    """The oldest version, from :data:`OPSET` on, that knows the graph's element types and forms of our ops."""
    ours = [op for op in graph.ops if not isinstance(op.kind, Node | Constant)]
    elems = [v.type.elem for v in graph.values()]
    used = {v.type.elem for op in ours for v in (*op.operands, *op.results) if v is not None}
    used |= {v.type.elem for v in graph.outputs}  # a constant or an input is handed out by an Identity
    return max(
        OPSET,
        21 if any(isinstance(e, QuantizedType) and _is_new(e) for e in elems) else 0,
        21 if any(map(_has_blocks_or_int4, ours)) else 0,
        # It came as one node: its form for older opsets rounds differently.
        21 if any(isinstance(op.kind, nn.GroupNorm) for op in ours) else 0,
        19 if any(is_dilated(op.kind) for op in ours) else 0,
        22 if any(map(_drops_a_window, ours)) else 0,
        *(TYPES_SINCE.get(e.name, 0) for e in used if isinstance(e, ScalarType)),
    )


def _is_new(elem: QuantizedType) -> bool:
    return elem.storage not in (I8, U8, I32) or elem.block > 0


def _has_blocks_or_int4(op: Op) -> bool:
    """True for a weight-only product whose weight the older DequantizeLinear cannot say."""
    weight = op.operand(1) if isinstance(op.kind, ascend.WeightQuantMatMul) else None
    return weight is not None and (getattr(op.kind, "group", 0) > 0 or weight.type.elem == I4)


def is_dilated(kind: OpKind) -> bool:
    """True for an average pool that skips elements."""
    return isinstance(kind, nn.AveragePool) and any(d != 1 for d in kind.dilations)


def _drops_a_window(op: Op) -> bool:
    """True for a pool whose last window, which ``ceil_mode`` would add, lies in the padding.

    Before opset 22 the standard's shape inference counted it, though runtimes did not.
    """
    kind = op.kind
    if not isinstance(kind, nn.MaxPool | nn.AveragePool) or not kind.ceil_mode or op.operands[0] is None:
        return False
    n = len(kind.kernel)
    sizes, results = op.operands[0].type.dims[2:], op.result.type.dims[2:]
    for i, (size, result) in enumerate(zip(sizes, results, strict=True)):
        if isinstance(size, int):
            room = size + kind.pads[i] + kind.pads[i + n] - kind.dilations[i] * (kind.kernel[i] - 1) - 1
            if result != -(-room // kind.strides[i]) + 1:
                return True
    return False
