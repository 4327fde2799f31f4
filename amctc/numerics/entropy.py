"""The clipping range that keeps the most information: a search for the least Kullback–Leibler divergence.

Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017, with the smoothing and the two-sided form stated here.
"""

from __future__ import annotations

import numpy as np

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, Float64Array, Int64Array
from amctc.numerics.histogram import Histogram
from amctc.numerics.linear import storage_range

SMOOTHING = 1e-4
"""Share of the quantized distribution spread over the bins in use: a bin the levels miss keeps log(p/q) finite."""

_CELLS = 1 << 14  # levels evaluated at a time: arrays of 128 KB stay in L2 cache


def entropy(h: Histogram, *, bits: int = 8, symmetric: bool = False) -> tuple[float, float]:
    """The range ``(low, high)`` whose quantized distribution diverges least from the observed one.

    Candidates are t = i·width for every i up to the one that covers the data. Each takes the bins of [-t, t]; without
    ``symmetric`` only those between the ends of the observed range, widened to hold 0, so that one-sided data spend
    all levels on their side. As in the source a candidate has at least as many bins as there are levels, 2**bits: in
    fewer, every bin has a level of its own and the divergence no longer says anything about the quantizer. Observed
    ranges of fewer bins are returned as they are. The result is [-t, t] clipped to the observed range.

    Let c be the counts without exact zeros (zero is a level of every grid), T their total, n the bins of a candidate.

    * P: the counts in the range, those outside added to its first and last bin, divided by T.
    * Q: bin j belongs to level ⌊j·2**bits/n⌋. The counts in the range, without those outside, are averaged over the
      bins of each level where P > 0 and divided by their sum.
    * Q is smoothed to (1 - ε)·Q + ε/m on the m bins where P > 0, ε = :data:`SMOOTHING`.
    * The divergence is Σ P·log(P/Q), in nats. Of equal ones the widest range wins.

    An outlier therefore leaves a range of 2**bits bins at least; one thousands of times beyond everything else leaves
    that in one or two bins, which no range tells apart: a limit of the histogram.

    Within a level Q is constant, so a candidate costs one logarithm per level and look-ups in three prefix sums, over
    c, over [c > 0] and over c·log c. Raises InputError for an empty histogram or unsupported ``bits``.
    """
    if not h.count:
        raise InputError("no range can be chosen: no data was observed", remedy="run calibration first")
    first, last = storage_range(bits)
    start, stop = _observed_bins(h)
    widest = max(h.half_bins - start, stop - h.half_bins)
    reach = np.arange(widest, 0, -1)
    lower, upper = h.half_bins - reach, h.half_bins + reach
    if not symmetric:
        lower, upper = np.maximum(lower, start), np.minimum(upper, stop)
    tried = upper - lower > last - first
    if not tried[0]:
        return h.low, h.high
    divergence = divergences(h, lower[tried], upper[tried], bits)
    bound = float(reach[tried][int(divergence.argmin())]) * h.width
    return max(h.low, -bound), min(h.high, bound)


def divergences(h: Histogram, lower: Int64Array, upper: Int64Array, bits: int) -> Float64Array:
    """KL divergence, in nats, of quantizing bins ``lower`` … ``upper`` - 1 to 2**bits levels; arrays [candidates].

    See :func:`entropy` for the definition. A range that holds no value has an infinite one.
    """
    counts = h.counts.astype(np.float64)
    counts[h.half_bins] -= h.zeros
    total, upto, information = float(counts.sum()), _before(counts), _before(_x_log_x(counts))
    if not total:
        return np.zeros(lower.size)
    inside = upto[upper] - upto[lower]
    outside = np.stack([upto[lower], total - upto[upper]])
    ends = np.stack([counts[lower], counts[upper - 1]])
    crossed, cells = np.empty(lower.size), _Cells(upto, _before(counts > 0.0), bits, lower.size)
    for at in range(0, lower.size, cells.rows):
        part = slice(at, at + cells.rows)
        crossed[part] = cells.cross_entropy(lower[part], upper[part], inside[part], outside[:, part], ends[:, part])
    result = information[upper] - information[lower] + (_x_log_x(ends + outside) - _x_log_x(ends)).sum(axis=0)
    result = (result - crossed) / total - np.log(total)
    return np.where(inside > 0.0, result, np.inf)


class _Cells:
    """Levels of some candidates at a time, in memory that is used again.

    ``upto``, ``used``: sums of c and of [c > 0] over the bins before each edge.
    """

    def __init__(self, upto: Float64Array, used: Float64Array, bits: int, candidates: int) -> None:
        self._upto, self._used, self._bits = upto, used, bits
        self.rows = max(1, min(_CELLS >> bits, candidates))
        levels = 1 << bits
        self._edges, self._sums = np.empty((self.rows, levels + 1), np.int64), np.empty((self.rows, levels + 1))
        self._levels, self._cells = np.arange(levels + 1), np.empty((3, self.rows, levels))

    def cross_entropy(
        self, lower: Int64Array, upper: Int64Array, inside: Float64Array, outside: Float64Array, ends: Float64Array
    ) -> Float64Array:
        """Σ P·log Q of each candidate, times T."""
        # Level g holds the bins from ceil(g·n / 2**bits); an end bin that only outsiders fill is in use as well.
        edges = np.multiply(self._levels, (upper - lower)[:, None], out=self._edges[: lower.size])
        edges += self._levels[-1] - 1
        edges >>= self._bits
        edges += lower[:, None]
        mass, used, share = self._cells[:, : lower.size]
        self._between(self._upto, edges, mass)
        self._between(self._used, edges, used)
        used[:, [0, -1]] += ((ends == 0.0) & (outside > 0.0)).T
        in_use = used.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            np.multiply(mass, 1.0 - SMOOTHING, out=share)
            share /= np.multiply(used, inside[:, None], out=used)
            share += (SMOOTHING / in_use)[:, None]
            mass[:, [0, -1]] += outside.T
            crossed = np.log(share, out=share)
            crossed *= mass
        np.copyto(crossed, 0.0, where=mass == 0.0)  # where nothing lies there is no logarithm either
        return np.asarray(crossed.sum(axis=1))

    def _between(self, sums: Float64Array, edges: Int64Array, out: Float64Array) -> None:
        """The sums over the bins between neighbouring ``edges``."""
        at = np.take(sums, edges, out=self._sums[: len(edges)], mode="clip")  # in range: not to be checked
        np.subtract(at[:, 1:], at[:, :-1], out=out)


def _observed_bins(h: Histogram) -> tuple[int, int]:
    """The first bin of the observed range, widened to hold 0, and the one after its last."""
    start = int(np.floor(min(h.low, 0.0) / h.width)) + h.half_bins
    stop = int(np.floor(max(h.high, 0.0) / h.width)) + h.half_bins + 1
    return min(start, h.half_bins - 1) if h.low < 0.0 else h.half_bins, stop


def _before(values: AnyArray) -> Float64Array:
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _x_log_x(x: Float64Array) -> Float64Array:
    return x * np.log(np.where(x > 0.0, x, 1.0))
