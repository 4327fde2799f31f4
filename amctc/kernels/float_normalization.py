"""Float normalisation: by stored statistics (batch) and by those of the data (layer, instance, group).

All compute in the element type given (float16: float32, one rounding at the end, N26). The sums of mean and variance
run over contiguous rows, so their bits do not depend on the memory layout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.float_precision import rounds_once

Array = NDArray[Any]


@rounds_once
def batch_norm(x: Array, scale: Array, bias: Array, mean: Array, var: Array, *, epsilon: float = 1e-5) -> Array:
    """ONNX BatchNormalization, inference form, over axis 1 of x (N, C, …); parameters of shape (C).

    Order: (x − mean) / sqrt(var + epsilon) · scale + bias, each step rounded to the element type.
    """
    per_channel = (-1, *(1,) * (x.ndim - 2))
    scale, bias, mean, var = (p.reshape(per_channel) for p in (scale, bias, mean, var))
    y = x - mean
    y /= np.sqrt(var + np.asarray(epsilon, var.dtype))
    y *= scale
    y += bias
    return y


@rounds_once
def layer_norm(x: Array, scale: Array, bias: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5) -> Array:
    """ONNX LayerNormalization over the axes from ``axis`` on; scale and bias broadcast to them.

    Order: d = x − mean(x); d / sqrt(mean(d²) + epsilon) · scale + bias.
    """
    axis %= x.ndim
    rows = np.ascontiguousarray(x).reshape(*x.shape[:axis], math.prod(x.shape[axis:]))
    y = _standardised(rows, epsilon).reshape(x.shape) * scale
    return np.asarray(y if bias is None else y + bias)


@rounds_once
def group_norm(x: Array, scale: Array, bias: Array, *, groups: int, epsilon: float = 1e-5) -> Array:
    """ONNX GroupNormalization (opset 21): x (N, C, …), each run of C/groups channels by its own statistics.

    Order as :func:`layer_norm`; scale and bias have shape (C).
    """
    rows = np.ascontiguousarray(x).reshape(x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    per_channel = (-1, *(1,) * (x.ndim - 2))
    y = _standardised(rows, epsilon).reshape(x.shape) * scale.reshape(per_channel)
    return np.asarray(y + bias.reshape(per_channel))


def instance_norm(x: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5) -> Array:
    """ONNX InstanceNormalization: x (N, C, …), every channel of every sample by its own statistics."""
    return group_norm(x, scale, bias, groups=x.shape[1], epsilon=epsilon)


def _standardised(rows: Array, epsilon: float) -> Array:
    """D / sqrt(mean(d²) + epsilon) with d = x − mean(x), along the last axis of contiguous rows."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + np.asarray(epsilon, rows.dtype)))
