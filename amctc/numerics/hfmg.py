"""HFMG ("histogram, feature-map greedy"): the existing tool's range search that needs no raw activations.

Source: calibration formulas (HFMG), read from ``custom_op/hfmg`` of AMCT. The histogram spans exactly the observed
range, so every growth moves all edges and old counts are re-binned. **The result depends on the order of the
batches**, unlike :class:`amctc.numerics.histogram.Histogram`; it exists to compare with the existing tool.
:func:`hfmg_from_histogram` is the streaming form that does not, on the bins of such a histogram.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError, UnsupportedError
from amctc.numerics._arrays import Float32Array, Float64Array, Int64Array, float32_array, require_finite
from amctc.numerics._even_bins import EvenBins
from amctc.numerics.affine import SMALLEST_SCALE
from amctc.numerics.histogram import Histogram
from amctc.numerics.linear import storage_range

DEFAULT_BINS = 4096
"""Bins of the tool's default; it offers 1024, 2048, 4096 and 8192."""

_STEP_DIVISOR = 100_000  # a shrink takes a side's bins until they hold total / 100000 values
_FEWEST_BINS = 4  # a quarter of the bins stays


def hfmg_from_histogram(h: Histogram, *, bits: int = 8, symmetric: bool = False) -> tuple[float, float]:
    """(low, high) of the same search on the bins of ``h`` that the data span: independent of the order of batches.

    It differs from the tool's by its bins: those of ``h`` between the observed extremes (a quarter of ``h.counts`` or
    more for data on one side of zero that reaches it), and edges that lie up to a bin beyond the extremes; the chosen
    range is clipped to these. On the tool's vectors either end is within a bin of both histograms of the tool's. Data
    within three bins are not searched: their extremes are the range. Raises InputError as
    :meth:`HfmgHistogram.range`.
    """
    occupied = np.flatnonzero(h.counts)
    if not occupied.size:
        return HfmgHistogram.empty().range(bits, symmetric)
    first, end = int(occupied[0]), int(occupied[-1]) + 1
    if end - first < _FEWEST_BINS:
        storage_range(bits)
        return h.low, h.high
    lower, upper = float(h.edges[first]), float(h.edges[end])
    _require_divisible(lower, upper, end - first)
    low, high = HfmgHistogram(h.counts[first:end], lower, upper).range(bits, symmetric)
    return max(low, h.low), min(high, h.high)


