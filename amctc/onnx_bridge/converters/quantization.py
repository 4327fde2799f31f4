"""QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np

from amctc.ir import Origins, Result, Value, apply, const, constant_data
from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, ranked
from amctc.ops import nn, quant
from amctc.types import F32, I4, I8, I16, I32, U4, U8, U16, QuantizedType, ScalarType


def quantized_type(
    view: NodeView, storage: ScalarType, expressed: ScalarType, *, axis: int | None, scale: int = 1
) -> QuantizedType | None:
    """The element type with the constant scales at operand ``scale`` and the zero points after them.

    ``axis`` is that of several scales. One in a vector is per tensor too: ONNX Runtime reads it so, and other tools
    write it. Scales of blocks have the rank of the data. ``None`` where our types cannot say it.
    """
    steps, zero = view.array(scale), view.array(scale + 1)
    if steps is None or (view.operand(scale + 1) is not None and zero is None) or steps.dtype != np.float32:
        return None
    scales = tuple(float(s) for s in steps.ravel())
    zeros = tuple(int(z) for z in zero.ravel()) if zero is not None else (0,) * len(scales)
    block = int(view.attributes.get("block_size", 0))
    shaped = view.type().is_static and steps.ndim == view.type().rank if block else steps.ndim <= 1
    usable = shaped and len(zeros) == len(scales) and bool((steps > 0).all() and np.isfinite(steps).all())
    if not usable or (axis is None and (block or steps.size != 1)):
        return None
    along = axis if block or steps.size != 1 else None
    return QuantizedType(storage, expressed, scales, zeros, along, *storage.integer_range, block)


def _axis(view: NodeView) -> int:
    return int(view.attributes.get("axis", 1)) % max(view.type().rank, 1)


def reals_of_integers(stored: Value, elem: QuantizedType, name: str, origins: Origins) -> Result | None:
    """What a plain tensor of integers stands for in ``elem``, per tensor, computed in float and quantized again.

    The result is that of DequantizeLinear, bit for bit, and comes from a quantizer, so that layers see their integers.
    ``None`` where the detour could leave float32.
    """
    scale, zero = elem.scale_array[0], elem.zero_points[0]
    with np.errstate(over="ignore"):
        if elem.axis is not None or not np.isfinite(scale * np.float32(1 << elem.bits)):
            return None
    real = apply(nn.Cast(F32), stored, origins=origins)
    centred = apply(nn.Sub(), real, const(np.float32(zero)), origins=origins) if zero else real
    scaled = apply(nn.Mul(), centred, const(scale), origins=origins)
    quantized = apply(quant.Quantize(elem), scaled, name=f"{name}.quant", origins=origins)
    return apply(quant.Dequantize(), quantized, name=name, origins=origins)


@ranked
def _quantize(view: NodeView) -> Converted:
    zero = view.operand(2)
    storage = U8 if zero is None else zero.type.elem
    if storage not in (I8, U8, I16, U16) or view.type().elem != F32 or "output_dtype" in view.attributes:
        return None
    assert isinstance(storage, ScalarType)
    to = quantized_type(view, storage, F32, axis=_axis(view))
    return None if to is None or to.block else (quant.Quantize(to), view.operands[:1])


@ranked
def _dequantize(view: NodeView) -> Converted:
    source = view.operands[0]
    assert source is not None
    storage = source.type.elem
    if isinstance(storage, QuantizedType):
        same = quantized_type(view, storage.storage, F32, axis=_axis(view)) == storage
        return (quant.Dequantize(), (source,)) if same else None
    if storage not in (I4, U4, I8, U8, I16, U16, I32):
        return None
    elem = quantized_type(view, storage, F32, axis=_axis(view))
    if elem is None or (storage == I32 and any(elem.zero_points)):
        return None
    data = constant_data(source)
    if data is None:
        narrow = storage in (I8, U8)
        return reals_of_integers(source, elem, view.node.output[0], view.origins) if narrow else None
    return quant.Dequantize(), (const(data, elem, name=source.name),)


QUANTIZATION: dict[str, Converter] = {"DequantizeLinear": _dequantize, "QuantizeLinear": _quantize}
