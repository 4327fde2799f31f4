"""Streaming extremes of every channel of a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import Float32Array, float32_array, require_finite


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Smallest and largest value of each channel; an immutable value with equality, independent of order.

    ``low``, ``high``: float32 [channels], read-only and exact; 0 without data. ``count``: values seen per channel.
    """

    low: Float32Array
    high: Float32Array
    count: int = 0

    def __post_init__(self) -> None:
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise InputError(f"channel extremes of shapes {self.low.shape} and {self.high.shape}")
        for name in ("low", "high"):
            # Adding 0.0 turns -0.0 into 0.0: which zero came first must not show in the result.
            ends = np.asarray(getattr(self, name), np.float32) + np.float32(0)
            ends.flags.writeable = False
            object.__setattr__(self, name, ends)

    @classmethod
    def empty(cls, channels: int) -> ChannelStatistics:
        """The statistics of no data over ``channels`` ≥ 1 channels."""
        if channels < 1:
            raise InputError(f"statistics of {channels} channels")
        return cls(np.zeros(channels, np.float32), np.zeros(channels, np.float32))

    @property
    def absolute_max(self) -> Float32Array:
        """max |x| of each channel, float32 [channels]."""
        return np.maximum(-self.low, self.high)

    def updated(self, x: npt.ArrayLike, axis: int = 1) -> ChannelStatistics:
        """These statistics with the values of ``x`` added; its ``axis`` holds the channels.

        Raises InputError when ``axis`` has another length, or a value is NaN or infinite.
        """
        values = float32_array(x)
        if not -values.ndim <= axis < values.ndim or values.shape[axis] != self.low.size:
            raise InputError(f"axis {axis} of shape {values.shape} does not hold {self.low.size} channels")
        if not values.size:
            return self
        others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
        low, high = values.min(axis=others), values.max(axis=others)
        # A minimum or maximum is NaN or infinite when any value is, so the values are seldom looked at.
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            require_finite(values, "calibration data")
        return self.merged(ChannelStatistics(low, high, values.size // low.size))

    def merged(self, other: ChannelStatistics) -> ChannelStatistics:
        """The statistics of both data sets; InputError when the numbers of channels differ."""
        if self.low.shape != other.low.shape:
            raise InputError(f"statistics of {self.low.size} and {other.low.size} channels cannot be merged")
        if not self.count or not other.count:
            return self if self.count else other
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return ChannelStatistics(low, high, self.count + other.count)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelStatistics):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, bytes, bytes]:
        return self.count, self.low.tobytes(), self.high.tobytes()