@dataclass(frozen=True, eq=False)
class HfmgHistogram:
    """Counts over the observed range; immutable, updated batch by batch.

    ``counts`` int64 [bins], bin i between ``low + i·width`` and ``low + (i + 1)·width``, width = (high - low)/bins in
    float32. ``low``, ``high``: the observed extremes (float32 values), 0 without data.
    """

    counts: Int64Array
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        counts = self.counts.astype(np.int64)
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)

    @classmethod
    def empty(cls, bins: int = DEFAULT_BINS) -> HfmgHistogram:
        """The histogram of no data; InputError for fewer than 4 bins."""
        if bins < _FEWEST_BINS:
            raise InputError(f"HFMG needs at least {_FEWEST_BINS} bins, not {bins}")
        return cls(np.zeros(bins, np.int64))

    @property
    def count(self) -> int:
        """Values seen."""
        return int(self.counts.sum())

    def updated(self, x: npt.ArrayLike) -> HfmgHistogram:
        """This histogram with one more batch (any shape). Order dependent: old counts move in whole bins.

        A bin of the old range that straddles an edge of the new one gives the lower side floor(count · share), the
        share in float32; totals are kept. Raises InputError for NaN and infinite values, and for a range that
        float32 cannot divide into the bins.
        """
        values = float32_array(x).reshape(-1)
        if not values.size:
            return self
        require_finite(values, "calibration data")
        low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
        if self.count:
            low, high = min(low, self.low), max(high, self.high)
        _require_divisible(low, high, self.counts.size)
        counts = _counted(values, low, high, self.counts.size)
        if not self.count:
            return HfmgHistogram(counts, low, high)
        tolerance = float(SMALLEST_SCALE)
        if abs(low - self.low) <= tolerance and abs(high - self.high) <= tolerance:
            return HfmgHistogram(counts + self.counts, low, high)
        return HfmgHistogram(counts + self._rebinned(low, high), low, high)

    def merged(self, other: HfmgHistogram) -> NoReturn:
        """Always :class:`UnsupportedError`: counts that were re-binned say no more where their values were."""
        raise UnsupportedError("HFMG histograms cannot be merged: they depend on the order of all batches",
                               remedy="merge histograms and use hfmg_from_histogram")  # fmt: skip

    def range(self, bits: int = 8, symmetric: bool = False) -> tuple[float, float]:
        """(low, high) with the least L2 error among the greedy shrinks, the first of equal ones.

        The grid of the loss has 2**bits cells over the candidate and values at their centres, also when ``symmetric``
        (only the final scale is symmetric then, so ``symmetric`` does not change the range): behaviour of the tool,
        as are that the full range is never a candidate and that cells narrower than float32 epsilon cost nothing.
        Raises InputError without data and for unsupported ``bits``.
        """
        first, last = storage_range(bits)
        if not self.count:
            raise InputError("no range can be chosen: no data was observed", remedy="run calibration first")
        bins, width = self.counts.size, self._width
        left, right = self._candidates()
        lower = np.arange(bins, dtype=np.float64)
        cell = (right - left + 1) / (last - first + 1)
        levels = np.full(left.size, float(last - first + 1))
        losses = EvenBins(lower, lower + 1, self.counts.astype(np.float64)).rounding_loss(
            left + 0.5 * cell, cell, levels
        )
        at = int(np.where(cell * float(width) < float(SMALLEST_SCALE), 0.0, losses).argmin())
        start = np.float32(self.low)
        return float(start + np.float32(left[at]) * width), float(start + np.float32(right[at] + 1) * width)

    def _candidates(self) -> tuple[Float64Array, Float64Array]:
        """First and last bin (inclusive) after each shrink; the end with more empty bins goes, on a tie the upper."""
        upto = [0, *np.cumsum(self.counts).tolist()]
        bins = self.counts.size
        step = max(math.ceil(upto[-1] / _STEP_DIVISOR), 1)
        left, right, found = 0, bins - 1, []
        while right - left > math.ceil(bins / _FEWEST_BINS):
            from_left = min(bisect_left(upto, upto[left] + step), right)
            from_right = max(bisect_right(upto, upto[right + 1] - step) - 2, from_left)
            if right - from_right >= from_left - left:
                right = from_right
            else:
                left = from_left
            found.append((left, right))
        pairs = np.array(found, np.float64)
        return pairs[:, 0], pairs[:, 1]

    @property
    def _width(self) -> np.float32:
        return (np.float32(self.high) - np.float32(self.low)) / np.float32(self.counts.size)

    def _edges(self) -> Float32Array:
        return np.float32(self.low) + np.arange(self.counts.size + 1, dtype=np.float32) * self._width

    def _rebinned(self, low: float, high: float) -> Int64Array:
        """The counts over ``[low, high]``, which holds the old range; float32 throughout, as the tool does."""
        bins = self.counts.size
        new = HfmgHistogram(self.counts, low, high)
        edges, new_edges = self._edges(), new._edges()
        start, width = np.float32(low), new._width
        position = ((edges - start) // width).astype(np.int64)
        lower, upper = np.minimum(position[:-1], bins - 1), np.minimum(position[1:], bins - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (new_edges[lower + 1] - edges[:-1]) / (edges[1:] - edges[:-1])
        below = (self.counts.astype(np.float32) * np.where(lower == upper, np.float32(0), share)).astype(np.int64)
        counts = np.zeros(bins, np.int64)
        np.add.at(counts, lower, below)
        np.add.at(counts, upper, self.counts - below)
        return counts


def _require_divisible(low: float, high: float, bins: int) -> None:
    if (high - low) * bins > float(np.finfo(np.float32).max):
        raise InputError(f"HFMG cannot divide the range [{low}, {high}] in float32")


def _counted(values: Float32Array, low: float, high: float, bins: int) -> Int64Array:
    """Counts over ``bins`` equal bins of ``[low, high]`` in float32; a single point goes to the middle bin."""
    if low == high:
        counts = np.zeros(bins, np.int64)
        counts[bins // 2] = values.size
        return counts
    start = np.float32(low)
    position = ((values - start) * np.float32(bins) / (np.float32(high) - start)).astype(np.int64)
    return np.bincount(np.minimum(position, bins - 1), minlength=bins).astype(np.int64)
