"""The Ascend deploy form (N1, N11, N20, N24): names and codes that its reader and its writer share.

A deploy file is an ONNX file whose layers compute in integers between ``AscendQuant`` and ``AscendDequant`` nodes of
the default domain. It is not valid ONNX (an int8 Conv is none), so neither checker nor ONNX Runtime is asked about it.
"""

from __future__ import annotations

from amctc.ir import Op, Value
from amctc.ops import nn
from amctc.types import F16, F32, I4, I8, I16, ScalarType

QUANT, DEQUANT, ANTI_QUANT, REQUANT = "AscendQuant", "AscendDequant", "AscendAntiQuant", "AscendRequant"
"""Op types of the target's own nodes."""

DYNAMIC_QUANT, QUANT_MATMUL = "NPUDynamicQuant", "QuantBatchMatMul"
"""Nodes of the default domain that the graph engine's ONNX reader takes for DynamicQuant and QuantBatchMatmulV3 [C]."""

TARGET_KEY = "amctc.target"
"""Metadata that names the chip a deploy file is for; a file that has it is read as one."""

STORAGE: dict[str, ScalarType] = {"INT8": I8, "INT4": I4, "INT16": I16}
"""Attribute ``dst_type`` of a quantizer (N1)."""

FLOAT_CODES: dict[int, ScalarType] = {0: F32, 1: F16}
"""Attribute ``dtype`` of a dequantizer: the graph engine's data type codes (N24)."""

MOVES = (
    nn.Concat, nn.Expand, nn.Flatten, nn.Gather, nn.GlobalMaxPool, nn.Identity, nn.MaxPool, nn.Reshape, nn.Slice,
    nn.Split, nn.Squeeze, nn.Transpose, nn.Unsqueeze,
)  # fmt: skip
"""Op kinds that select or move elements: integers pass through them with their quantizer's scale and offset."""


def moves(op: Op | None) -> bool:
    """True for an op whose result's elements are elements of its :func:`data_operands`."""
    if op is None:
        return False
    return isinstance(op.kind, MOVES) or (isinstance(op.kind, nn.Resize) and op.kind.mode == "nearest")


def data_operands(op: Op) -> tuple[Value | None, ...]:
    """The operands an op moves elements of: all but indices."""
    return op.operands[:1] if isinstance(op.kind, nn.Gather) else op.operands
