"""What surrounds an integer accumulator, as its rules say, in plain NumPy: what the fast kernels must equal.

Each line of a rule is a line here. float16 steps are made with NumPy's own float16 arithmetic, which rounds every
result half to even; there are no tiles, no merged clips and no emulation. Shapes and parameters as in
:mod:`amctc.kernels.integer_epilogue`; a parameter is shaped to broadcast already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.windows import trailing

Array = NDArray[Any]
Overflow = Literal["saturate", "inf"]

MAX_FLOAT16 = np.float16(65504)
GUARD = np.float32(2**17)


def quantize_fp32(x: Array, scale: float, offset: int, bits: int, steps: int) -> Array:
    """N2: f32(x · scale), ``steps`` times; f32(t + offset); round half to even; saturate. NaN gives 0."""
    t = x.astype(np.float32)
    for _ in range(steps):
        t = t * np.float32(scale)
    if offset:
        t = t + np.float32(offset)
    return _saturated(t, bits)


def quantize_fp16(x: Array, scale: float, offset: int, bits: int, steps: int, overflow: Overflow) -> Array:
    """N3: as N2 with every number a float16."""
    t = _kept(x.astype(np.float16), overflow)
    for _ in range(steps):
        t = _kept(t * np.float16(scale), overflow)
    if offset:
        t = _kept(t + np.float16(offset), overflow)
    return _saturated(t.astype(np.float32), bits)


def quantize_rows(x: Array, form: str) -> tuple[Array, Array]:
    """N6: integers and steps of rows; A2 (``reciprocal``) and both paths of 310P."""
    t = x.astype(np.float16 if form == "threshold_f16" else np.float32)
    m = np.max(np.abs(t), axis=-1, keepdims=True, initial=0).astype(np.float32)
    s = np.float32(127) / m
    if form == "reciprocal":
        return _saturated(t * s, 8), (np.float32(1) / s)[..., 0]
    s = np.where(m <= np.float32(1e-12), np.float32(0), s)
    t = t * s.astype(np.float16) if form == "threshold_f16" else (t * s).astype(np.float16)
    away = np.sign(t) * np.floor(np.abs(t.astype(np.float32)) + np.float32(0.5))
    return _saturated(away.astype(np.float32), 8), (m * np.float32(1 / 127))[..., 0]


def dequantize_rows(acc: Array, scale: Array, row_scale: Array, bias: Array | None, overflow: Overflow) -> Array:
    """N13: f32(acc) · scale · row scale + bias, each rounded to float32, then f16()."""
    t = acc.astype(np.float32) * scale.astype(np.float32) * row_scale.astype(np.float32)[..., None]
    return _to_float16(t if bias is None else t + bias.astype(np.float32), overflow)


def shifted(acc: Array, shift: Array) -> Array:
    """N16: saturate16(acc >> shift) of every element as soon as one shift is set."""
    return np.clip(acc >> np.minimum(shift, 31), -32768, 32767) if shift.any() else acc


def dequantize(acc: Array, multiplier: Array, relu: bool, overflow: Overflow) -> Array:
    """N12, N13: f16(f32(f32(acc) · multiplier)); relu makes what is negative 0."""
    t = acc.astype(np.float32)
    if relu:
        t = np.where(t < 0, np.float32(0), t)
    return _to_float16(t * multiplier.astype(np.float32), overflow)


def dequantize_vector(
    acc: Array, scale: Array, relu: bool, overflow: Overflow, *, guard: bool, sqrt_mode: bool
) -> Array:
    """N15: f16(acc / 2^17) · f16(scale) · 2^17, relu, and in sqrt_mode the scale once more."""
    half = scale.astype(np.float16)
    around = GUARD if guard else np.float32(1)
    h = _to_float16(acc.astype(np.float32) / around, overflow).astype(np.float32)
    y = _to_float16(h * half.astype(np.float32) * around, overflow)
    if relu:
        y = np.where(y <= 0, np.float16(0), y)
    return _kept(y * half, overflow) if sqrt_mode else y


def requantize(acc: Array, multiplier: Array, negative: Array | None, offset: Array, unsigned: bool) -> Array:
    """N17: f32(acc) · (M1, below 0: M2); clip to int9; round half to even; add the offset; saturate."""
    chosen = multiplier if negative is None else np.where(acc < 0, negative, multiplier)
    f = acc.astype(np.float32) * chosen.astype(np.float32)
    u = np.rint(np.clip(f, -256, 255)).astype(np.int64) + offset.astype(np.int64)
    return np.clip(u, 0, 255).astype(np.uint8) if unsigned else np.clip(u, -128, 127).astype(np.int8)


def antiquantize(q: Array, scale: float, offset: int, overflow: Overflow) -> Array:
    """N20: f16(f32((f32(q) + offset) · scale))."""
    return _to_float16((q.astype(np.float32) + np.float32(offset)) * np.float32(scale), overflow)


def add_float16(a: Array, b: Array, overflow: Overflow) -> Array:
    """N26: f16(a + b)."""
    return _kept(a + b, overflow)


def window_reduced(
    q: Array, reduce: Callable[..., Array], outside: int, *, kernel: tuple[int, ...], strides: tuple[int, ...],
    pads: tuple[int, ...], dilations: tuple[int, ...], out: tuple[int, ...],
) -> Array:  # fmt: skip
    """``reduce`` over each window of q (N, C, spatial…), in int64; ``outside`` is what lies outside the input."""
    rank = len(kernel)
    needed = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(strides, out, dilations, kernel, strict=True)]
    sizes = zip(needed, pads[:rank], q.shape[2:], strict=True)
    around = [(begin, max(0, need - begin - size)) for need, begin, size in sizes]
    padded = np.pad(q.astype(np.int64), [(0, 0), (0, 0), *around], constant_values=outside)
    taps = []
    for tap in np.ndindex(*kernel):
        starts = [i * d for i, d in zip(tap, dilations, strict=True)]
        taps.append(padded[trailing(slice(b, b + s * n, s) for b, s, n in zip(starts, strides, out, strict=True))])
    return reduce(np.stack(taps), axis=0)


def _saturated(t: Array, bits: int) -> Array:
    limit = 2 ** (bits - 1)
    rounded = np.clip(np.rint(t), -limit, limit - 1)
    return np.where(np.isnan(rounded), 0, rounded).astype(np.int16 if bits == 16 else np.int8)


def _to_float16(t: Array, overflow: Overflow) -> Array:
    return _kept(t.astype(np.float16), overflow)


def _kept(t: Array, overflow: Overflow) -> Array:
    """float16 numbers after a step that may have left the range (``overflow``)."""
    return np.clip(t, -MAX_FLOAT16, MAX_FLOAT16) if overflow == "saturate" else t
