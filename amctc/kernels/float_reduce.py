"""Float reductions (ONNX ReduceMean, ReduceSum, ReduceMax).

All compute in the element type given (float16: float32, one rounding at the end, N26). The reduced axes are brought
together in contiguous rows first, so that the order of a sum does not depend on the memory layout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.float_precision import rounds_once

Array = NDArray[Any]


@rounds_once
def reduce_mean(x: Array, *, axes: tuple[int, ...], keepdims: bool = True) -> Array:
    """The mean over ``axes``: NumPy's pairwise sum over the elements in row-major order, then one division."""
    rows = _rows(x, axes)
    return _reduced(rows.sum(axis=-1) / np.asarray(rows.shape[-1], x.dtype), x, axes, keepdims)


@rounds_once
def reduce_sum(x: Array, *, axes: tuple[int, ...], keepdims: bool = True) -> Array:
    """The sum over ``axes``: NumPy's pairwise sum over the elements in row-major order."""
    return _reduced(_rows(x, axes).sum(axis=-1), x, axes, keepdims)


@rounds_once
def reduce_max(x: Array, *, axes: tuple[int, ...], keepdims: bool = True) -> Array:
    """The largest element over ``axes``; −inf over none, NaN wins."""
    return _reduced(_rows(x, axes).max(axis=-1, initial=-math.inf), x, axes, keepdims)


def _rows(x: Array, axes: tuple[int, ...]) -> Array:
    """The reduced axes together as the last one, contiguous."""
    reduced = sorted(a % x.ndim for a in axes)
    last = np.moveaxis(x, reduced, range(x.ndim - len(reduced), x.ndim))
    kept = last.shape[: x.ndim - len(reduced)]
    return np.ascontiguousarray(last).reshape(*kept, math.prod(x.shape[a] for a in reduced))


def _reduced(y: Array, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """``y`` with the reduced axes of ``x`` back as ones."""
    if not keepdims:
        return np.asarray(y)
    reduced = {a % x.ndim for a in axes}
    return np.asarray(y).reshape([1 if i in reduced else n for i, n in enumerate(x.shape)])
