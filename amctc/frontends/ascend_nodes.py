"""Read the target's own nodes of a deploy file: AscendQuant, AscendDequant, AscendAntiQuant (N1, N11, N20, N24).

Attributes come in the spellings of several tools; what they say is checked against N1 and N25 before it is believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from amctc.errors import InputError, UnsupportedError
from amctc.ir import Value, apply, const, constant_data
from amctc.numerics.fixed_point import unpack_dequant
from amctc.onnx_bridge.converters import Converted, Converter, NodeView
from amctc.onnx_bridge.deploy_form import (
    ANTI_QUANT,
    DEQUANT,
    DYNAMIC_QUANT,
    FLOAT_CODES,
    QUANT,
    QUANT_MATMUL,
    REQUANT,
    STORAGE,
)
from amctc.ops import ascend
from amctc.types import F16, F32, I8, U64, ScalarType

REWRITE = "write the file again with the tool it comes from"
"""What to do about a damaged deploy file."""

_SIGNED_OUTPUT = 1 << 6  # bit 46 of a parameter word, as seen in its offset_w field


def required(view: NodeView, index: int = 0) -> Value:
    """The operand at ``index``; :class:`InputError` where it is missing."""
    value = view.operand(index)
    if value is None:
        raise InputError(f"operand {index} is missing", remedy=REWRITE)
    return value


def _quant(view: NodeView) -> Converted:
    x, a = required(view), view.attributes
    if a.get("round_mode", "Round") != "Round" or any(o is not None for o in view.operands[1:]):
        raise UnsupportedError("AscendQuant with another round_mode, or with scales as inputs", remedy=REWRITE)
    name = str(a.get("dst_type", f"INT{a.get('quant_bit', 8)}"))
    storage = STORAGE.get(name)
    if storage is None:
        raise UnsupportedError(f"AscendQuant to {name!r}", rule="N1", remedy=f"one of {', '.join(STORAGE)}")
    return ascend.Quant(_scale(view), _offset(view, storage), storage, bool(a.get("sqrt_mode", 0))), (x,)


def _anti_quant(view: NodeView) -> Converted:
    """The file holds the quantizer's own offset, our op the compiler's, its negative (N20)."""
    q = required(view)
    storage = q.type.elem
    if not isinstance(storage, ScalarType) or not storage.is_integer or view.attributes.get("sqrt_mode", 0):
        raise UnsupportedError("AscendAntiQuant of data that is no integer, or with sqrt_mode", remedy=REWRITE)
    return ascend.AntiQuant(_scale(view), -_offset(view, storage), _float_type(view)), (q,)


def _dequant(view: NodeView) -> Converted:
    if view.attributes.get("sqrt_mode", 0):
        raise UnsupportedError("AscendDequant with sqrt_mode", remedy=REWRITE)
    acc, parameter = required(view), _parameter(view)
    producer = None if acc.producer is None else acc.producer.kind
    if not isinstance(producer, ascend.Layer | ascend.SumPool) and parameter.type.dims != (1,):
        raise UnsupportedError("a scale per channel of something that is no layer", rule="N24", remedy=REWRITE)
    over_channels = isinstance(producer, ascend.Conv | ascend.ConvTranspose | ascend.SumPool)
    kind = ascend.Dequant(
        1 if over_channels else acc.type.rank - 1, _float_type(view), bool(view.attributes.get("relu_flag", 0)),
        producer.area if isinstance(producer, ascend.SumPool) else 1,
    )  # fmt: skip
    return kind, (acc, parameter)


def _parameter(view: NodeView) -> Value:
    """Parameter words (or float32 scales) as ``[C]`` or ``[1]``: scales finite and positive, weight offsets 0."""
    value = required(view, 1)
    data = constant_data(value)
    if data is None or value.type.elem not in (U64, F32):
        raise UnsupportedError("AscendDequant without a constant parameter of uint64 or float32", remedy=REWRITE)
    words = data.read()
    scales = words
    if value.type.elem == U64:
        scales, _, offset_w = unpack_dequant(words)
        if (offset_w & ~_SIGNED_OUTPUT).any():  # the flag belongs to the requantize form and says nothing here
            raise InputError("a weight offset in the dequantization parameter", rule="N10", remedy=REWRITE)
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise InputError("a dequantization scale that is not finite and positive", rule="N25", remedy=REWRITE)
    return value if len(data.shape) == 1 else const(words.reshape(-1), value.type.elem, name=value.name)


def _requant(view: NodeView) -> Converted:
    raise UnsupportedError("a fused requantization; deploy files are unfused", rule="N18", remedy=REWRITE)


def _dynamic_quant(view: NodeView) -> Converted:
    """Rows quantized as they come (N6); factors for their elements, an optional operand, may only be an empty one."""
    x, smooth = required(view), view.operand(1)
    data = constant_data(smooth)
    if (smooth is not None and (data is None or data.size)) or view.operand(2) is not None:
        raise UnsupportedError("NPUDynamicQuant with smooth scales or groups", rule="N6", remedy=REWRITE)
    return ascend.DynamicQuant(), (x,)


def _quant_matmul(view: NodeView) -> Converted:
    """x, w, scale, no offset, bias, row scales: an integer product and its epilogue with scales per row (N13)."""
    x, w, scale, bias, rows = required(view), required(view, 1), required(view, 2), view.operand(4), view.operand(5)
    a = view.attributes
    if rows is None or view.operand(3) is not None or a.get("transpose_x1", 0) or a.get("dtype", 1) != 1:
        raise UnsupportedError("QuantBatchMatMul without a scale per row, with an offset, of transposed data, or to "
                               "another type than float16", rule="N13", remedy=REWRITE)  # fmt: skip
    if constant_data(w) is None or w.type.elem != I8 or constant_data(scale) is None:
        raise UnsupportedError("QuantBatchMatMul whose weight is no constant of int8, or whose scale is computed",
                               rule="N13", remedy=REWRITE)  # fmt: skip
    product = ascend.MatMul(bool(a.get("transpose_x2", 0)))
    acc = apply(product, x, w, name=f"{view.node.output[0]}/product", origins=view.origins)
    return ascend.DequantRows(F16), (acc, scale, rows, *(() if bias is None else (bias,)))


def _float_type(view: NodeView) -> ScalarType:
    code = view.attributes.get("dtype", 0)
    if code not in FLOAT_CODES:
        raise UnsupportedError(f"{view.node.op_type} to data type {code}", remedy="0 is float32, 1 is float16")
    return FLOAT_CODES[code]


def _scale(view: NodeView) -> float:
    scale = view.attributes.get("scale")
    if not isinstance(scale, float | int) or not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale {scale!r} is not a finite positive number", rule="N1", remedy=REWRITE)
    return float(scale)


def _offset(view: NodeView, storage: ScalarType) -> int:
    offset, (low, high) = view.attributes.get("offset", 0.0), storage.integer_range
    if not isinstance(offset, float | int) or not (low <= offset <= high) or offset != int(offset):
        raise InputError(f"offset {offset!r} is not an integer in [{low}, {high}]", rule="N25", remedy=REWRITE)
    return int(offset)


ASCEND_NODES: Mapping[str, Converter] = {
    QUANT: _quant, DEQUANT: _dequant, ANTI_QUANT: _anti_quant, REQUANT: _requant,
    DYNAMIC_QUANT: _dynamic_quant, QUANT_MATMUL: _quant_matmul,
}  # fmt: skip
"""Converters of the target's own nodes by op type."""
