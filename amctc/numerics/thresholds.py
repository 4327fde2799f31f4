"""Clipping ranges chosen from a histogram: what calibration hands to :func:`affine_parameters`.

Every method maps a :class:`Histogram` to ``(low, high)``, inside the observed range widened to hold 0. For the error
the values of a bin are represented by its centre, moved inside the observed range: the bins that hold the extremes
then sit at the extremes when these are atoms (the 6.0 of ReLU6), not half a bin outside. Exact zeros are kept apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from amctc.errors import InputError
from amctc.numerics._arrays import Float64Array
from amctc.numerics.affine import affine_parameter_arrays, storage_range
from amctc.numerics.entropy import entropy
from amctc.numerics.hfmg import hfmg_from_histogram
from amctc.numerics.histogram import Histogram
from amctc.numerics.ifmr import ifmr_from_histogram

Range: TypeAlias = tuple[float, float]

_COARSE = 2.0 ** (-0.5 * np.arange(17.0))
"""Fractions 1 … 2**-8 of an end: at 2**-8 an 8-bit grid over the full range would have one step left for the data."""

_FINE = 2.0 ** (0.5 * np.linspace(-1.0, 1.0, 9))
"""Factors that divide the gap to the coarse neighbours by four; every further zoom takes their fourth roots."""

_CELLS = 1 << 14  # midpoints evaluated at a time: arrays of 128 KB stay in L2 cache
_ZOOMS = 3  # final spacing 2**(0.5 / 64), about half a percent


def min_max(h: Histogram) -> Range:
    """The observed extremes: no clipping. Raises InputError for an empty histogram."""
    if not h.count:
        raise InputError(
            "no range can be chosen: no data was observed", remedy="run calibration with at least one sample"
        )
    return h.low, h.high


def percentile(h: Histogram, p: float = 99.99) -> Range:
    """The range that leaves (100 - p) % of the values outside at either end, never beyond the extremes.

    ``p`` is in (50, 100]; 100 is :func:`min_max`. Within a bin the values count as evenly spread.
    Raises InputError for an empty histogram or another ``p``.
    """
    low, high = min_max(h)
    if not 50.0 < p <= 100.0:
        raise InputError(f"a percentile is in (50, 100], not {p}")
    if p == 100.0:
        return low, high
    tail = h.count * (1.0 - p / 100.0)
    # Inside the bin of an extreme the even spread reaches past it, so both quantiles are clipped to both extremes.
    ends = np.clip([_quantile(h, tail, from_above=False), _quantile(h, tail, from_above=True)], low, high)
    return float(ends[0]), float(ends[1])


def _quantile(h: Histogram, tail: float, *, from_above: bool) -> float:
    """The point with ``tail`` values beyond it, counted from one end."""
    counts = h.counts[::-1] if from_above else h.counts
    cumulative = np.cumsum(counts)
    at = int(np.searchsorted(cumulative, tail, side="right"))
    inside = (tail - (cumulative[at] - counts[at])) / counts[at]
    distance = (at + inside - h.half_bins) * h.width
    return float(-distance if from_above else distance)


def mse(h: Histogram, *, bits: int = 8, symmetric: bool = False) -> Range:
    """The range whose quantizer (:func:`affine_parameters`) has the least mean squared error, clipping included.

    Both ends are searched, coarse to fine, as fractions of the observed ones (of a range widened to hold 0). The full
    range is always a candidate, so the loss is never above that of :func:`min_max`. With ``symmetric`` the observed
    range is clipped to [-t, t] and t is searched. Where the grid has more codes than half the histogram has bins, the
    histogram cannot rank ranges and the full one is returned.

    Raises InputError for an empty histogram or unsupported ``bits``.
    """
    low, high = min_max(h)
    storage_range(bits)
    if (1 << bits) > h.half_bins:
        return low, high
    low, high = min(low, 0.0), max(high, 0.0)
    loss = QuantizationLoss(h, bits=bits, symmetric=symmetric)
    best = 1.0, 1.0
    least = loss(np.array([low]), np.array([high]))[0]
    search_low, search_high = low < 0.0 and not symmetric, high > 0.0 or symmetric
    for zoom in range(_ZOOMS + 1):
        around = _COARSE if zoom == 0 else _FINE ** (4.0 ** (1 - zoom))
        centre = (1.0, 1.0) if zoom == 0 else best
        lows = np.minimum(around * centre[0], 1.0) if search_low else np.ones(1)
        highs = np.minimum(around * centre[1], 1.0) if search_high else np.ones(1)
        fractions = np.repeat(lows, highs.size), np.tile(highs, lows.size)
        losses = loss(*_fraction_of(low, high, *fractions, symmetric))
        at = int(losses.argmin())
        if losses[at] < least:
            least, best = losses[at], (float(fractions[0][at]), float(fractions[1][at]))
    chosen = _fraction_of(low, high, np.array([best[0]]), np.array([best[1]]), symmetric)
    return float(chosen[0][0]), float(chosen[1][0])


def _fraction_of(
    low: float, high: float, of_low: Float64Array, of_high: Float64Array, symmetric: bool
) -> tuple[Float64Array, Float64Array]:
    """Candidate ranges: a fraction of either end; symmetric: [low, high] clipped to ± ``of_high`` of the larger."""
    if not symmetric:
        return low * of_low, high * of_high
    bound = max(-low, high) * of_high
    return np.maximum(low, -bound), np.minimum(high, bound)


class QuantizationLoss:
    """Mean squared error of quantize-dequantize over a histogram, for many candidate ranges at once.

    A value x in the Voronoi cell of the level v costs (x - v)**2, so a cell costs S2 - 2·v·S1 + v**2·S0 with S0, S1,
    S2 the sums of 1, x, x**2 over it. Levels are a step s apart and m_b is the midpoint of v_b and v_{b+1}; summing
    the cells by parts (v_{b+1} - v_b = s, v_{b+1}**2 - v_b**2 = 2·s·m_b) leaves, with V the last level and T the
    totals,

        loss = T2 - 2·V·T1 + V**2·T0 - 2·s · Σ_b (m_b·S0(x < m_b) - S1(x < m_b)),

    so each candidate costs one look-up in two prefix sums per midpoint. Values beyond the ends belong to
    the outermost cells: their clipping error is included. A midpoint's bin follows from its value, and each bin has one
    point that stands for it; 0 has one too, which lies before every midpoint of its bin, as no midpoint is 0.
    """

    def __init__(self, h: Histogram, *, bits: int, symmetric: bool) -> None:
        self._bits, self._symmetric = bits, symmetric
        values, weights = representatives(h)
        self._count_below = np.concatenate(([0.0], np.cumsum(weights)))
        self._sum_below = np.concatenate(([0.0], np.cumsum(weights * values)))
        self._energy = float((weights * values * values).sum())
        # Of each bin the points before it and the one in it, or infinity; also of what lies before and after all bins.
        self._per_width, self._first = 1.0 / h.width, h.half_bins + 1
        points = values[values != 0.0] if h.zeros else values
        self._own = np.full(h.counts.size + 2, np.inf)
        self._own[np.floor(points * self._per_width).astype(np.intp) + self._first] = points
        self._before = np.concatenate(([0], np.cumsum(self._own < np.inf)[:-1]))
        self._before[self._first :] += h.zeros > 0

    def __call__(self, low: Float64Array, high: Float64Array) -> Float64Array:
        """The loss for each pair of ``low`` [P] and ``high`` [P], in the square of the tensor's unit."""
        first, last = storage_range(self._bits)
        scale, zero_point = affine_parameter_arrays(low, high, bits=self._bits, symmetric=self._symmetric)
        step = scale.astype(np.float64)
        middles, fold, cells = np.arange(first, last) + 0.5, np.empty(step.size), _Cells(step.size, last - first)
        for part in (slice(at, at + cells.rows) for at in range(0, step.size, cells.rows)):
            midpoints = np.subtract(middles, zero_point[part, None], out=cells.midpoints[: step[part].size])
            midpoints *= step[part, None]
            fold[part] = self._fold(midpoints, cells)
        top, count = (last - zero_point) * step, self._count_below[-1]
        total = self._energy - 2.0 * top * self._sum_below[-1] + top * top * count - 2.0 * step * fold
        return np.asarray(total / count, dtype=np.float64)

    def _fold(self, midpoints: Float64Array, cells: _Cells) -> Float64Array:
        """Σ_b (m_b·S0(x < m_b) - S1(x < m_b)) for each row."""
        size = len(midpoints)
        bins, below, (counts, sums) = cells.bins[:size], cells.below[:size], cells.sums[:, :size]
        position = np.multiply(midpoints, self._per_width, out=sums)
        np.floor(position, out=position)
        position += self._first
        np.maximum(position, 0.0, out=position)
        np.copyto(bins, np.minimum(position, self._own.size - 1, out=position), casting="unsafe")
        # All indices are in range; mode="clip" says so to NumPy, which would write to a copy of its own first.
        self._before.take(bins, out=below, mode="clip")
        below += midpoints > self._own.take(bins, out=counts, mode="clip")
        self._count_below.take(below, out=counts, mode="clip")
        counts *= midpoints
        counts -= self._sum_below.take(below, out=sums, mode="clip")
        return np.asarray(counts.sum(axis=1))


