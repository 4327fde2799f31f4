"""Float pooling (ONNX MaxPool, AveragePool, GlobalAveragePool, GlobalMaxPool)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.float_precision import rounds_once
from amctc.kernels.windows import Window, pad_for, tap_views

Array = NDArray[Any]


@rounds_once
def max_pool(
    x: Array,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    ceil_mode: bool = False,
) -> Array:
    """The largest element of each window: x (N, C, spatial…) -> (N, C, out…).

    Padding acts as −inf, NaN wins. Exact, so the float16 result is exact too.
    """
    window = Window(kernel, strides, pads, dilations, ceil_mode)
    return window_maximum(x, window, -math.inf)


def window_maximum(x: Array, window: Window, lowest: float) -> Array:
    """Maximum over each window, outside the input ``lowest``; any element type, memory order of ``x`` kept."""
    padded = pad_for(x, window, lowest)
    best: Array | None = None
    for _, view in tap_views(padded, window, window.output_shape(x.shape[2:])):
        best = view.copy(order="K") if best is None else np.maximum(best, view, out=best)
    assert best is not None  # a kernel has at least one tap
    return best


@rounds_once
def average_pool(
    x: Array,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Array:
    """The mean of each window: x (N, C, spatial…) -> (N, C, out…).

    Order: sum over the taps in row-major order, then one division by the number of positions counted
    (:func:`window_counts`).
    """
    window = Window(kernel, strides, pads, dilations, ceil_mode)
    total = window_sum(x, window, x.dtype)
    total /= window_counts(x.shape[2:], window, count_include_pad).astype(x.dtype)
    return total


def window_sum(x: Array, window: Window, dtype: np.typing.DTypeLike, outside: float = 0) -> Array:
    """Sum over each window in ``dtype``, taps in row-major order, outside the input ``outside``."""
    padded = pad_for(x, window, outside)
    total: Array | None = None
    for _, view in tap_views(padded, window, window.output_shape(x.shape[2:])):
        if total is None:
            total = view.astype(dtype, order="K")
        else:
            total += view
    assert total is not None  # a kernel has at least one tap
    return total


def window_counts(spatial: tuple[int, ...], window: Window, include_pad: bool) -> NDArray[np.int64]:
    """How many positions an average divides by, of shape (out…): those inside the input, or inside input and pads.

    What lies beyond the end padding (a last window of ``ceil_mode``) never counts, as in ONNX AveragePool 19+.
    """
    counts = np.ones((), np.int64)
    out = window.output_shape(spatial)
    for axis, size in enumerate(spatial):
        starts = np.arange(out[axis])[:, None] * window.strides[axis] - window.begins[axis]
        positions = starts + np.arange(window.kernel[axis]) * window.dilations[axis]
        first, last = (-window.begins[axis], size + window.ends[axis]) if include_pad else (0, size)
        counts = np.multiply.outer(counts, ((positions >= first) & (positions < last)).sum(axis=1))
    return counts


@rounds_once
def global_average_pool(x: Array) -> Array:
    """The mean over all spatial axes, kept with length 1: x (N, C, spatial…) -> (N, C, 1…).

    Order: NumPy's pairwise sum over the positions in row-major order, then one division.
    """
    rows = np.ascontiguousarray(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))
    mean: Array = rows.sum(axis=-1) / np.asarray(rows.shape[-1], x.dtype)
    return mean.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


def global_max_pool(x: Array) -> Array:
    """The largest element over all spatial axes, kept with length 1; any element type, NaN wins."""
    return np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True))
