"""Exact int8 convolution of 3 by 3 by Winograd's minimal filtering: 16 multiplications for 4 results instead of 36.

Winograd, *Arithmetic Complexity of Computations* (1980); Lavin and Gray, *Fast Algorithms for Convolutional Neural
Networks* (2016), F(2×2, 3×3): y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for tiles d of 4 by 4 inputs, the products summed over
channels as 16 matrix products. Of integers g and d every number on the way is a multiple of 1, 1/2 or 1/4.

**Proof.** Each is also a linear form of the inputs of its tile, whose coefficients the weight tells. With |d| ≤ 128 its
magnitude is at most 128 · Σ|coefficient|, and so is that of every partial sum over channels, in whatever order. Where
that is at most 2^24 times the unit, float32 holds all of them, and each operation returns its exact result, as in
:mod:`amctc.numerics.exact_gemm`. :func:`is_exact` asks this of every form that :class:`WinogradConv` computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from amctc.kernels.accumulator import Accumulator, Array, Int8, Int32, Int64, check_activations
from amctc.kernels.tiles import ChannelTiles, TileStep
from amctc.kernels.windows import Window, blocks, channels_first, channels_last, pad_axes
from amctc.numerics.exact_gemm import EXACT_FLOAT32, INT8_MAGNITUDE

Float32 = NDArray[np.float32]
_Rows: TypeAlias = tuple[slice, slice]
"""Images of a batch and rows of theirs: several images, or rows of one."""

DATA = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)  # Bᵀ
WEIGHT = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)  # G
FORMS = np.array(
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1],  # the products m0 to m3 along one axis
     [0, 1, 1, 0], [0, 1, -1, 0],  # m1 + m2, m1 − m2
     [1, 1, 1, 0], [0, 1, -1, -1]], np.float32,  # (m1 + m2) + m0, (m1 − m2) − m3: the rows of Aᵀ
)  # fmt: skip
PRODUCTS, RESULTS = range(4), (6, 7)
UNITS = (1, 0.5, 0.5, 1, 1, 1, 1, 1)
"""What each form is a multiple of: m1 and m2 are d · (g0 ± g1 + g2) / 2, and their sum and difference whole again."""

LEAST_CHANNELS = 48
"""Below, the transforms cost more than the multiplications that they save (measured at 56 by 56)."""

LEAST_ROWS = 36
"""Tiles that make a matrix product worth packing its weight for."""

MOST_WORK = 0.6
"""Of the multiplications, what must be left of them: tiles that reach over the border save less."""

BLOCK_TILES = 196
"""Tiles in a block: enough for products that pack the weight once each, and few, for the caches (measured)."""


def is_exact(weight: Int8) -> bool:
    """Whether all numbers on the way are exact in float32 for any int8 data; ``weight`` is (O, I, 3, 3)."""
    flat = weight.astype(np.float32).reshape(-1, 9).T
    along = np.einsum("fb,bj,bk->fjk", FORMS, DATA, WEIGHT)  # coefficient of d[j] · g[k]
    computed = [(a, b) for a in PRODUCTS for b in range(len(FORMS))]
    computed += [(a, b) for a in range(len(PRODUCTS), len(FORMS)) for b in RESULTS]
    for a, b in computed:
        of_inputs = np.einsum("ik,jl->ijkl", along[a], along[b]).reshape(16, 9)
        coefficients = np.abs(of_inputs[of_inputs.any(axis=1)] @ flat).sum(axis=0, dtype=np.float64)
        largest = INT8_MAGNITUDE * coefficients.reshape(weight.shape[:2]).sum(axis=1)
        if (largest > EXACT_FLOAT32 * UNITS[a] * UNITS[b]).any():
            return False
    return True


def pays(weight: Int8, window: Window, group: int) -> bool:
    """Whether a layer is one of those that this way is for: dense, 3 by 3, each position, many channels."""
    square = window.kernel == (3, 3) and window.strides == window.dilations == (1, 1)
    return square and group == 1 and min(weight.shape[:2]) >= LEAST_CHANNELS


class WinogradConv(Accumulator):
    """A convolution that :func:`pays` and :func:`is_exact`; ``direct`` is the same, for data of few tiles."""

    is_exact_in_float32 = True

    def __init__(self, weight: Int8, folded: Int64, window: Window, offset_x: int, direct: Accumulator) -> None:
        super().__init__(overflow_possible=False)
        self._direct, self._window, self._offset_x = direct, window, offset_x
        self._bias = folded.astype(np.float32)
        # Columns of tiles outermost, then rows: (4, 4, I, O).
        transformed = np.einsum("bl,ak,oikl->baio", WEIGHT, WEIGHT, weight.astype(np.float32), optimize=True)
        self._weight = np.ascontiguousarray(transformed)

    def __str__(self) -> str:
        return f"Winograd's tiles of 4 by 4, of small data {self._direct}"

    def __call__(self, x: Int8) -> Int32:
        """int8 (N, I, H, W) -> int32 (N, O, H′, W′), channels-last in memory."""
        if not self._worthwhile(x):
            return self._direct(x)
        (acc,) = self._outs(x, (np.int32,))
        for rows, sums in self._sums(x):
            acc[rows] = sums  # integers, so the cast loses nothing
        return channels_first(acc)

    def finished(self, x: Int8, step: TileStep, beside: Sequence[Array] = ()) -> list[Array]:
        """int8 (N, I, H, W) -> what ``step`` makes of (N, O, H′, W′)."""
        if not self._worthwhile(x):
            return self._direct.finished(x, step, beside)
        outs, others = self._outs(x, step.dtypes), [channels_last(b) for b in beside]
        tiles = ChannelTiles(step.function, step.parameters, len(self._bias), outs[0].size)
        for rows, sums in self._sums(x):
            targets = [out[rows].reshape(-1) for out in outs]  # views: rows are whole
            with np.errstate(all="ignore"):
                tiles.fill(targets, sums.reshape(-1), *(other[rows].reshape(-1) for other in others))
        return [channels_first(out) for out in outs]

    def _worthwhile(self, x: Int8) -> bool:
        check_activations(x, self._weight.shape[2], self._window)
        height, width = self._window.output_shape(x.shape[2:])
        tiles = -(-height // 2) * -(-width // 2)
        return len(x) * tiles >= LEAST_ROWS and 16 * tiles <= MOST_WORK * 9 * height * width

    def _outs(self, x: Int8, dtypes: Sequence[DTypeLike]) -> list[Array]:
        shape = (len(x), *self._window.output_shape(x.shape[2:]), len(self._bias))
        return [np.empty(shape, dtype) for dtype in dtypes]

    def _sums(self, x: Int8) -> Iterator[tuple[_Rows, Float32]]:
        """Blocks of whole output rows and the accumulators there, (n, rows, W′, O), which may be overwritten."""
        height, width = self._window.output_shape(x.shape[2:])
        down, across = -(-height // 2), -(-width // 2)
        begins = self._window.begins
        reach = zip((down, across), x.shape[2:], begins, strict=True)
        ends = [2 * tiles + 2 - size - begin for tiles, size, begin in reach]
        padded = channels_last(pad_axes(x, begins, ends, self._offset_x))
        for images, rows in blocks((len(x), down), -(-BLOCK_TILES // across)):
            top, bottom = 2 * rows.start, 2 * rows.stop
            data = padded[images, top : bottom + 2]
            tiles = _transformed(data).reshape(4, 4, -1, data.shape[-1])
            results = _results(np.matmul(tiles, self._weight)).reshape(2, 2, len(data), -1, across, len(self._bias))
            results = results.transpose(2, 3, 1, 4, 0, 5)  # images, tile rows, rows, tile columns, columns, outputs
            sums = np.empty((len(data), bottom - top, 2 * across, len(self._bias)), np.float32)
            np.add(results, self._bias, out=sums.reshape(results.shape))
            bottom = min(bottom, height)
            yield (images, slice(top, bottom)), np.ascontiguousarray(sums[:, : bottom - top, :width])


def _transformed(data: Int8) -> Float32:
    """Bᵀ d B of images (n, 2 r + 2, 2 c + 2, I): (4, 4, n, r, c, I), columns outermost, then rows.

    Columns are split into even and odd ones first: what meets along a row is then one contiguous run.
    """
    images, height, width, channels = data.shape
    split = data.reshape(images, height, width // 2, 2, channels).transpose(3, 0, 1, 2, 4).astype(np.float32, order="C")
    rows = np.empty((4, 2, images, height // 2 - 1, *split.shape[3:]), np.float32)
    d0, d1, d2, d3 = (split[:, :, i : height - 2 + i : 2] for i in range(4))
    _differences(d0, d1, d2, d3, rows)
    even, odd = rows[:, 0], rows[:, 1]
    out = np.empty((4, 4, *rows.shape[2:4], width // 2 - 1, channels), np.float32)
    _differences(even[..., :-1, :], odd[..., :-1, :], even[..., 1:, :], odd[..., 1:, :], out)
    return out


def _differences(d0: Float32, d1: Float32, d2: Float32, d3: Float32, out: Float32) -> None:
    """Bᵀ d along one axis."""
    np.subtract(d0, d2, out=out[0])
    np.add(d1, d2, out=out[1])
    np.subtract(d2, d1, out=out[2])
    np.subtract(d1, d3, out=out[3])


def _results(products: Float32) -> Float32:
    """Aᵀ m A of products (4, 4, tiles, O): (2, 2, tiles, O), columns outermost, then rows."""
    columns = np.empty((2, *products.shape[1:]), np.float32)
    _combined(products, columns)
    out = np.empty((2, 2, *products.shape[2:]), np.float32)
    for column, results in zip(columns, out, strict=True):
        _combined(column, results)
    return out


def _combined(m: Float32, out: Float32) -> None:
    """Aᵀ m along one axis: (m1 + m2) + m0 and (m1 − m2) − m3, an order in which units stay large."""
    np.add(m[1], m[2], out=out[0])
    out[0] += m[0]
    np.subtract(m[1], m[2], out=out[1])
    out[1] -= m[3]