class _Cells:
    """Memory for the midpoints of some candidates at a time: to ask for it anew costs as much as the sums."""

    def __init__(self, candidates: int, midpoints: int) -> None:
        self.rows = max(1, min(candidates, _CELLS // max(1, midpoints)))
        self.midpoints, self.sums = np.empty((self.rows, midpoints)), np.empty((2, self.rows, midpoints))
        self.bins, self.below = np.empty((self.rows, midpoints), np.int32), np.empty((self.rows, midpoints), np.int64)


def representatives(h: Histogram) -> tuple[Float64Array, Float64Array]:
    """Points and weights, float64, sorted, that stand for the data: bin centres inside the observed range, and 0."""
    centres = np.clip((h.edges[:-1] + h.edges[1:]) / 2, h.low, h.high)
    weights = h.counts.astype(np.float64)
    weights[h.half_bins] -= h.zeros
    centres, weights = np.insert(centres, h.half_bins, 0.0), np.insert(weights, h.half_bins, float(h.zeros))
    occupied = weights > 0.0
    return centres[occupied], weights[occupied]


METHODS: Mapping[str, Callable[..., Range]] = MappingProxyType({
    "min-max": min_max, "percentile": percentile, "mse": mse, "entropy": entropy, "ifmr": ifmr_from_histogram,
    "hfmg": hfmg_from_histogram,
})  # fmt: skip
"""Threshold methods by the name a pipeline uses; further options are keyword arguments of the functions.

"ifmr" alone may reach beyond the observed range, by its largest ratio.
"""
