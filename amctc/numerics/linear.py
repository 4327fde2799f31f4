"""Quantize and dequantize with given scales and zero points, in the arithmetic of the ONNX operators.

The Ascend quantizers multiply by the reciprocal instead and live with the kernels (N2, N3); N5 tells where they differ.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import (
    AnyArray,
    Int8Array,
    along_axis,
    float32_array,
    per_block,
    require_finite,
    require_positive_scales,
)
from amctc.numerics.rounding import saturate


def storage_range(bits: int) -> tuple[int, int]:
    """The signed integers of ``bits`` bits, (-2**(bits-1), 2**(bits-1) - 1); InputError outside 2 … 16 bits."""
    if not 2 <= bits <= 16:
        raise InputError(f"{bits}-bit storage is not supported", remedy="use 2 to 16 bits")
    half: int = 1 << (bits - 1)
    return -half, half - 1


def quantize_linear(
    x: npt.ArrayLike,
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike,
    *,
    low: int,
    high: int,
    axis: int | None = None,
    dtype: npt.DTypeLike = np.int8,
) -> AnyArray:
    """ONNX QuantizeLinear: saturate(RNE(x / scale) + zero_point) to ``[low, high]``, stored as ``dtype``.

    A true float32 division, unlike N2's multiplication by the reciprocal (N5 tells where the two differ). ``scale``
    and ``zero_point`` are scalars, [1], or [C] along ``axis``. Infinities saturate; NaN becomes ``low``, as in ONNX
    Runtime (the standard leaves it open), so that shifting the storage does not change what it stands for.
    Raises InputError for scales that are not finite and positive.
    """
    values = float32_array(x)
    scales, zeros = float32_array(scale), np.asarray(zero_point)
    require_positive_scales(scales, "the quantization scale")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        q = np.asarray(values / along_axis(scales, values.ndim, axis))
    np.rint(q, out=q)
    if zeros.any():
        # Exact: storage has at most 16 bits, and larger float32 integers saturate whatever the offset.
        q += along_axis(zeros.astype(np.float32), values.ndim, axis)
    if q.size and np.isnan(q.min()):
        q[np.isnan(q)] = low
    return saturate(q, low, high, dtype)


def dequantize_linear(
    q: npt.ArrayLike,
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike,
    *,
    axis: int | None = None,
    block: int = 0,
    dtype: npt.DTypeLike = np.float32,
) -> AnyArray:
    """ONNX DequantizeLinear: (q - zero_point) · scale, one float32 multiplication, then cast to ``dtype``.

    ``scale`` and ``zero_point`` as in :func:`quantize_linear`; with ``block`` one for each ``block`` elements along
    ``axis``, in row-major order of an array whose ``axis`` counts the blocks. Raises InputError for scales not finite
    and positive.
    """
    codes = np.asarray(q)
    scales, zeros = float32_array(scale), np.asarray(zero_point)
    require_positive_scales(scales, "the quantization scale")
    difference = codes.astype(np.int64) - spread(zeros.astype(np.int64), codes.shape, axis=axis, block=block)
    with np.errstate(over="ignore", under="ignore"):
        real = np.asarray(difference).astype(np.float32) * spread(scales, codes.shape, axis=axis, block=block)
        return np.asarray(real).astype(dtype)


def spread(values: AnyArray, shape: tuple[int, ...], *, axis: int | None, block: int = 0) -> AnyArray:
    """Scales or zero points in a shape that broadcasts over an array of ``shape``.

    ``values`` are one for all, one along ``axis``, or one for each ``block`` elements along it, as in
    :func:`dequantize_linear`.
    """
    if axis is not None and block and values.size > 1:
        return per_block(values.reshape(-1), shape, axis, block)
    return along_axis(values, len(shape), axis)


def quantize_weight(w: npt.ArrayLike, scales: npt.ArrayLike, *, axis: int | None, bits: int = 8) -> Int8Array:
    """Weights as int8 codes clip(RNE(w / scale)) of ``bits`` ≤ 8 bits (N10); scales [C] along ``axis`` or [1].

    Raises InputError for weights that are not finite, scales not positive, or more than 8 bits.
    """
    storage_low, storage_high = storage_range(bits)
    if bits > 8:
        raise InputError(f"{bits}-bit weights do not fit int8 storage", rule="N10")
    weights = float32_array(w)
    require_finite(weights, "the weight", "N10")
    return quantize_linear(weights, scales, 0, low=storage_low, high=storage_high, axis=axis)
