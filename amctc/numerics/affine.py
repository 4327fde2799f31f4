"""Affine quantization: from a real range to a scale and a zero point.

A real value is ``(q - zero_point) * scale`` with ``q`` an integer of the signed storage range
``[-2**(bits-1), 2**(bits-1) - 1]``. This module chooses scales and zero points; applying them
(:mod:`amctc.numerics.linear`) and the bias of an integer layer (:mod:`amctc.numerics.bias`) are re-exported here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import (
    Float32Array,
    Float64Array,
    Int64Array,
    float32_array,
    require_finite,
)
from amctc.numerics.bias import (
    accumulator_scale,
    bias_scale_for_dead_channel,
    fits_int32,
    has_headroom,
    quantize_bias,
    rescue_weight_scales,
)
from amctc.numerics.linear import dequantize_linear, quantize_linear, quantize_weight, storage_range

__all__ = [
    "SMALLEST_SCALE",
    "accumulator_scale",
    "affine_parameter_arrays",
    "affine_parameters",
    "bias_scale_for_dead_channel",
    "dequantize_linear",
    "fits_int32",
    "has_headroom",
    "quantize_bias",
    "quantize_linear",
    "quantize_weight",
    "rescue_weight_scales",
    "storage_range",
    "weight_scales",
]

SMALLEST_SCALE = np.float32(1.192092896e-7)
"""float32 epsilon, 2**-23: a smaller scale means "no data here" and becomes 1.0 (N10, calibration formulas)."""


def affine_parameters(low: float, high: float, *, bits: int = 8, symmetric: bool = False) -> tuple[np.float32, int]:
    """(scale, zero_point) that spread the storage range over the real range ``[low, high]``.

    The range is widened to hold 0 so that zero (padding, ReLU) is exact. Formulas ("Calibration formulas of the
    existing tool"), with n = bits:

    * asymmetric: scale = (high - low) / (2**n - 1), zero_point = -RNE(low / scale) - 2**(n-1), clipped to storage;
    * symmetric: scale = max(|low|, |high|) / (2**(n-1) - 1), or / 2**(n-1) when |low| > |high|; zero_point 0;
    * a scale below :data:`SMALLEST_SCALE` becomes 1.0 (asymmetric: zero_point -2**(n-1)).

    The scale is computed in float64 and rounded once to float32; the zero point uses the rounded scale.
    Raises InputError for NaN, infinities, low > high, or a range whose scale is not finite in float32.
    """
    scale, zero_point = affine_parameter_arrays(
        np.asarray(low, np.float64), np.asarray(high, np.float64), bits=bits, symmetric=symmetric
    )
    return np.float32(scale[()]), int(zero_point[()])


def affine_parameter_arrays(
    low: Float64Array, high: Float64Array, *, bits: int = 8, symmetric: bool = False
) -> tuple[Float32Array, Int64Array]:
    """:func:`affine_parameters` for arrays of ranges (same shape): (scales float32, zero points int64)."""
    storage_low, storage_high = storage_range(bits)
    require_finite(low, "the lower end of a quantization range")
    require_finite(high, "the upper end of a quantization range")
    if (low > high).any():
        raise InputError("a quantization range has its lower end above its upper end")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    with np.errstate(over="ignore", under="ignore"):
        if symmetric:
            steps = np.where(-low > high, -storage_low, storage_high)
            scale = np.asarray(np.maximum(-low, high) / steps).astype(np.float32)
        else:
            scale = np.asarray((high - low) / (storage_high - storage_low)).astype(np.float32)
    require_finite(scale, "the scale of a quantization range")
    degenerate = scale < SMALLEST_SCALE
    scale = np.where(degenerate, np.float32(1.0), scale)
    if symmetric:
        return scale, np.zeros(scale.shape, np.int64)
    zero_point = np.clip(storage_low - np.rint(low / scale), storage_low, storage_high)
    return scale, np.where(degenerate, storage_low, zero_point).astype(np.int64)


def weight_scales(w: npt.ArrayLike, *, axis: int | None, bits: int = 8, sign_aware: bool = True) -> Float32Array:
    """Symmetric weight scales (N10): [C] along the channel ``axis``, or [1] for the whole tensor (``axis=None``).

    scale = max|w| / (2**(bits-1) - 1). With ``sign_aware`` the divisor is 2**(bits-1) where the largest magnitude is
    negative, so that the extra negative code is used. A scale below :data:`SMALLEST_SCALE` (a dead channel) becomes
    1.0; see :func:`bias_scale_for_dead_channel` for a better choice when the channel has a bias. A grouped
    ConvTranspose weight is reshaped by the caller so that ``axis`` is its output channel.

    Raises InputError for NaN or infinite weights.
    """
    weights = float32_array(w)
    require_finite(weights, "the weight", "N10")
    rows = weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    low = np.asarray(rows.min(axis=1, initial=0.0), np.float64)
    high = np.asarray(rows.max(axis=1, initial=0.0), np.float64)
    if not sign_aware:
        high = np.maximum(-low, high)
    return affine_parameter_arrays(low, high, bits=bits, symmetric=True)[0]
