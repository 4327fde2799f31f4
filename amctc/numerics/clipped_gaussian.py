"""Gaussian numbers behind a relu or a clip: moments in closed form, and histograms of what no data was seen of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from amctc.numerics.histogram import DEFAULT_BINS, Histogram

Float64Array = npt.NDArray[np.float64]

REACH = 6.0
"""Standard deviations that are taken into account (Nagel et al. 2019, section 5.1)."""

_TOTAL = 1 << 40
"""Values that a histogram stands for: bins that a millionth of a millionth is in count."""


@dataclass(frozen=True)
class ClippedGaussians:
    """clip(z, low, high) of independent z, each Gaussian of its own ``mean`` and ``deviation`` [C]."""

    mean: Float64Array
    deviation: Float64Array
    low: float = -math.inf
    high: float = math.inf

    def clipped(self, low: float, high: float) -> ClippedGaussians:
        """Behind one more clip, to ``low`` … ``high``."""
        ends = np.clip([self.low, self.high], low, high).tolist()
        return ClippedGaussians(self.mean, self.deviation, *ends)

    def moments(self) -> tuple[Float64Array, Float64Array]:
        """Means and variances [C].

        With Φ and φ of the standard normal distribution, a = (low - μ)/σ, b = (high - μ)/σ (Nagel et al. 2019,
        appendix, for the mean behind a relu), the means of the values and of their squares are

            E = low·Φ(a) + high·(1 - Φ(b)) + μ·(Φ(b) - Φ(a)) + σ·(φ(a) - φ(b)),

        E² = low²·Φ(a) + high²·(1 - Φ(b)) + (μ² + σ²)·(Φ(b) - Φ(a)) + 2μσ·(φ(a) - φ(b)) + σ²·(a·φ(a) - b·φ(b)).
        """
        mean, sigma = self.mean, np.maximum(self.deviation, np.finfo(np.float64).tiny)
        with np.errstate(over="ignore"):
            a, b = (self.low - mean) / sigma, (self.high - mean) / sigma
        below, inside, above = ndtr(a), ndtr(b) - ndtr(a), ndtr(-b)
        density_a, density_b = (
            np.exp(-0.5 * np.square(np.clip(x, -1e8, 1e8))) / math.sqrt(2 * math.pi) for x in (a, b)
        )
        first = _times(self.low, below) + _times(self.high, above) + mean * inside + sigma * (density_a - density_b)
        second = (
            _times(self.low**2, below) + _times(self.high**2, above) + (mean**2 + sigma**2) * inside
            + 2 * mean * sigma * (density_a - density_b) + sigma**2 * (_times(a, density_a) - _times(b, density_b))
        )  # fmt: skip
        return first, np.maximum(second - first * first, 0.0)

    def ends(self) -> tuple[Float64Array, Float64Array]:
        """The least and the largest value of each channel within six standard deviations, [C]."""
        spread = REACH * self.deviation
        return tuple(np.clip(self.mean + s, self.low, self.high) for s in (-spread, spread))  # type: ignore[return-value]

    def histogram(self, bins: int = DEFAULT_BINS) -> Histogram:
        """What as many values of each channel would be counted as, without those beyond six deviations."""
        lows, highs = self.ends()
        low, high = float(lows.min(initial=0.0)), float(highs.max(initial=0.0))
        reach = max(-low, high, math.ldexp(1.0, -100))
        exponent = math.frexp(reach)[1]  # reach < 2**exponent
        empty = Histogram(np.zeros(bins, np.int64), exponent, low, high, 0)
        sigma = np.maximum(self.deviation, np.finfo(np.float64).tiny)
        share = np.zeros(bins)
        for mean, deviation in zip(self.mean, sigma, strict=True):
            # Mass below the lower end lies in the bin of that end, and that above in the bin of the upper one.
            cumulative = ndtr((empty.edges - mean) / deviation)
            cumulative[empty.edges <= self.low] = 0.0
            cumulative[empty.edges > self.high] = 1.0
            cumulative[0], cumulative[-1] = 0.0, 1.0
            share += np.diff(cumulative)
        counts = np.rint(share * (_TOTAL / max(self.mean.size, 1))).astype(np.int64)
        zeros = int(np.rint(ndtr(-self.mean / sigma).sum() * (_TOTAL / max(self.mean.size, 1)))) if self.low == 0 else 0
        return Histogram(counts, exponent, low, high, int(counts.sum()), min(zeros, int(counts[bins // 2])))


def _times(end: float | Float64Array, share: Float64Array) -> Float64Array:
    """``end`` · ``share``, 0 where the share is, whatever the end."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(share == 0.0, 0.0, np.nan_to_num(np.asarray(end * share), nan=0.0, posinf=0.0, neginf=0.0))
