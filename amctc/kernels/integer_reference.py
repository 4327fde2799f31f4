"""The integer layers as their rules say, in plain NumPy: what the fast kernels must equal.

No packing, no float32 products, no blocks: int64 throughout, so every sum is exact. Saturation or wrapping into int32
comes once, at the end (N7).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.windows import trailing

Array = NDArray[Any]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def conv_sums(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int = 1,
    offset_x: int = 0,
) -> Int64:
    """Σ w · q + bias − offset_x · Σ w, q = ``offset_x`` outside the input (N7, N8).

    Shapes as :func:`amctc.kernels.integer_linear.prepare_conv`.
    """
    rank, batch, outputs = x.ndim - 2, len(x), len(weight)
    around = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    padded = np.pad(x.astype(np.int64), around, constant_values=offset_x)
    extents = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    out = [(n - e) // s + 1 for n, e, s in zip(padded.shape[2:], extents, strides, strict=True)]
    matrices = weight.astype(np.int64).reshape(group, outputs // group, *weight.shape[1:])
    acc = np.zeros((batch, group, outputs // group, math.prod(out)), np.int64)
    for tap in np.ndindex(*weight.shape[2:]):
        starts = [i * d for i, d in zip(tap, dilations, strict=True)]
        steps = [slice(b, b + s * n, s) for b, s, n in zip(starts, strides, out, strict=True)]
        met = padded[trailing(steps)].reshape(batch, group, weight.shape[1], math.prod(out))
        acc += matrices[(..., *tap)] @ met
    folded = (0 if bias is None else bias.astype(np.int64)) - offset_x * weight.reshape(outputs, -1).sum(1, np.int64)
    sums: Int64 = acc.reshape(batch, outputs, *out) + folded.reshape(-1, *(1,) * rank)
    return sums


def conv_transpose_sums(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    output_padding: tuple[int, ...] = (),
    group: int = 1,
    offset_x: int = 0,
) -> Int64:
    """Σ w · (q − offset_x) + bias, each input spread over the outputs it meets (N7, N8).

    Shapes as :func:`amctc.kernels.integer_transposed.prepare_conv_transpose`.
    """
    batch, channels, *spatial = x.shape
    rank, kernel, per_group = len(spatial), weight.shape[2:], weight.shape[1]
    extra = output_padding or (0,) * rank
    full = [s * (n - 1) + k + e for s, n, k, e in zip(strides, spatial, kernel, extra, strict=True)]
    real = (x.astype(np.int64) - offset_x).reshape(batch, group, channels // group, math.prod(spatial))
    matrices = weight.astype(np.int64).reshape(group, channels // group, *weight.shape[1:])
    acc = np.zeros((batch, group, per_group, *full), np.int64)
    for tap in np.ndindex(*kernel):
        spread = matrices[(..., *tap)].swapaxes(1, 2) @ real
        met = [slice(t, t + s * n, s) for t, s, n in zip(tap, strides, spatial, strict=True)]
        acc[trailing(met)] += spread.reshape(batch, group, per_group, *spatial)
    kept = [slice(p, n - e) for p, e, n in zip(pads[:rank], pads[rank:], full, strict=True)]
    cropped = acc.reshape(batch, group * per_group, *full)[trailing(kept)]
    sums: Int64 = cropped + (0 if bias is None else bias.astype(np.int64).reshape(-1, *(1,) * rank))
    return sums


def gemm_sums(x: Array, weight: Array, bias: Array | None = None, *, offset_x: int = 0) -> Int64:
    """x @ weight + bias − offset_x · Σ w, x (…, K), weight (K, N) (N7, N8)."""
    folded = (0 if bias is None else bias.astype(np.int64)) - offset_x * weight.sum(axis=0, dtype=np.int64)
    sums: Int64 = x.astype(np.int64) @ weight.astype(np.int64) + folded
    return sums


def saturate32(sums: Int64) -> Int32:
    """Sums brought into int32 by saturation (N7)."""
    return np.clip(sums, INT32_MIN, INT32_MAX).astype(np.int32)


def wrap32(sums: Int64) -> Int32:
    """Sums brought into int32 modulo 2^32 (N7, accumulate_overflow)."""
    return sums.astype(np.int32)  # NumPy casts integers modulo 2^32
