"""The definition of the int8 accumulators, in plain int64 NumPy: slow, short, and what the fast kernels must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.windows import trailing

Array = NDArray[Any]
Int32 = NDArray[np.int32]


def reference_conv(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int = 1,
    offset_x: int = 0,
) -> Int32:
    """saturate32(Σ w · q + bias − offset_x · Σ w), q = ``offset_x`` outside the input (N7, N8).

    Shapes as :func:`amctc.kernels.integer_linear.prepare_conv`.
    """
    rank = x.ndim - 2
    around = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    padded = np.pad(x.astype(np.int64), around, constant_values=offset_x)
    extents = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    out = [(n - e) // s + 1 for n, e, s in zip(padded.shape[2:], extents, strides, strict=True)]
    per_group, outputs = weight.shape[1], weight.shape[0] // group
    acc = np.zeros((x.shape[0], weight.shape[0], *out), np.int64)
    for channel in range(weight.shape[0]):
        first = channel // outputs * per_group
        for tap in np.ndindex(*weight.shape[1:]):
            starts = [i * d for i, d in zip(tap[1:], dilations, strict=True)]
            met = padded[:, first + tap[0]]
            for axis, (start, stride, count) in enumerate(zip(starts, strides, out, strict=True)):
                met = met.take(range(start, start + stride * count, stride), axis=axis + 1)
            acc[:, channel] += int(weight[(channel, *tap)]) * met
    return _settle(np.moveaxis(acc, 1, -1), weight.reshape(len(weight), -1).T, bias, offset_x, -1, 1)


def reference_conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    output_padding: tuple[int, ...] = (),
    group: int = 1,
    offset_x: int = 0,
) -> Int32:
    """saturate32(Σ w · (q − offset_x) + bias), each input spread over the outputs it meets (N7, N8).

    Shapes as :func:`amctc.kernels.integer_transposed.prepare_conv_transpose`.
    """
    batch, channels, *spatial = x.shape
    rank, kernel, per_group = len(spatial), weight.shape[2:], weight.shape[1]
    extra = output_padding or (0,) * rank
    full = [s * (n - 1) + k + e for s, n, k, e in zip(strides, spatial, kernel, extra, strict=True)]
    acc = np.zeros((batch, per_group * group, *full), np.int64)
    for channel, output in np.ndindex(channels, per_group):
        target = channel // (channels // group) * per_group + output
        for position in np.ndindex(*spatial):
            corner = [s * i for s, i in zip(strides, position, strict=True)]
            met = (slice(None), target, *(slice(c, c + k) for c, k in zip(corner, kernel, strict=True)))
            real = x[(slice(None), channel, *position)].astype(np.int64) - offset_x
            acc[met] += real.reshape(-1, *(1,) * rank) * weight[channel, output].astype(np.int64)
    kept = [slice(p, n - e) for p, e, n in zip(pads[:rank], pads[rank:], full, strict=True)]
    acc = acc[trailing(kept)] + (0 if bias is None else bias.astype(np.int64).reshape(-1, *(1,) * rank))
    saturated: Int32 = np.clip(acc, -(2**31), 2**31 - 1).astype(np.int32)
    return saturated


def reference_gemm(x: Array, weight: Array, bias: Array | None = None, *, offset_x: int = 0) -> Int32:
    """saturate32(x @ weight + bias − offset_x · Σ w), x (…, K), weight (K, N) (N7, N8)."""
    return _settle(x.astype(np.int64) @ weight.astype(np.int64), weight, bias, offset_x, -1, -1)


def _settle(acc: Array, columns: Array, bias: Array | None, offset_x: int, source: int, target: int) -> Int32:
    """Add the folded bias to ``acc`` (channels last), saturate, move the channel axis from ``source`` to ``target``."""
    folded = (0 if bias is None else bias.astype(np.int64)) - offset_x * columns.sum(axis=0, dtype=np.int64)
    return np.moveaxis(np.clip(acc + folded, -(2**31), 2**31 - 1).astype(np.int32), source, target)
