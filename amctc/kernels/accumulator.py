"""Integer linear operations as objects: what comes in, what comes out, and what happens beyond int32 (N7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.errors import InputError
from amctc.kernels.tiles import TileStep
from amctc.kernels.windows import Window

Array = NDArray[Any]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


class OverflowCount:
    """What happens to accumulators outside int32, and how many there were.

    ``overflow_possible`` is False when the operands prove that no input can leave int32 (of a constant weight:
    |bias′| + 128 · Σ|w| < 2^31 in every channel): then nothing is checked at run time. Otherwise values outside are
    saturated, or with ``wrap`` taken modulo 2^32 (N7), and ``overflows`` counts them over all calls so far. Either is
    done once, to the finished sum: in which order the cube adds is not published.
    """

    def __init__(self, overflow_possible: bool, wrap: bool = False) -> None:
        self.overflow_possible, self._wrap = overflow_possible, wrap
        self.overflows = 0

    def settled(self, sums: Int64) -> Int32:
        """Finished sums brought into int32, those outside counted."""
        self.overflows += int(np.count_nonzero((sums < INT32_MIN) | (sums > INT32_MAX)))
        kept = sums if self._wrap else np.clip(sums, INT32_MIN, INT32_MAX)
        return kept.astype(np.int32)  # NumPy casts integers modulo 2^32


class Accumulator(OverflowCount):
    """An integer linear operation with its weight packed: int8 activations in, int32 accumulators out.

    ``is_exact_in_float32`` says that no accumulator leaves the integers that float32 holds, whatever comes in: then
    :meth:`finished` hands them to what follows before they leave the cache.
    """

    is_exact_in_float32 = False

    def __call__(self, x: Int8) -> Int32:
        """The accumulators of ``x``; shapes as the function that prepared this object says."""
        raise NotImplementedError

    def finished(self, x: Int8, step: TileStep, beside: Sequence[Array] = ()) -> list[Array]:
        """The results of ``step`` of the accumulators of ``x``, where they are exact in float32.

        They have channels innermost in memory; arrays ``beside`` have their shape.
        """
        raise NotImplementedError


def check_activations(x: Array, channels: int, window: Window) -> None:
    """Element type and shape of what a convolution is called with; :class:`InputError` where they do not fit."""
    if x.dtype != np.int8 or x.ndim != 2 + len(window.kernel) or x.shape[1] != channels:
        raise InputError(f"activations {x.dtype} {x.shape} for an int8 convolution of {channels} channels")
