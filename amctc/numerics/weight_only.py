"""Weight-only quantization: scales of whole channels or of blocks along the contraction axis, rounding to nearest.

Source: read from ``quantize_op/utils.py`` of AMCT and checked against its vectors (weights of the shape
[output, input] there, any axis here).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import Float32Array, Int64Array, float32_array, require_finite
from amctc.numerics.affine import SMALLEST_SCALE
from amctc.numerics.linear import storage_range

_SLAB = 1 << 18  # elements quantized at a time: their temporaries take 10 MB, those of a whole weight ten times as much


def weight_only_parameters(
    w: npt.ArrayLike, *, axis: int, block: int = 0, bits: int = 8, symmetric: bool = True
) -> tuple[Float32Array, Int64Array]:
    """Scales and zero points of a weight: the shape of ``w``, with one entry per block along ``axis``.

    ``block`` 0 makes one block of the whole axis; the last block may be shorter. With low and high the extremes of a
    block, widened to hold 0, n = bits and all in float32:

    * symmetric: scale = max(-low, high)/(2**(n-1) - 1), or /2**(n-1) where -low > high; zero point 0;
    * asymmetric: scale = (high - low)/(2**n - 1), zero point = -RNE(low/scale) - 2**(n-1).

    A scale below :data:`SMALLEST_SCALE` becomes 1.0. Raises InputError for NaN or infinite weights, a range beyond
    float32 and a negative ``block``.
    """
    weights = float32_array(w)
    require_finite(weights, "the weight", "N21")
    first, last = storage_range(bits)
    starts = _starts(weights.shape[axis], block)
    low = high = weights  # of an empty axis, which has no block
    if starts.size:
        low, high = np.minimum.reduceat(weights, starts, axis), np.maximum.reduceat(weights, starts, axis)
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    with np.errstate(over="ignore", under="ignore"):
        if symmetric:
            steps = np.where(-low > high, -first, last).astype(np.float32)
            scale = np.asarray(np.maximum(-low, high) / steps, np.float32)
        else:
            scale = (high - low) / np.float32(last - first)
    if not np.isfinite(scale).all():
        raise InputError("the range of a weight is beyond float32")
    scale = np.where(scale < SMALLEST_SCALE, np.float32(1), scale)
    if symmetric:
        return scale, np.zeros(scale.shape, np.int64)
    return scale, np.clip(first - np.rint(low / scale), first, last).astype(np.int64)


def quantize_weight_only(
    w: npt.ArrayLike, scales: Float32Array, zero_points: Int64Array, *, axis: int, block: int = 0, bits: int = 8
) -> npt.NDArray[np.int8]:
    """clip(RNE(w/scale) + zero_point) as int8, with the parameters of :func:`weight_only_parameters`."""
    weights = float32_array(w)
    first, last = storage_range(bits)
    lengths = np.diff(_starts(weights.shape[axis], block), append=weights.shape[axis])
    entry = np.repeat(np.arange(lengths.size), lengths)  # of each position along the axis
    integers = np.empty(weights.shape, np.int8)
    rows_at_once = max(1, _SLAB * len(weights) // max(1, weights.size))
    for start in range(0, len(weights), rows_at_once):
        rows = slice(start, start + rows_at_once)
        if axis % weights.ndim == 0:
            scale, zero = scales.take(entry[rows], 0), zero_points.take(entry[rows], 0)
        else:
            scale, zero = scales[rows].take(entry, axis), zero_points[rows].take(entry, axis)
        integers[rows] = np.clip(np.rint(weights[rows] / scale) + zero, first, last)
    return integers


def _starts(size: int, block: int) -> npt.NDArray[np.intp]:
    if block < 0:
        raise InputError(f"blocks of {block} weights")
    return np.arange(0, size, block or max(1, size))
