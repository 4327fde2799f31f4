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


@dataclass(frozen=True)
class ChannelRange:
    """The extremes of each channel of a tensor over the samples: ``low`` and ``high`` [C], 0 included.

    Merging is exact and takes any order.
    """

    low: Float64Array
    high: Float64Array

    @classmethod
    def of(cls, x: npt.ArrayLike, axis: int) -> ChannelRange:
        """The extremes of one batch, channels along ``axis``; InputError for NaN and infinite values."""
        array = np.asarray(x)
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        low, high = (f(axis=1, initial=0.0).astype(np.float64) for f in (rows.min, rows.max))
        require_finite(low, "calibration data")
        require_finite(high, "calibration data")
        return cls(low, high)

    def merged(self, other: ChannelRange) -> ChannelRange:
        """The extremes of both sets of samples."""
        return ChannelRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

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


def equalizing_factors(room: npt.ArrayLike, strength: float) -> Float64Array:
    """``room`` to the power ``strength`` in (0, 1], channels without room or without data left as they are.

    1 makes all channels equally wide; 0.5 shares the burden evenly between activations and weights.
    """
    if not 0.0 < strength <= 1.0:
        raise InputError(f"a strength of {strength} is not in (0, 1]")
    finite = np.where(np.isfinite(room), room, 1.0)
    return np.asarray(np.clip(finite, 1.0, STRONGEST) ** strength)
