"""Rows quantized as they come, each with a step of its own (N6), and the epilogue of their products (N13)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.half_precision import Array, Float32, round_tile, widen
from amctc.kernels.integer_epilogue import saturate_into
from amctc.kernels.tiles import TILE

Int8 = NDArray[np.int8]
RowQuantizer = Literal["reciprocal", "threshold", "threshold_f16"]

LARGEST = np.float32(127)
LEAST = np.float32(1e-12)
"""N6: a row of 310P that reaches no further is taken for zeros."""


def quantize_rows(x: Array, form: RowQuantizer) -> tuple[Int8, Float32]:
    """DynamicQuant (N6): float16 or float32 rows (…, K) -> int8 (…, K) and the step of each row, float32 (…).

    With m = max|x| of a row, in float32:

    * ``reciprocal`` (A2): s = f32(127 / m), q = sat8(RNE(f32(x · s))), step = f32(1 / s), which is not m / 127;
    * ``threshold`` (310P): s as above, 0 where m ≤ 1e-12; t = f16(f32(x · s)), q = sat8(round half away(t)),
      step = f32(m · f32(1 / 127));
    * ``threshold_f16`` (310P on float16 data): the same with x and s rounded to float16 first.

    A row of zeros has s = inf and step 0 in the first form; 0 · inf, a NaN, gives 0 as any NaN does.
    """
    rows = np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
    q, steps = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    size = max(1, TILE // max(1, rows.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            t = widen(rows[block])
            if form == "threshold_f16" and x.dtype != np.float16:
                round_tile(t.reshape(-1), "inf")
            m = np.abs(t).max(axis=1, initial=0)
            s, steps[block] = _factors(m, form)
            t *= s[:, None]
            if form != "reciprocal":
                round_tile(t.reshape(-1), "inf")
                t += np.copysign(np.float32(0.5), t)  # exact: t has 11 bits and float32 24
                np.trunc(t, out=t)
            saturate_into(q[block], t, 8)
    return q.reshape(x.shape), steps.reshape(x.shape[:-1])


def _factors(m: Float32, form: RowQuantizer) -> tuple[Float32, Float32]:
    """What rows with the largest magnitudes ``m`` are multiplied by, and their steps."""
    s = LARGEST / m
    if form == "reciprocal":
        return s, np.float32(1) / s
    s[m <= LEAST] = 0
    if form == "threshold_f16":
        s = s.astype(np.float16).astype(np.float32)
    return s, m * (np.float32(1) / LARGEST)


def fake_quantize_rows(x: Array) -> Array:
    """The numbers that the integers of ``x`` (…, K) stand for, in the arithmetic of ``x`` (N6, ``reciprocal``).

    Rows whose largest magnitude is 2^-100 at most, or NaN, stay as they are.
    """
    with np.errstate(all="ignore"):
        m = np.abs(x).max(axis=-1, keepdims=True, initial=0)
        s = x.dtype.type(127) / m
        return np.where(m > x.dtype.type(2.0**-100), np.rint(x * s) * (x.dtype.type(1) / s), x)
