"""The 64-bit parameter words that dequantize and requantize read, one per output channel (N11, N17, N18).

====== ===================================== ======================================
bits   dequantize form                       fixpipe requantize form
====== ===================================== ======================================
31–0   float32 scale_d · scale_w             multiplier M1, low 13 bits zero (N12)
32–35  shift N (with 36–39)                  shift N
36     shift N                               MCB, always 0 here
37–39  shift N                               offset, low bits of the int9 45–37
40–47  offset_w, int8                        45–40 offset; 46 signed output
====== ===================================== ======================================
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import (
    AnyArray,
    BoolArray,
    Float32Array,
    Int64Array,
    UInt64Array,
    float32_array,
    require_finite,
)
from amctc.numerics.rounding import truncate_multiplier

_SCALE_BITS = 32
_SHIFT_AT = 32  # N11
_OFFSET_W_AT = 40  # N11
_REQUANT_OFFSET_AT = 37  # N11: int9 in bits 45–37
_SIGNED_AT = 46  # N11


def pack_dequant(scale: npt.ArrayLike, shift: npt.ArrayLike = 0, offset_w: npt.ArrayLike = 0) -> UInt64Array:
    """uint64 dequantize parameters [C] from float32 scales [C], shifts (0 … 255) and weight offsets (int8) (N11).

    The weight offset goes to bits 47–40, where readers look for it; one published writer puts it at bit 32
    (golden ``deq_fuse_param``), which no reader decodes. On the wire it must be 0 anyway (N10).

    Raises InputError for a scale that is NaN or infinite and for fields out of range.
    """
    bits = _scale_bits(scale)
    shift_field = _field(shift, 0, 255, "shift", 8) << np.uint64(_SHIFT_AT)
    offset_field = _field(offset_w, -128, 127, "offset_w", 8) << np.uint64(_OFFSET_W_AT)
    return np.asarray(bits | shift_field | offset_field, dtype=np.uint64)


def unpack_dequant(parameter: npt.ArrayLike) -> tuple[Float32Array, Int64Array, Int64Array]:
    """(scale float32, shift, offset_w) of dequantize parameters; the inverse of :func:`pack_dequant` (N11)."""
    words = _words(parameter)
    return _scales(words), _unsigned(words, _SHIFT_AT, 8), _sign_extended(words, _OFFSET_W_AT, 8)


def pack_requant(
    scale: npt.ArrayLike, offset: npt.ArrayLike, signed: bool = True, shift: npt.ArrayLike = 0
) -> UInt64Array:
    """uint64 fixpipe requantize parameters [C] (N17) from float32 scales [C] and int9 offsets.

    The scale is stored truncated to 19 bits (N12), because that is all the unit reads. ``offset`` is in
    [-256, 255], ``shift`` in 0 … 15; ``signed`` selects int8 output over uint8.

    Raises InputError for a scale that is NaN or infinite and for fields out of range.
    """
    bits = _scale_bits(truncate_multiplier(scale))
    shift_field = _field(shift, 0, 15, "shift", 4) << np.uint64(_SHIFT_AT)
    offset_field = _field(offset, -256, 255, "offset", 9) << np.uint64(_REQUANT_OFFSET_AT)
    return np.asarray(bits | shift_field | offset_field | np.uint64(int(signed) << _SIGNED_AT), dtype=np.uint64)


def unpack_requant(parameter: npt.ArrayLike) -> tuple[Float32Array, Int64Array, BoolArray, Int64Array]:
    """(multiplier float32, sign-extended offset, signed, shift) of fixpipe requantize parameters (N11, N17)."""
    words = _words(parameter)
    signed = _unsigned(words, _SIGNED_AT, 1).astype(np.bool_)
    offset = _sign_extended(words, _REQUANT_OFFSET_AT, 9)
    return truncate_multiplier(_scales(words)), offset, signed, _unsigned(words, _SHIFT_AT, 4)


def requant_scale(deq_scale: npt.ArrayLike, quant_scale: npt.ArrayLike) -> Float32Array:
    """The requantize multiplier M1: float32 product of the two scales, truncated to 19 bits (N18, N12).

    ``deq_scale`` is scale_d · scale_w of the producer [C], ``quant_scale`` is 1/scale_d of the consumer (N1).
    Raises InputError when the product is not finite.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product = np.asarray(float32_array(deq_scale) * float32_array(quant_scale))
    require_finite(product, "the requantize scale", "N18")
    return truncate_multiplier(product)


def _scale_bits(scale: npt.ArrayLike) -> UInt64Array:
    scales = float32_array(scale)
    require_finite(scales, "the scale of a parameter word", "N11")
    return np.ascontiguousarray(scales).view(np.uint32).reshape(scales.shape).astype(np.uint64)


def _field(value: npt.ArrayLike, low: int, high: int, name: str, bits: int) -> UInt64Array:
    values: AnyArray = np.asarray(value)
    if values.dtype.kind not in "iu" or ((values < low) | (values > high)).any():
        raise InputError(f"{name} must be an integer in [{low}, {high}]", rule="N11")
    return np.asarray(values.astype(np.int64) & ((1 << bits) - 1)).astype(np.uint64)


def _words(parameter: npt.ArrayLike) -> UInt64Array:
    words: AnyArray = np.asarray(parameter)
    if words.dtype != np.uint64:
        raise InputError(f"parameter words are uint64, not {words.dtype}", rule="N11")
    return words


def _scales(words: UInt64Array) -> Float32Array:
    low = np.asarray(words & np.uint64((1 << _SCALE_BITS) - 1)).astype(np.uint32)
    return np.asarray(low.view(np.float32))


def _unsigned(words: UInt64Array, at: int, bits: int) -> Int64Array:
    return np.asarray((words >> np.uint64(at)) & np.uint64((1 << bits) - 1)).astype(np.int64)


def _sign_extended(words: UInt64Array, at: int, bits: int) -> Int64Array:
    value = _unsigned(words, at, bits)
    return np.asarray(value - ((value >> (bits - 1)) << bits), dtype=np.int64)
