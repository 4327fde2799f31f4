"""Counts spread evenly over bins, and the squared error of rounding them to an even grid of levels."""

from __future__ import annotations

import numpy as np

from amctc.numerics._arrays import Float64Array

_CELLS = 1 << 19  # grid midpoints evaluated at a time: temporaries of 4 MB each


class EvenBins:
    """Values known only as counts per bin, taken as evenly spread between the ends of their bin.

    ``lower``, ``upper``, ``counts``: float64 [bins], bins in rising order that do not overlap; a bin whose ends
    coincide is an atom. With c = counts and w = upper - lower the sums over a bin are c, c·(lower + upper)/2 and
    c·(lower² + lower·upper + upper²)/3 of 1, x and x².
    """

    def __init__(self, lower: Float64Array, upper: Float64Array, counts: Float64Array) -> None:
        occupied = counts > 0.0
        self._lower, upper, self._counts = lower[occupied], upper[occupied], counts[occupied]
        self._width = upper - self._lower
        self._upto = np.concatenate(([0.0], np.cumsum(self._counts)))
        self._sum = np.concatenate(([0.0], np.cumsum(self._counts * (self._lower + upper) / 2)))
        squares = self._lower * self._lower + self._lower * upper + upper * upper
        self._energy = float((self._counts * squares).sum() / 3)

    def rounding_loss(self, first: Float64Array, step: Float64Array, levels: Float64Array) -> Float64Array:
        """Σ (x - v(x))² for grids of ``levels`` values ``first + k·step``, v(x) the nearest; all arrays [P].

        Levels are a step s apart, m_k is the midpoint of v_k and v_{k+1}, V the last level, T0, T1, T2 the sums of
        1, x, x². Summing the Voronoi cells by parts leaves T2 - 2·V·T1 + V²·T0 - 2·s · Σ_k Σ_x max(0, m_k - x), and
        the inner sum is a look-up in two prefix sums plus c·(m - lower)²/(2·w) in the bin that holds m.
        """
        result = np.empty(first.size)
        most = int(levels.max(initial=1.0)) - 1
        rows = max(1, _CELLS // max(1, most))
        for start in range(0, first.size, rows):
            part = slice(start, start + rows)
            result[part] = self._loss(first[part], step[part], levels[part], most)
        return result

    def _loss(self, first: Float64Array, step: Float64Array, levels: Float64Array, most: int) -> Float64Array:
        k = np.arange(most)
        folds = self._below(first[:, None] + (k + 0.5) * step[:, None])
        fold = np.where(k < levels[:, None] - 1, folds, 0.0).sum(axis=1)
        top = first + (levels - 1) * step
        return np.asarray(self._energy - 2.0 * top * self._sum[-1] + top * top * self._upto[-1] - 2.0 * step * fold)

    def _below(self, m: Float64Array) -> Float64Array:
        """Σ max(0, m - x) over the values."""
        if not self._counts.size:
            return np.zeros(m.shape)
        # The bin that starts below m, with a bin before the first for points under all values.
        at = np.maximum(np.searchsorted(self._lower, m, side="right") - 1, 0)
        inside = np.clip(m - self._lower[at], 0.0, self._width[at])
        # An atom, and the bins wholly below m, count in full; the rest in proportion.
        full = m >= self._lower[at] + self._width[at]
        whole = at + full
        with np.errstate(invalid="ignore", divide="ignore"):
            partial = self._counts[at] * inside * inside / (2.0 * self._width[at])
        below = m * self._upto[whole] - self._sum[whole] + np.where(full, 0.0, np.nan_to_num(partial))
        return np.asarray(below, np.float64)
