"""The dequantization of the first generation, done by its float16 vector unit (N15)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from amctc.errors import InputError
from amctc.kernels.accumulator_shift import Int32, shifted
from amctc.kernels.half_precision import Float16, Float32, Overflow, narrow_tile, round_tile, widen
from amctc.kernels.integer_epilogue import split_fp16_scale
from amctc.kernels.tiles import Array, TileStep, as_scratch

GUARD = np.float32(2.0**-17)
"""N15: brings every int32 (2^31 · 2^-17 = 2^14) into the range of float16."""


def dequantize_f16(
    acc: Int32,
    scale: ArrayLike,
    *,
    channel_axis: int = 1,
    relu: bool = False,
    guard: bool = True,
    sqrt_mode: bool = False,
    overflow: Overflow = "saturate",
    shift: ArrayLike = 0,
) -> Float16:
    """AscendDequant of the float16 vector unit (N15): int32 accumulators -> float16.

    If shift ≠ 0, acc := saturate16(acc >> shift) (N16). With s = f16(scale):

    * ``guard``: h = f16(f32(acc) · 2^-17), which cannot overflow; y = f16(f32(h · s) · 2^17);
    * without: h = f16(f32(acc)), where 65520 and more overflow; y = f16(f32(h · s));
    * ``relu``: y := max(y, +0); then ``sqrt_mode``: y := f16(f32(y · s)), ``scale`` being the root of the real one.

    h · s has 22 bits, exact in float32, and the factors 2^±17 are exact, so each f16() is one rounding. ``overflow``:
    beyond ±65504 saturate, or infinity.

    The vendor's page on CastDequant [D] gives ``Cast(src/2^17 · scale · 2^17)`` with a float16 ``scale``, and the order
    acc to float16, times scale, relu, times scale again in sqrt_mode. Where the expression rounds is our reading [I]:
    where the accumulator becomes float16, which is what a guard against overflow is for, and at the end. Were the
    product rounded before 2^17 too, every result would be a multiple of 2^-24 · 2^17 = 2^-7.
    Raises :class:`InputError` for a scale that float16 cannot hold.
    """
    step = vector_dequantizer(scale, relu=relu, guard=guard, sqrt_mode=sqrt_mode, overflow=overflow)
    return step(shifted(acc, shift, channel_axis), channel_axis)[0]


def vector_dequantizer(
    scale: ArrayLike, *, relu: bool, guard: bool, sqrt_mode: bool, overflow: Overflow
) -> TileStep:  # fmt: skip
    """:func:`dequantize_f16` of accumulators, int32 or exact in float32, behind the shift."""
    with np.errstate(over="ignore"):
        halves = np.asarray(scale, np.float32).astype(np.float16)
    if not np.isfinite(halves).all():
        raise InputError("a dequantization scale beyond 65504 is none of float16", rule="N15", remedy="use sqrt_mode")
    before, after = (GUARD, 1 / GUARD) if guard else (np.float32(1), np.float32(1))

    def step(tile: Array, out: Float16, scale: Float32) -> None:
        t = as_scratch(tile)
        t *= before
        round_tile(t, overflow)  # no -0 comes in or out: an accumulator is 0 or at least 2^-17
        t *= scale
        t *= after
        narrow_tile(t, out, overflow)
        if relu:
            np.copyto(out, np.float16(0), where=out <= 0)  # -0 too
        if sqrt_mode:
            t = widen(out)
            t *= scale
            narrow_tile(t, out, overflow)

    return TileStep(step, (np.float16,), (widen(halves),))


def split_dequant_scale(scale: ArrayLike) -> tuple[Float32, bool]:
    """(scales, sqrt_mode) for :func:`dequantize_f16`: roots of all of them as soon as float16 has no normal for one.

    The graph compiler's rule for quantizers (N3), taken to hold for dequantizers [I]; sqrt_mode is one flag of the op,
    so it is chosen for all channels together. Roots are taken in float64 and rounded once to float32.
    """
    scales = np.asarray(scale, np.float32)
    if not any(split_fp16_scale(float(s))[1] for s in scales.reshape(-1)):
        return scales, False
    return np.sqrt(scales.astype(np.float64)).astype(np.float32), True
