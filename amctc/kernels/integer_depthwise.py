"""Exact int8 depthwise convolution: taps as fused multiply-adds over rows with width and channels merged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from amctc.kernels.windows import Window

Array = NDArray[Any]

ROW_BYTES = 256 << 10  # of output per einsum call; with the taps' inputs it stays in a 1 MiB L2 cache


class DepthwiseSums:
    """Σ w · q for ``group`` = channels, one output channel per input channel, 2-d, without bias.

    ``weight`` is int8 (C, kh, kw). Every product and sum is an integer below 128 · Σ|w| ≤ 2^24 in float32, or, for a
    kernel so large that this fails, below 2^53 in float64: exact in any order.
    """

    def __init__(self, weight: NDArray[np.int8], window: Window) -> None:
        bound = 128 * np.abs(weight.astype(np.int64)).sum(axis=(1, 2)).max(initial=0)
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if bound <= 1 << 24 else np.float64)
        self._window = window
        self._taps = np.ascontiguousarray(weight.transpose(1, 2, 0)).astype(self.dtype)  # (kh, kw, C)

    def row_blocks(self, out: tuple[int, int]) -> list[slice]:
        """Ranges of output rows that one call should handle."""
        rows = max(1, ROW_BYTES // (out[1] * self._taps.shape[-1] * self.dtype.itemsize or 1))
        return [slice(i, min(i + rows, out[0])) for i in range(0, out[0], rows)]

    def phases(self, padded: Array) -> Array:
        """One padded image (H, W, C) in the working type, columns split by their residue modulo the stride.

        Shape (H, stride, ceil(W / stride), C): what a tap meets along a row is then one contiguous run.
        """
        height, width, channels = padded.shape
        stride = self._window.strides[1]
        split = np.zeros((height, stride, -(-width // stride), channels), self.dtype)
        for phase in range(stride):
            columns = padded[:, phase::stride]
            split[:, phase, : columns.shape[1]] = columns
        return split

    def spread_taps(self, width: int) -> Array:
        """The taps repeated for each of ``width`` output columns: (kh, kw, width · C)."""
        return np.tile(self._taps, (1, 1, width))

    def sums(self, phases: Array, taps: Array, rows: slice) -> Array:
        """Σ w · q for a range of output rows: (rows, width · C), exact, in the working type."""
        (kernel_h, kernel_w), (stride_h, stride_w) = self._window.kernel, self._window.strides
        dilation_h, dilation_w = self._window.dilations
        step_h, _, step_w, step_c = phases.strides
        # Taps j and j + period read the same phase; their runs start reach columns apart.
        common = math.gcd(dilation_w, stride_w)
        period, reach = stride_w // common, dilation_w // common
        total: Array | None = None
        for first in range(min(period, kernel_w)):
            weights = taps[:, first::period]
            phase, start = first * dilation_w % stride_w, first * dilation_w // stride_w
            runs = as_strided(
                phases[rows.start * stride_h :, phase, start:],
                (rows.stop - rows.start, kernel_h, weights.shape[1], taps.shape[-1]),
                (step_h * stride_h, step_h * dilation_h, step_w * reach, step_c),
                writeable=False,
            )
            part = np.einsum("rijx,ijx->rx", runs, weights)
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None  # a kernel has at least one tap
        return total
