"""What surrounds an integer accumulator: quantize, dequantize, requantize, anti-quantize and the float16 sum.

Every docstring states the order of the float operations and where they round. f32() and f16() round half to even;
``scale``, ``offset`` and ``multiplier`` have one element or one per channel. Labels N… are the rules of
docs/numerics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amctc.errors import InputError
from amctc.kernels.accumulator_shift import shifted
from amctc.kernels.half_precision import (
    Float16,
    Float32,
    Overflow,
    least_is_normal,
    narrow,
    narrow_tile,
    round_tile,
    widen,
)
from amctc.kernels.half_results import HalfResult, TileReader
from amctc.kernels.integer_pool import max_pool_int8 as max_pool_int8  # the pools belong to the same public set
from amctc.kernels.integer_pool import sum_pool_int8 as sum_pool_int8
from amctc.kernels.tiles import Array, TileStep, as_scratch, map_tiles
from amctc.numerics.rounding import round_multiplier as rounded_multiplier
from amctc.numerics.rounding import truncate_multiplier

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

_STORAGE: dict[int, type[np.signedinteger[Any]]] = {4: np.int8, 8: np.int8, 16: np.int16}


def quantize_fp32(
    x: Array,
    scale: ArrayLike,
    offset: ArrayLike = 0,
    *,
    bits: int = 8,
    sqrt_mode: bool = False,
    channel_axis: int | None = None,
) -> Array:
    """AscendQuant in float32 (N2): float16 or float32 -> int8 (``bits`` 8; 4 in [-8, 7]) or int16.

    t = f32(x · scale); with ``sqrt_mode`` t = f32(t · scale); if offset ≠ 0, t = f32(t + offset); RNE; saturate.
    ``scale`` is 1/scale_d. No fused multiply-add; NaN gives 0, as the NaN of N6.
    """

    def step(tile: Array, out: Array, scale: Float32, offset: Float32) -> None:
        fp32_quantizer((scale,) * (1 + sqrt_mode), offset, bits).fill(widen(tile), out)

    return map_tiles(step, x, _storage(bits), _f32(scale), _f32(offset), channel_axis=channel_axis)


def fp32_quantizer(factors: Sequence[ArrayLike], offset: ArrayLike, bits: int) -> TileReader:
    """:func:`quantize_fp32` of a tile: times each of ``factors``, plus ``offset``, rounded and saturated."""
    numbers, added = [_f32(factor) for factor in factors], _f32(offset)

    def fill(t: Float32, out: Array) -> None:
        for number in numbers:
            t *= number
        t += added  # adding 0 changes no value
        saturate_into(out, t, bits)

    return TileReader(_storage(bits), fill)


def quantize_fp16(
    x: Array,
    scale: ArrayLike,
    offset: ArrayLike = 0,
    *,
    bits: int = 8,
    sqrt_mode: bool = False,
    overflow: Overflow = "inf",
    channel_axis: int | None = None,
) -> Array:
    """AscendQuant in float16 (N3): x -> f16 first, then as N2 with every product and sum rounded to float16.

    t = f16(f16(x) · f16(scale)); with ``sqrt_mode`` t = f16(t · f16(scale)); if offset ≠ 0, t = f16(t + f16(offset));
    RNE; saturate. Products are formed in float32, where 11 by 11 bits are exact; for sums see :func:`add_float16`.
    ``overflow`` says what a float16 step beyond 65504 gives [I].
    """

    def step(tile: Array, out: Array, scale: Float32, offset: Float32) -> None:
        t = widen(tile)
        if tile.dtype != np.float16 or overflow == "saturate":  # float16 is rounded already, but may hold infinities
            round_tile(t, overflow)
        for _ in range(1 + sqrt_mode):
            t *= scale
            round_tile(t, overflow)
        if np.any(offset):
            t += offset
            round_tile(t, overflow)
        saturate_into(out, t, bits)

    with np.errstate(over="ignore"):
        halves = [_f32(p).astype(np.float16).astype(np.float32) for p in (scale, offset)]
    return map_tiles(step, x, _storage(bits), *halves, channel_axis=channel_axis)


def split_fp16_scale(scale: float) -> tuple[float, bool]:
    """(scale, sqrt_mode) for :func:`quantize_fp16`: √scale and True when float16 cannot hold it as a normal (N3)."""
    outside = scale < 2.0**-14 or scale > 65504.0
    return (math.sqrt(scale), True) if outside else (scale, False)


def dequantize_fixpipe(
    acc: Int32,
    scale: ArrayLike,
    *,
    channel_axis: int = 1,
    relu: bool = False,
    overflow: Overflow = "saturate",
    shift: ArrayLike = 0,
    round_multiplier: bool = False,
) -> Float16:
    """AscendDequant in the fixpipe (N12, N16): int32 accumulators -> float16; ``scale`` float32 scale_d · scale_w.

    M1 = ``scale`` with its low 13 mantissa bits dropped (``round_multiplier``: rounded half to even instead).
    If shift ≠ 0, acc := saturate16(acc >> shift). y = f16(f32(f32(acc) · M1)), where ``relu`` makes negative
    accumulators +0. ``overflow``: beyond ±65504 saturate, or the infinity that the other vendor golden gives.
    """
    multiplier = rounded_multiplier(scale) if round_multiplier else truncate_multiplier(scale)
    step = fixpipe_dequantizer(multiplier, relu=relu, result=HalfResult(overflow))
    return step(shifted(acc, shift, channel_axis), channel_axis)[0]


def fixpipe_dequantizer(multiplier: ArrayLike, *, relu: bool, result: HalfResult) -> TileStep:
    """:func:`dequantize_fixpipe` of accumulators, int32 or exact in float32, behind the shift; M1 is ``multiplier``."""
    subnormal = not least_is_normal(_f32(multiplier))

    def step(tile: Array, *outs_and_multiplier: Array) -> None:
        *outs, multiplier = outs_and_multiplier
        t = as_scratch(tile)
        if relu:
            np.clip(t, np.float32(0), np.float32(math.inf), out=t)  # twice as fast as maximum with a scalar
        t *= multiplier
        result.fill(t, outs, subnormal=subnormal)

    return TileStep(step, result.dtypes, (_f32(multiplier),))


def dequantize_full_scale(
    acc: Int32,
    scale: ArrayLike,
    *,
    token_scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    channel_axis: int = -1,
    relu: bool = False,
    dtype: type[np.float16] | type[np.float32] = np.float16,
    overflow: Overflow = "inf",
    shift: ArrayLike = 0,
) -> Array:
    """Dequantize with the untruncated scale (N13): int32 -> float16 or float32.

    If shift ≠ 0, acc := saturate16(acc >> shift) (N16). y = f32(f32(acc) · scale); with ``token_scale`` (broadcast to
    acc) y = f32(y · token_scale); with ``bias`` (one per channel) y = f32(y + bias); with ``relu`` negative y become
    +0; one cast to ``dtype``, beyond ±65504 as ``overflow`` says.
    """
    acc = shifted(acc, shift, channel_axis)

    def step(tile: Int32, out: Float32, scale: Float32) -> None:
        np.multiply(tile.astype(np.float32), scale, out=out)

    y = map_tiles(step, acc, np.float32, _f32(scale), channel_axis=channel_axis)
    with np.errstate(all="ignore"):
        if token_scale is not None:
            y *= _f32(token_scale)
        if bias is not None:
            y += _f32(bias).reshape(-1, *(1,) * (acc.ndim - 1 - channel_axis % acc.ndim))
        if relu:
            np.clip(y, np.float32(0), np.float32(math.inf), out=y)
    return narrow(y, overflow) if dtype is np.float16 else y


def requantize_fixpipe(
    acc: Int32,
    multiplier: ArrayLike,
    offset: ArrayLike = 0,
    *,
    negative_multiplier: ArrayLike | None = None,
    unsigned: bool = False,
    channel_axis: int = 1,
    shift: ArrayLike = 0,
) -> Array:
    """AscendRequant in the fixpipe (N17): int32 accumulators -> int8, or uint8 when ``unsigned``.

    ``shift`` as in :func:`dequantize_fixpipe`. f = f32(f32(acc) · M), M = ``multiplier`` (truncated already: N12,
    N18), for acc < 0 ``negative_multiplier`` when given (0: relu; slope · M1 truncated: leaky relu);
    t = RNE(clip(f, -256, 255)); u = t + offset; saturate to [-128, 127] or [0, 255]. The int9 clip and the rounding
    come before the offset.
    Raises :class:`InputError` for an offset outside int9 (N11).
    """
    requantize = fixpipe_requantizer(multiplier, offset, negative_multiplier=negative_multiplier, unsigned=unsigned)
    return requantize(shifted(acc, shift, channel_axis), channel_axis)[0]


def fixpipe_requantizer(
    multiplier: ArrayLike, offset: ArrayLike = 0, *, negative_multiplier: ArrayLike | None = None,
    unsigned: bool = False,
) -> TileStep:  # fmt: skip
    """:func:`requantize_fixpipe` of accumulators, int32 or exact in float32, behind the shift."""
    offsets = np.asarray(offset)
    if offsets.size and (offsets.min() < -256 or offsets.max() > 255):
        raise InputError("a requantize offset is outside [-256, 255]", rule="N11")
    positive, negative = _f32(multiplier), _f32(multiplier if negative_multiplier is None else negative_multiplier)
    relu = not negative.any() and not np.signbit(positive).any()  # then the branch is the clip's lower end
    leaky = negative_multiplier is not None and not relu
    if not leaky:
        negative = np.zeros(1, np.float32)
    least, (low, high) = (0 if relu else -256), ((0, 255) if unsigned else (-128, 127))
    if offsets.size and (offsets == offsets.flat[0]).all():
        offsets = offsets.reshape(-1)[:1]
    # Clips to integers commute with the rounding and move past the offset, so one clip does for two: with a ≤ b
    # clip(clip(r, a, b) + o, low, high) = clip(r + o, clip(a + o, low, high), clip(b + o, low, high)).
    bounds = (_f32(np.clip(end + offsets, low, high)) for end in (least, 255))

    def step(tile: Array, out: Array, positive: Float32, negative: Float32, offset: Float32, *ends: Float32) -> None:
        factor = np.where(tile < 0, negative, positive) if leaky else positive
        t = as_scratch(tile)
        t *= factor
        np.rint(t, out=t)
        t += offset
        np.clip(t, *ends, out=t)
        np.copyto(out, t, casting="unsafe")

    return TileStep(step, (np.uint8 if unsigned else np.int8,), (positive, negative, _f32(offsets), *bounds))


def antiquantize(
    q: Array, scale: ArrayLike, offset: ArrayLike = 0, *, overflow: Overflow = "saturate", channel_axis: int = 1
) -> Float16:
    """AscendAntiQuant (N20): int8 -> float16. y = f16(f32((f32(q) + offset) · scale)); ``offset`` is −offset_d."""

    def step(tile: Array, out: Float16, scale: Float32, offset: Float32) -> None:
        t = tile.astype(np.float32)
        t += offset
        t *= scale
        narrow_tile(t, out, overflow)

    return map_tiles(step, q, np.float16, _f32(scale), _f32(offset), channel_axis=channel_axis)


def add_float16(a: Float16, b: Float16, *, overflow: Overflow = "inf") -> Float16:
    """Residual addition in float16 (N26): f16(a + b), broadcast. Computed as narrow(f32(a + b)), which is the same.

    Proof that the second rounding is harmless, for |a| ≥ |b| > 0, with 2^e and 2^f their powers of two (at least
    2^-14), so that a and b are multiples of 2^(e-10) and 2^(f-10). If e − f ≤ 12, a + b is a multiple of 2^(f-10)
    below 2^(e+2) ≤ 2^(f+14): 24 bits, exact in float32. Otherwise |b| ≤ 2^(e-12) − 2^(e-23), while the float16
    midpoints next to a are at least 2^(e-12) away (2^(e-12) below a power of two). a ± (2^(e-12) − 2^(e-23)) is a
    float32, rounding is monotone, so f32(a + b) too lies strictly on a's side of the midpoint: both round to a.
    """

    def step(a: Float16, b: Float16, out: Float16) -> None:
        t = widen(a)
        t += widen(b)
        narrow_tile(t, out, overflow)

    if a.shape == b.shape:
        return map_tiles(step, a, np.float16, beside=(b,))
    with np.errstate(over="ignore", invalid="ignore"):
        return narrow(np.asarray(np.add(widen(a), widen(b))), overflow)


def _f32(values: ArrayLike) -> Float32:
    return np.asarray(values, np.float32)


def _storage(bits: int) -> type[np.signedinteger[Any]]:
    if bits not in _STORAGE:
        raise InputError(f"{bits}-bit quantization", remedy="use 4, 8 or 16 bits", rule="N1")
    return _STORAGE[bits]


def saturate_into(out: Array, t: Float32, bits: int) -> None:
    """``out`` = RNE(t) clipped to the signed range of ``bits``; NaN becomes 0."""
    np.rint(t, out=t)
    np.clip(t, np.float32(-(2 ** (bits - 1))), np.float32(2 ** (bits - 1) - 1), out=t)
    if t.size and np.isnan(t.min()):
        np.nan_to_num(t, copy=False, nan=0.0)
    out[...] = t
