"""QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np

from amctc.ir import const, constant_data
from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, ranked
from amctc.ops import quant
from amctc.types import F32, I8, I16, I32, U8, U16, QuantizedType, ScalarType


def _quantized_type(view: NodeView, storage: ScalarType, expressed: ScalarType) -> QuantizedType | None:
    """The element type of a (de)quantization by constant scale and zero point, ``None`` where ours cannot say it.

    One scale in a vector is per tensor too: ONNX Runtime reads it so, and other tools write it.
    """
    scale, zero = view.array(1), view.array(2)
    if scale is None or (view.operand(2) is not None and zero is None) or scale.dtype != np.float32:
        return None
    axis = int(view.attributes.get("axis", 1)) % max(view.type().rank, 1)
    scales = tuple(float(s) for s in scale.ravel())
    zeros = tuple(int(z) for z in zero.ravel()) if zero is not None else (0,) * len(scales)
    usable = scale.ndim <= 1 and len(zeros) == len(scales) and bool((scale > 0).all() and np.isfinite(scale).all())
    if not usable or view.attributes.get("block_size", 0):
        return None
    return QuantizedType(storage, expressed, scales, zeros, None if scale.size == 1 else axis, *storage.integer_range)


@ranked
def _quantize(view: NodeView) -> Converted:
    zero = view.operand(2)
    storage = U8 if zero is None else zero.type.elem
    if storage not in (I8, U8, I16, U16) or view.type().elem != F32 or "output_dtype" in view.attributes:
        return None
    assert isinstance(storage, ScalarType)
    to = _quantized_type(view, storage, F32)
    return None if to is None else (quant.Quantize(to), view.operands[:1])


@ranked
def _dequantize(view: NodeView) -> Converted:
    source = view.operands[0]
    assert source is not None
    storage = source.type.elem
    if isinstance(storage, QuantizedType):
        same = _quantized_type(view, storage.storage, F32) == storage
        return (quant.Dequantize(), (source,)) if same else None
    data = constant_data(source)
    if data is None or storage not in (I8, U8, I16, U16, I32):
        return None
    elem = _quantized_type(view, storage, F32)
    if elem is None or (storage == I32 and any(elem.zero_points)):
        return None
    return quant.Dequantize(), (const(data, elem, name=source.name),)


QUANTIZATION: dict[str, Converter] = {"DequantizeLinear": _dequantize, "QuantizeLinear": _quantize}
