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

_ROUNDING = 1e-9  # far above that of sums of some thousand terms, far below what tells candidates apart
_CELLS = 1 << 13  # levels evaluated at a time: arrays of 64 KB stay in L2 cache


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
    at = Divergences(h, bits).least(lower[tried], upper[tried])
    bound = float(reach[tried][at]) * h.width
    return max(h.low, -bound), min(h.high, bound)


class Divergences:
    """KL divergences, in nats, of quantizing bins ``lower`` … ``upper`` - 1 of a histogram to 2**bits levels.

    See :func:`entropy` for the definition. A range that holds no value has an infinite one. Arrays are [candidates].
    """

    def __init__(self, h: Histogram, bits: int) -> None:
        counts = h.counts.astype(np.float64)
        counts[h.half_bins] -= h.zeros
        self._counts, self._total, self._levels = counts, float(counts.sum()), 1 << bits
        self._upto, self._used, self._information = _before(counts), _before(counts > 0.0), _before(_x_log_x(counts))
        self._cells = _Cells(self._upto, self._used, bits)

    def __call__(self, lower: Int64Array, upper: Int64Array) -> Float64Array:
        """The divergences themselves."""
        if not self._total:
            return np.zeros(lower.size)
        inside, outside, ends = self._parts(lower, upper)
        crossed, cells = np.empty(lower.size), self._cells
        for at in range(0, lower.size, cells.rows):
            part = slice(at, at + cells.rows)
            crossed[part] = cells.cross_entropy(lower[part], upper[part], inside[part], outside[:, part], ends[:, part])
        result = self._information[upper] - self._information[lower]
        result += (_x_log_x(ends + outside) - _x_log_x(ends)).sum(axis=0)
        result = (result - crossed) / self._total - np.log(self._total)
        return np.where(inside > 0.0, result, np.inf)

    def bounds(self, lower: Int64Array, upper: Int64Array) -> Float64Array:
        """What the divergences are at least: those between the shares of the first bin, of the last and of all others.

        By the log sum inequality (Cover and Thomas, *Elements of Information Theory*, theorem 2.7.1) none of them is
        more than that of the bins. What a range clips is in its end bins, so this is most of what clipping costs.
        """
        if not self._total:
            return np.zeros(lower.size)
        inside, outside, ends = self._parts(lower, upper)
        bins, filled = upper - lower, (ends == 0.0) & (outside > 0.0)
        in_use = self._used[upper] - self._used[lower] + filled.sum(axis=0)
        first = np.stack([lower, lower + -(-bins * (self._levels - 1) // self._levels)])  # bins of the end levels
        after = np.stack([lower + -(-bins // self._levels), upper])
        used = self._used[after] - self._used[first] + filled
        with np.errstate(invalid="ignore", divide="ignore"):
            q = (1.0 - SMOOTHING) * (self._upto[after] - self._upto[first]) / (used * inside) + SMOOTHING / in_use
            p = (ends + outside) / self._total
            shares = np.stack([p, q])
            shares[:, p == 0.0] = 0.0
            p, q = np.concatenate([shares, 1.0 - shares.sum(axis=1, keepdims=True)], axis=1)
            terms = np.where(p > _ROUNDING, p * np.log(p / q), 0.0)
        return np.where(inside > 0.0, terms.sum(axis=0), np.inf)

    def least(self, lower: Int64Array, upper: Int64Array) -> int:
        """Which candidate has the least divergence, the first of equal ones.

        Candidates are tried in the order of their bounds, until these exceed the least divergence found.
        """
        bounds, found = self.bounds(lower, upper), np.full(lower.size, np.inf)
        order = np.argsort(bounds, kind="stable")
        for at in range(0, lower.size, self._cells.rows):
            tried = order[at : at + self._cells.rows]
            if bounds[tried[0]] > found.min() + _ROUNDING:
                break
            found[tried] = self(lower[tried], upper[tried])
        return int(found.argmin())

    def _parts(self, lower: Int64Array, upper: Int64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Counts in the range, outside it on either side, and in its first and last bin."""
        outside = np.stack([self._upto[lower], self._total - self._upto[upper]])
        ends = np.stack([self._counts[lower], self._counts[upper - 1]])
        return self._upto[upper] - self._upto[lower], outside, ends


class _Cells:
    """Levels of some candidates at a time, in memory that is used again.

    ``upto``, ``used``: sums of c and of [c > 0] over the bins before each edge.
    """

    def __init__(self, upto: Float64Array, used: Float64Array, bits: int) -> None:
        self._upto, self._used, self._bits = upto, used, bits
        self.rows = max(1, _CELLS >> bits)
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
        at = sums.take(edges, out=self._sums[: len(edges)], mode="clip")  # in range: not to be checked
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
