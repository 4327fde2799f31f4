"""Channel factors that spread the range of one quantizer over all channels.

A per-tensor quantizer gives every channel the step of the widest one. Multiplying channel c by s_c and dividing the
weights that read it by s_c changes nothing in real numbers, but a narrow channel gains codes (Nagel et al. 2019,
section 4.1). The weights of the wide channels grow beside it, so the factors are taken to a power below 1 (Xiao et
al. 2023, SmoothQuant, equation 4, there called alpha; the existing tool's DMQ balances alike).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import require_finite

Float64Array = npt.NDArray[np.float64]

STRONGEST = 2.0**10
"""No channel grows by more: one that narrow is as good as dead, and its weights would sink in a float16 island."""

HALF_TRUSTED = 512
"""So many values of a channel say half of how wide it is. Chosen on normally distributed data, where nothing should be
gained and nothing must be lost: 32 to 1000 samples of 64 equally wide channels."""


@dataclass(frozen=True)
class ChannelWidths:
    """How wide each channel of a tensor was over the samples.

    ``low`` and ``high`` [C]: the extremes, 0 included; ``count``: values seen of each channel. Merging is exact and
    takes any order.
    """

    low: Float64Array
    high: Float64Array
    count: int

    @classmethod
    def of(cls, x: npt.ArrayLike, axis: int) -> ChannelWidths:
        """The widths in one batch, channels along ``axis``; InputError for NaN and infinite values."""
        array = np.asarray(x)
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        low, high = (f(axis=1, initial=0.0).astype(np.float64) for f in (rows.min, rows.max))
        # A minimum or maximum is NaN or infinite when any value is, so the values are seldom looked at.
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            require_finite(rows, "calibration data")
        return cls(low, high, rows.shape[1])

    def merged(self, other: ChannelWidths) -> ChannelWidths:
        """The widths over both sets of samples."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return ChannelWidths(low, high, self.count + other.count)

    def room(self) -> Float64Array:
        """By how much [C] each channel could grow until it is as wide as the widest, at either end.

        At least 1; infinite for a channel that was always 0.
        """
        low, high = self.low.min(initial=0.0), self.high.max(initial=0.0)
        return np.minimum(_quotient(low, self.low), _quotient(high, self.high))

    def room_below(self, bound: float) -> Float64Array:
        """By how much [C] each channel could grow until it reaches ``bound`` > 0; at least 1."""
        return np.maximum(_quotient(bound, self.high), 1.0)


def _quotient(bound: float | np.floating[npt.NBitBase], values: Float64Array) -> Float64Array:
    quotient = np.full(values.shape, np.inf)
    np.divide(bound, values, out=quotient, where=values != 0)
    return quotient


def equalizing_factors(room: npt.ArrayLike, strength: float, count: npt.ArrayLike) -> Float64Array:
    """``room`` to the power ``strength`` in (0, 1], channels without room or without data left as they are.

    1 makes all channels equally wide; 0.5 shares the burden evenly between activations and weights. ``count``: the
    values of a channel that its room is known from; over few it falls short of what it can reach and would saturate
    later, so the power shrinks by count / (count + :data:`HALF_TRUSTED`).
    """
    if not 0.0 < strength <= 1.0:
        raise InputError(f"a strength of {strength} is not in (0, 1]")
    finite = np.where(np.isfinite(room), room, 1.0)
    trust = 1.0 / (1.0 + HALF_TRUSTED / np.maximum(np.asarray(count, np.float64), 1.0))
    return np.asarray(np.clip(finite, 1.0, STRONGEST) ** (strength * trust))
