"""A residual sum taken from the accumulator: what lies between stays in the cache and is never written as float16."""

from __future__ import annotations

import math

import numpy as np

from amctc.kernels.half_precision import Float32, Overflow, least_is_normal, round_tile, widen
from amctc.kernels.half_results import HalfResult
from amctc.kernels.tiles import Array, TileStep, as_scratch

LEAST_MULTIPLIER = 2.0**-24
"""With it an accumulator that is not 0 does not become a float16 zero: there is no -0 that could meet another."""


def residual_adder(
    multiplier: Float32, *, relu: bool, overflow: Overflow, sum_relu: bool, result: HalfResult
) -> TileStep:
    """f16(f16(f32(acc) · ``multiplier``) + other), then ``sum_relu``: N12 and N26 in one step, the same bits.

    ``multiplier`` (at least :data:`LEAST_MULTIPLIER`) is the truncated or rounded one, one element or one per channel;
    ``relu`` and ``overflow`` are the dequantization's, ``result`` is what becomes of the sum. Other, beside
    accumulators that are int32 or exact in float32, is float16, or float32 that float16 can hold.
    """
    subnormal = not least_is_normal(multiplier)

    def step(tile: Array, beside: Array, *outs_and_multiplier: Array) -> None:
        *outs, multiplier = outs_and_multiplier
        t = as_scratch(tile)
        if relu:
            np.clip(t, np.float32(0), np.float32(math.inf), out=t)
        t *= multiplier
        round_tile(t, overflow, subnormal=subnormal)
        t += beside if beside.dtype == np.float32 else widen(beside)  # rounded twice, as add_float16 proves harmless
        if sum_relu:
            np.clip(t, np.float32(0), np.float32(math.inf), out=t)
            if not result.joined:
                t += np.float32(0)  # no -0
        result.fill(t, outs, subnormal=False)  # both are multiples of 2^-24, so their sum is

    return TileStep(step, result.dtypes, (multiplier,))
