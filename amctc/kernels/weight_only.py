"""Matrix products of float data and integer weights (N21)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.half_precision import Overflow, narrow, widen
from amctc.numerics.linear import spread

Array = NDArray[Any]
Float32 = NDArray[np.float32]


def antiquantized(
    weight: Array, scale: Array, offset: Array | None, *, axis: int, group: int = 0, half: bool = False
) -> Float32:
    """The float weights that integers stand for (N21): (w + offset) · scale, as float32 values.

    ``scale`` is float32 ``[1]``, one along ``axis``, or one for each ``group`` elements along it. With ``half`` the
    scale and the product are rounded to float16 once each, half to even; the sum of integers is exact either way.
    """
    scales = np.asarray(scale, np.float32)
    if half:
        scales = widen(narrow(scales))
    integers = weight.astype(np.float32)
    with np.errstate(all="ignore"):
        if offset is not None:
            integers = integers + spread(offset.astype(np.float32), weight.shape, axis=axis, block=group)
        real = integers * spread(scales, weight.shape, axis=axis, block=group)
    return widen(narrow(real)) if half else real


def weight_only_matmul(x: Array, weight: Float32, bias: Array | None, overflow: Overflow = "inf") -> Array:
    """x (…, K) @ ``weight`` (K, N) + bias (N) in float32, one rounding to the type of ``x`` (N21, N26).

    ``weight`` is what :func:`antiquantized` gives; beyond ±65504 as ``overflow`` says.
    """
    with np.errstate(all="ignore"):
        y = np.matmul(widen(np.ascontiguousarray(x)), weight)
        if bias is not None:
            y += bias.astype(np.float32)
    return narrow(y, overflow) if x.dtype == np.float16 else y
