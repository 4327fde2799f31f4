"""Exact int8 depthwise convolution: taps as fused multiply-adds over rows with width and channels merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from amctc.kernels.accumulator import INT32_MAX, Accumulator, Array, Int8, Int32, Int64, check_activations
from amctc.kernels.tiles import ChannelTiles, TileStep
from amctc.kernels.windows import Window, channels_first, channels_last, pad_for
from amctc.numerics.exact_gemm import EXACT_FLOAT32

_Place: TypeAlias = tuple[int, slice]
"""An image of a batch and a range of its output rows."""

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


class DepthwiseConv(Accumulator):
    """Convolution with one input channel per group, over 1 or 2 spatial axes."""

    def __init__(self, weight: Int8, folded: Int64, window: Window, group: int, offset_x: int, wrap: bool) -> None:
        self._lifted = weight.ndim == 3  # 1-d: a 2-d convolution of height 1
        if self._lifted:
            (before, after), lift = window.pads, (1,)
            window = Window(lift + window.kernel, lift + window.strides, (0, before, 0, after), lift + window.dilations)
        taps = weight.reshape(-1, *window.kernel)
        bound = np.abs(folded) + 128 * np.abs(taps.astype(np.int64)).sum(axis=(1, 2))
        super().__init__(bool((bound > INT32_MAX).any()), wrap)
        self.is_exact_in_float32 = bool((bound <= EXACT_FLOAT32).all())
        self._sums, self._bias, self._window = DepthwiseSums(taps, window), folded, window
        self._channels, self._multiplier, self._offset_x = group, len(taps) // group, offset_x

    def __str__(self) -> str:
        return f"depthwise taps, {self._sums.dtype}"

    def __call__(self, x: Int8) -> Int32:
        """int8 (N, I, spatial…) -> int32 (N, O, out…), channels-last in memory."""

        def finish(sums: Array, bias: Array, targets: Sequence[Array], place: _Place) -> None:
            self._settle(sums, bias, targets[0])

        (acc,) = self._filled(x, (np.int32,), finish)
        return acc

    def finished(self, x: Int8, step: TileStep, beside: Sequence[Array] = ()) -> list[Array]:
        """int8 (N, I, spatial…) -> what ``step`` makes of (N, O, out…)."""
        others = [channels_last(b).reshape(len(b), -1, b.shape[-1] * b.shape[1]) for b in beside]
        tiles: list[ChannelTiles] = []

        def finish(sums: Array, bias: Array, targets: Sequence[Array], place: _Place) -> None:
            if not tiles:  # the first block is the largest
                tiles.append(ChannelTiles(step.function, step.parameters, len(self._bias), sums.size))
            sums += bias
            with np.errstate(all="ignore"):
                tiles[0].fill(
                    [t.reshape(-1) for t in targets], sums.reshape(-1), *(o[place].reshape(-1) for o in others)
                )

        return self._filled(x, step.dtypes, finish)

    def _filled(
        self, x: Int8, dtypes: Sequence[DTypeLike], finish: Callable[[Array, Array, Sequence[Array], _Place], None]
    ) -> list[Array]:  # fmt: skip
        """The results: ``finish(sums, bias, targets, place)`` is called for each block of rows of an image."""
        if self._lifted:
            x = x[:, :, None]
        check_activations(x, self._channels, self._window)
        height, width = out = self._window.output_shape(x.shape[2:])
        images = channels_last(pad_for(x, self._window, self._offset_x))
        taps = self._sums.spread_taps(width)
        bias = np.tile(self._bias.astype(self._sums.dtype) if self.is_exact_in_float32 else self._bias, width)
        filled = [np.empty((len(x), height, width * len(self._bias)), dtype) for dtype in dtypes]
        for number, image in enumerate(images):
            phases = self._sums.phases(np.repeat(image, self._multiplier, axis=-1) if self._multiplier > 1 else image)
            for rows in self._sums.row_blocks((height, width)):
                place = number, rows
                finish(self._sums.sums(phases, taps, rows), bias, [f[place] for f in filled], place)
        results = [channels_first(f.reshape(len(x), *out, len(self._bias))) for f in filled]
        return [r[:, :, 0] for r in results] if self._lifted else results

    def _settle(self, sums: Array, bias: Array, target: Int32) -> None:
        """``target`` = sums + bias, brought into int32 where the weights do not prove that it fits (N7)."""
        if self.is_exact_in_float32:  # adds and converts in one pass
            np.add(sums, bias, out=target, casting="unsafe")
            return
        if not self.overflow_possible:
            target[...] = sums
            target += bias.astype(np.int32)
            return
        target[...] = self.settled(sums.astype(np.int64) + bias)
