"""Pooling on stored integers, without leaving them (N26)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.float_pool import window_maximum, window_sum
from amctc.kernels.windows import Window

Array = NDArray[Any]
Int32 = NDArray[np.int32]


def max_pool_int8(
    q: Array,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    ceil_mode: bool = False,
) -> Array:
    """MaxPool on the stored integers (N26), q (N, C, spatial…); padding acts as −∞ (the least integer)."""
    window = Window(kernel, strides, pads, dilations, ceil_mode)
    return window_maximum(q, window, int(np.iinfo(q.dtype).min))


def sum_pool_int8(
    q: Array,
    offset: int,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    ceil_mode: bool = False,
) -> Int32:
    """Σ (q − offset) over each window in int32, padding counted as real 0: the accumulator of AveragePool (N26).

    Dividing by the number of positions is left to the requantize multiplier (scale / (kh · kw)).
    """
    window = Window(kernel, strides, pads, dilations, ceil_mode)
    total = window_sum(q, window, np.dtype(np.int32), offset)
    total -= np.int32(offset * math.prod(kernel))
    return total
