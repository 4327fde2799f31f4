"""Extremes, mean and deviation of the channels of a tensor, gathered batch by batch, and the high bias they show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.numerics._arrays import require_finite

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelMoments:
    """What the values of each channel were, arrays [C]: ``low``, ``high``, the mean, the mean of the squares.

    ``count``: values seen of each channel. Merging takes any order, up to the rounding of the means.
    """

    low: Float64Array
    high: Float64Array
    mean: Float64Array
    square: Float64Array
    count: int

    @classmethod
    def of(cls, x: npt.ArrayLike, axis: int) -> ChannelMoments:
        """Of one batch, channels along ``axis``; an empty one says nothing. InputError for NaN and infinite values."""
        array = np.asarray(x)
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
        require_finite(rows, "calibration data")
        count = max(rows.shape[1], 1)
        return cls(rows.min(axis=1, initial=np.inf), rows.max(axis=1, initial=-np.inf), rows.sum(axis=1) / count,
                   np.square(rows).sum(axis=1) / count, rows.shape[1])  # fmt: skip

    def merged(self, other: ChannelMoments) -> ChannelMoments:
        """Over both sets of samples."""
        total = max(self.count + other.count, 1)
        mean = (self.mean * self.count + other.mean * other.count) / total
        square = (self.square * self.count + other.square * other.count) / total
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return ChannelMoments(low, high, mean, square, self.count + other.count)

    @property
    def deviation(self) -> Float64Array:
        """The standard deviation [C]."""
        return np.asarray(np.sqrt(np.maximum(self.square - self.mean * self.mean, 0.0)))


def high_bias(seen: ChannelMoments, deviations: float, ceiling: float) -> Float64Array:
    """How far [C] above 0 all values of each channel of an activation lie (Nagel et al. 2019, section 4.1.3).

    The least value, or the mean less so many standard ``deviations`` where that is more; 0 for channels that reach
    down to 0 or up to ``ceiling``, and without data.
    """
    bias = seen.low
    if math.isfinite(deviations):
        bias = np.maximum(bias, seen.mean - deviations * seen.deviation)
    return np.where((bias > 0.0) & (seen.high < ceiling) & (seen.count > 0), bias, 0.0)
