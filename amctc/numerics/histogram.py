"""Streaming statistics of one tensor: a histogram that can be updated and merged in any order.

The bins divide ``[-2**exponent, 2**exponent)`` evenly, and ``exponent`` is the smallest that covers the data. When
larger data arrives the range doubles as often as needed, and bins merge in pairs.

**Why order does not matter.** Let w = 2**exponent / half_bins, half_bins a power of two; x goes to bin floor(x / w).
x / w only shifts the binary exponent of x, so it is exact. For any integer d ≥ 0

    floor(floor(x / w) / 2**d) = floor(x / (2**d · w)).

Let n = floor(x / w) and m = floor(n / 2**d). From m·2**d ≤ n ≤ x/w follows m ≤ x/(2**d·w). From n < (m+1)·2**d,
integers on both sides, follows n+1 ≤ (m+1)·2**d, and x/w < n+1 then gives x/(2**d·w) < m+1. So m is the coarse bin:
binning finely and merging pairs d times equals binning coarsely. The final exponent is the maximum over the data,
counts add, minimum and maximum commute: the result depends only on the multiset of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import Float64Array, Int64Array, float32_array
from amctc.numerics._binning import EMPTY_EXPONENT, binned, grown

DEFAULT_BINS = 4096
"""Bins of the reference tool's histograms (calibration formulas, HFMG)."""

_LARGEST_EXPONENT = 128  # every finite float32 is below 2**128
_MOST_STORED_BINS = 1 << 20  # a damaged file must not make us allocate gigabytes


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of a tensor's values; an immutable value with equality and hash.

    ``counts`` int64 [2 * half_bins], read-only: bin i holds values in ``[edges[i], edges[i+1])``. ``exponent``: the
    range is [-2**exponent, 2**exponent). ``low``, ``high``: the observed extremes, exact, 0 without data. ``count``:
    values seen; ``zeros``: how many of them were zero (padding and ReLU make it an atom).

    Values are taken as float32, the widest type an activation has on the target.
    """

    counts: Int64Array
    exponent: int
    low: float
    high: float
    count: int
    zeros: int = 0

    def __post_init__(self) -> None:
        bins = self.counts.size
        if self.counts.ndim != 1 or bins < 2 or bins & (bins - 1):
            raise InputError(f"a histogram has a power of two of bins, at least 2, not shape {self.counts.shape}")
        if not EMPTY_EXPONENT <= self.exponent <= _LARGEST_EXPONENT:
            raise InputError(f"histogram exponent {self.exponent} is outside the float32 range")
        if self.counts.flags.writeable or self.counts.dtype != np.int64:
            counts = self.counts.astype(np.int64)
            counts.flags.writeable = False
            object.__setattr__(self, "counts", counts)

    @classmethod
    def empty(cls, bins: int = DEFAULT_BINS) -> Histogram:
        """The histogram of no data, with ``bins`` bins (a power of two; half of them for negative values)."""
        return cls(np.zeros(bins, np.int64), EMPTY_EXPONENT, 0.0, 0.0, 0)

    @property
    def half_bins(self) -> int:
        """Bins on either side of zero."""
        return self.counts.size // 2

    @property
    def width(self) -> float:
        """Width of one bin, a power of two, in the tensor's unit."""
        return float(np.ldexp(1.0 / self.half_bins, self.exponent))

    @property
    def edges(self) -> Float64Array:
        """The 2 * half_bins + 1 bin edges, float64, exact."""
        return np.arange(-self.half_bins, self.half_bins + 1, dtype=np.float64) * np.float64(self.width)

    def updated(self, x: npt.ArrayLike) -> Histogram:
        """This histogram with the values of ``x`` (any shape and numeric type) added.

        Raises InputError when a value is NaN or infinite, or exceeds the float32 range.
        """
        values = float32_array(x).reshape(-1)
        if values.size == 0:
            return self
        new = binned(values, self.half_bins)
        return self.merged(Histogram(new.counts, new.exponent, new.low, new.high, values.size, new.zeros))

    def merged(self, other: Histogram) -> Histogram:
        """The histogram of both data sets; InputError when the numbers of bins differ."""
        if self.half_bins != other.half_bins:
            raise InputError(f"histograms of {self.counts.size} and {other.counts.size} bins cannot be merged")
        if not self.count or not other.count:
            return self if self.count else other
        exponent = max(self.exponent, other.exponent)
        counts = grown(self.counts, exponent - self.exponent) + grown(other.counts, exponent - other.exponent)
        counts.flags.writeable = False  # nobody else has it: it need not be copied
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Histogram(counts, exponent, low, high, self.count + other.count, self.zeros + other.zeros)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self._scalars() == other._scalars() and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self._scalars(), self.counts.tobytes()))

    def _scalars(self) -> tuple[int, float, float, int, int]:
        return self.exponent, self.low, self.high, self.count, self.zeros

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: only the occupied span of the counts is written, with its first bin."""
        occupied = np.flatnonzero(self.counts)
        first, end = (int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else (0, 0)
        scalars = {"exponent": self.exponent, "low": self.low, "high": self.high, "zeros": self.zeros}
        return {"bins": self.counts.size, **scalars, "first": first, "counts": self.counts[first:end].tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Histogram:
        """The inverse of :meth:`to_dict`; raises InputError for a malformed mapping."""
        try:
            span = np.asarray(data["counts"], dtype=np.int64)
            first, bins = int(data["first"]), int(data["bins"])
            if bins > _MOST_STORED_BINS:
                raise InputError(f"a stored histogram of {bins} bins is refused")
            counts = np.zeros(bins, np.int64)
            if first < 0 or (span < 0).any() or first + span.size > counts.size:
                raise InputError("a stored histogram has negative or misplaced counts")
            counts[first : first + span.size] = span
            low, high, total = float(data["low"]), float(data["high"]), int(span.sum())
            return cls(counts, int(data["exponent"]), low, high, total, int(data["zeros"]))
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise InputError(f"malformed histogram: {problem!r}") from problem
