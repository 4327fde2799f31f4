"""Rounding and saturation, the two operations every quantizer ends with.

RNE means round to nearest, ties to even: what IEEE 754 hardware, ``numpy.rint`` and the Ascend vector
and fixpipe units do (N2, N12, N17).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, Float16Array, Float32Array, float32_array

MAX_FLOAT16 = 65504.0
"""Largest finite float16: (2 - 2**-10) * 2**15 (IEEE 754 binary16)."""

DROPPED_MANTISSA_BITS = 13
"""float32 has 23 stored mantissa bits, the 19-bit multiplier of the fixpipe has 10 (N12)."""

_DROPPED_MASK = np.uint32((1 << DROPPED_MANTISSA_BITS) - 1)
_KEPT_MASK = np.uint32(0xFFFFFFFF) ^ _DROPPED_MASK


def round_half_even(x: npt.ArrayLike) -> AnyArray:
    """``x`` rounded to the nearest integer, ties to even; floating types keep their type."""
    rounded: AnyArray = np.asarray(np.rint(x))
    return rounded


def saturate(x: npt.ArrayLike, low: int, high: int, dtype: npt.DTypeLike) -> AnyArray:
    """``x`` clipped to ``[low, high]`` and cast to the integer type ``dtype`` (sat8 of N2, int32 of N7).

    ``x`` holds integers of any type; a fraction would be cut toward zero, so round first. Infinities saturate
    and NaN becomes 0 (the chip's result is not published; N6 takes 0 for the same case).

    The bounds are applied in a type that represents them: clipping float32 at 2**31 - 1 would let 2**31 through.

    Raises InputError when the bounds are outside ``dtype`` or not representable in float64 (for a floating ``x``).
    """
    values: AnyArray = np.asarray(x)
    kind = np.dtype(dtype)
    info = np.iinfo(kind)
    if not info.min <= low <= high <= info.max:
        raise InputError(f"bounds [{low}, {high}] do not fit {kind}")
    if values.dtype.kind == "f":
        return _saturate_float(values, low, high, kind)
    if values.dtype.kind not in "iu":
        raise InputError(f"cannot saturate {values.dtype} values")
    # A bound outside the values' own type cannot bind; NumPy refuses to clip with it, so it moves to the type's end.
    own = np.iinfo(values.dtype)
    if low > own.max or high < own.min:
        return np.full(values.shape, low if low > own.max else high, kind)
    clipped: AnyArray = np.clip(values, max(low, own.min), min(high, own.max)).astype(kind)
    return clipped


def _saturate_float(x: AnyArray, low: int, high: int, dtype: np.dtype[Any]) -> AnyArray:
    if not _holds_exactly(x.dtype, low, high):
        if not _holds_exactly(np.dtype(np.float64), low, high):
            raise InputError(f"bounds [{low}, {high}] are not exact in float64")
        x = x.astype(np.float64)
    clipped = np.clip(x, x.dtype.type(low), x.dtype.type(high))
    # The minimum of an array is NaN when any element is: one cheap pass decides whether to look for NaN at all.
    if clipped.size and np.isnan(clipped.min()):
        clipped = np.where(np.isnan(clipped), x.dtype.type(min(max(0, low), high)), clipped)
    return np.asarray(clipped).astype(dtype)


def _holds_exactly(dtype: np.dtype[Any], *integers: int) -> bool:
    with np.errstate(over="ignore"):
        values = [float(dtype.type(i)) for i in integers]
    return all(np.isfinite(v) and int(v) == i for v, i in zip(values, integers, strict=True))


def to_float16(x: npt.ArrayLike, overflow: Literal["saturate", "inf"] = "saturate") -> Float16Array:
    """``x`` rounded once (RNE) to float16; what leaves a fixpipe dequantize (N12).

    ``overflow`` chooses what happens from 65520 on, where RNE would round past the largest float16: one vendor golden
    saturates to ±65504 (default), another gives an infinity. Infinite inputs follow the same choice; NaN stays NaN.
    """
    values: AnyArray = np.asarray(x)
    if overflow == "saturate":
        # Floating kinds keep their precision (one rounding); integers go through float64.
        values = values if values.dtype.kind == "f" else values.astype(np.float64)
        values = np.clip(values, -MAX_FLOAT16, MAX_FLOAT16)
    elif overflow != "inf":
        raise InputError(f"unknown float16 overflow mode {overflow!r}", remedy="use 'saturate' or 'inf'")
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16)


def truncate_multiplier(x: npt.ArrayLike) -> Float32Array:
    """float32 ``x`` with its low 13 mantissa bits dropped, toward zero: the fixpipe's 1-8-10 multiplier M1 (N12).

    The relative error is below 2**-10 for normal numbers; signs, zeros and infinities are kept.
    """
    return _with_mantissa_bits(x, np.uint32(0))


def round_multiplier(x: npt.ArrayLike) -> Float32Array:
    """float32 ``x`` rounded (RNE) to the 1-8-10 format of :func:`truncate_multiplier`: ``round_mode=1`` of N12.

    As in any IEEE rounding, a value closer to 2**128 than to the largest 19-bit number becomes infinite.
    """
    bits = float32_array(x).view(np.uint32)
    # Adding just under half a unit, plus the kept last bit, carries exactly when RNE rounds up.
    last_kept_bit = (bits >> np.uint32(DROPPED_MANTISSA_BITS)) & np.uint32(1)
    return _with_mantissa_bits(x, (_DROPPED_MASK >> np.uint32(1)) + last_kept_bit)


def _with_mantissa_bits(x: npt.ArrayLike, increment: np.uint32 | npt.NDArray[np.uint32]) -> Float32Array:
    values = float32_array(x)
    bits = values.view(np.uint32)
    result = ((bits + increment) & _KEPT_MASK).view(np.float32)
    # A NaN whose payload sits in the dropped bits would turn into an infinity; infinities must stay as they are.
    return np.where(np.isfinite(values), result, values)
