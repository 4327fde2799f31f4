"""Kernels that choose elements and compute nothing: slices, parts, gathered and padded arrays, of any element type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.errors import InputError
from amctc.kernels.windows import pad_axes
from amctc.ops.shapes import slice_range

Array = NDArray[Any]


def split(x: Array, *, axis: int, sizes: Sequence[int]) -> tuple[Array, ...]:
    """Views of consecutive parts of ``sizes`` along ``axis``; :class:`InputError` when they do not add up."""
    if sum(sizes) != x.shape[axis]:
        raise InputError(f"parts of {list(sizes)} of an axis of {x.shape[axis]} elements")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def slice_axes(
    x: Array, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> Array:
    """A view of the positions of ONNX Slice (:func:`amctc.ops.shapes.slice_range`) along each axis."""
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken = slice_range(x.shape[axis], start, end, step)
        stop = None if taken.stop < 0 else taken.stop  # NumPy reads -1 as the last element
        index[axis] = slice(taken.start, stop, step) if taken else slice(0, 0)
    return x[tuple(index)]


def gather(x: Array, indices: Array, *, axis: int) -> Array:
    """ONNX Gather: the slices of x at ``indices``; :class:`InputError` for an index that no element has."""
    size = x.shape[axis]
    if indices.size and not -size <= int(indices.min()) <= int(indices.max()) < size:
        raise InputError(f"an index in [{indices.min()}, {indices.max()}] of an axis of {size} elements")
    return np.take(x, indices, axis=axis)


def pad(x: Array, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Array:
    """ONNX Pad: ``pads`` has all begins, then all ends, one per axis; constant mode crops by negative ones.

    Raises :class:`InputError` when there are too few elements to mirror.
    """
    if not any(pads):
        return x
    begins, ends = pads[: x.ndim], pads[x.ndim :]
    if mode == "constant":
        with np.errstate(over="ignore"):
            return pad_axes(x, begins, ends, np.asarray(value).astype(x.dtype).item())
    least = 1 if mode == "reflect" else 0
    if any(max(b, e) > 0 and n < least * max(b, e) + 1 for b, e, n in zip(begins, ends, x.shape, strict=True)):
        raise InputError(f"pads {list(pads)} of an array of shape {list(x.shape)} in mode {mode}")
    widths = list(zip(begins, ends, strict=True))
    return np.pad(x, widths, "reflect") if mode == "reflect" else np.pad(x, widths, "edge")


def expand(x: Array, *, shape: Sequence[int]) -> Array:
    """A view of x broadcast to the shape that it and ``shape`` broadcast to (ONNX Expand)."""
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))


def squeeze(x: Array, *, axes: Sequence[int]) -> Array:
    """A view of x without ``axes``; :class:`InputError` where one has not the size 1."""
    if any(x.shape[a] != 1 for a in axes):
        raise InputError(f"axes {list(axes)} of an array of shape {list(x.shape)} are not all 1")
    return np.squeeze(x, tuple(axes))


def unsqueeze(x: Array, *, axes: Sequence[int]) -> Array:
    """A view of x with new axes of size 1."""
    return np.expand_dims(x, tuple(axes))
