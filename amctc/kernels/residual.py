"""A residual sum taken from the accumulator: what lies between stays in the cache and is never written as float16."""

from __future__ import annotations

import math

import numpy as np

from amctc.kernels.half_precision import Float16, Float32, Overflow, narrow_tile, round_tile, widen
from amctc.kernels.tiles import Array, TileStep

LEAST_MULTIPLIER = 2.0**-24
"""With it an accumulator that is not 0 does not become a float16 zero: there is no -0 that could meet another."""


def residual_adder(
    multiplier: Float32, *, relu: bool, overflow: Overflow, sum_relu: bool, sum_overflow: Overflow
) -> TileStep:
    """f16(f16(f32(acc) · ``multiplier``) + other), then ``sum_relu``: N12 and N26 in one step, the same bits.

    ``multiplier`` (at least :data:`LEAST_MULTIPLIER`) is the truncated or rounded one, one element or one per channel;
    ``relu`` and ``overflow`` are the dequantization's, ``sum_overflow`` the sum's. Other, beside accumulators that are
    int32 or exact in float32, is float16.
    """

    def step(tile: Array, beside: Float16, out: Float16, multiplier: Float32) -> None:
        t = tile.astype(np.float32)
        if relu:
            np.clip(t, np.float32(0), np.float32(math.inf), out=t)
        t *= multiplier
        round_tile(t, overflow)
        t += widen(beside)  # rounded twice, as add_float16 proves harmless
        if sum_relu:
            np.clip(t, np.float32(0), np.float32(math.inf), out=t)
            t += np.float32(0)  # no -0
        narrow_tile(t, out, sum_overflow)

    return TileStep(step, np.float16, (multiplier,))
