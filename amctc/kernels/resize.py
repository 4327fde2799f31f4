"""Resampling (ONNX Resize): nearest neighbour for any element type, linear interpolation for floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.float_precision import rounds_once
from amctc.ops.resize import scaled_dim

Array = NDArray[Any]
Float32 = NDArray[np.float32]


def source_positions(size: int, count: int, scale: np.float32, coordinates: str) -> Float32:
    """Where each of ``count`` result elements lies on an axis of ``size`` elements (coordinate_transformation_mode).

    In float32, operation by operation, as the standard writes it and ONNX Runtime computes it: which side of a tie a
    position falls on depends on that.
    """
    x = np.arange(count, dtype=np.float32)
    if coordinates == "asymmetric":
        return x / scale
    if coordinates == "align_corners":
        return x * np.float32(size - 1) / np.float32(max(count - 1, 1))
    if coordinates == "pytorch_half_pixel" and count == 1:
        return np.zeros(1, np.float32)
    return (x + np.float32(0.5)) / scale - np.float32(0.5)


TIE = 1e-6
"""A position this near to the middle of two elements counts as the middle: 2 of 7 elements to 4 lie at 3.4999998 in
float32. ONNX Runtime 1.31 has the same allowance (measured between 0.95e-6 and 1.19e-6)."""


def nearest_positions(positions: Float32, rounding: str) -> Float32:
    """Whole positions by nearest_mode; the two roundings differ where a position is in the middle."""
    if rounding in ("floor", "ceil"):
        return np.floor(positions) if rounding == "floor" else np.ceil(positions)
    whole = np.floor(positions)
    fraction = positions - whole
    up = (fraction > 0.5) if rounding == "round_prefer_floor" else (fraction >= 0.5)
    tied = np.abs(fraction - np.float32(0.5)) < TIE
    return np.asarray(whole + np.where(tied, rounding == "round_prefer_ceil", up).astype(np.float32))


def _axis_scales(
    x: Array, axes: Sequence[int], sizes: Sequence[int], scales: Sequence[float]
) -> list[tuple[int, int, np.float32]]:
    """(axis, result elements, scale) of each resampled axis; the scale of a given size is their float32 ratio."""
    if sizes:
        return [(a, n, np.float32(n) / np.float32(x.shape[a])) for a, n in zip(axes, sizes, strict=True)]
    found = []
    for axis, scale in zip(axes, scales, strict=True):
        count = scaled_dim(x.shape[axis], scale)
        assert isinstance(count, int)
        found.append((axis, count, np.float32(scale)))
    return found


def resize_nearest(
    x: Array, *, axes: Sequence[int], sizes: Sequence[int] = (), scales: Sequence[float] = (),
    coordinates: str = "half_pixel", rounding: str = "round_prefer_floor",
) -> Array:  # fmt: skip
    """The nearest element, one axis after the other; positions outside count as the border. Any element type."""
    for axis, count, scale in _axis_scales(x, axes, sizes, scales):
        size = x.shape[axis]
        nearest = nearest_positions(source_positions(size, count, scale, coordinates), rounding)
        x = np.take(x, np.clip(nearest, 0, size - 1).astype(np.int64), axis=axis)
    return x


@rounds_once
def resize_linear(
    x: Array, *, axes: Sequence[int], sizes: Sequence[int] = (), scales: Sequence[float] = (),
    coordinates: str = "half_pixel",
) -> Array:  # fmt: skip
    """Linear interpolation, one axis after the other; positions outside count as the border.

    Order: low · (1 − t) + high · t, t the float32 distance from the lower neighbour.
    """
    for axis, count, scale in _axis_scales(x, axes, sizes, scales):
        size = x.shape[axis]
        position = np.clip(source_positions(size, count, scale, coordinates), 0, np.float32(size - 1))
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, size - 1)
        along = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        t = (position - low.astype(np.float32)).astype(x.dtype).reshape(along)
        below, above = np.take(x, low, axis=axis), np.take(x, high, axis=axis)
        x = np.where(t == 0, below, below * (1 - t) + above * t)  # an infinite neighbour of weight 0 does not count
    return x
