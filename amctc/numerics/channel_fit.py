"""The gain and the offset of a channel that take a disturbed signal nearest to a clean one.

Least squares of g·ẑ + c to z, the clean sums of a channel z and the disturbed ones ẑ, over the positions where the
activation behind them follows its input: g = cov(z, ẑ) / var(ẑ) and c = mean(z) - g·mean(ẑ). With g = 1 that is the
bias correction of Nagel et al. 2019 (section 4.2); a gain makes up for what clipping and rounding shrink.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LARGEST_GAIN = 2.0
"""A gain beyond it, or below its reciprocal, is no correction of rounding errors."""


def fitted_offsets(real: npt.ArrayLike, seen: npt.ArrayLike, counted: BoolArray) -> Float64Array:
    """c [C] for ``real`` z and ``seen`` ẑ [C, n], over the positions ``counted`` [C, n]; 0 where none are."""
    z, other = np.asarray(real, np.float64), np.asarray(seen, np.float64)
    return np.asarray(np.where(counted, z - other, 0.0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1))


def fitted_gains(real: npt.ArrayLike, seen: npt.ArrayLike, counted: BoolArray) -> tuple[Float64Array, Float64Array]:
    """g and c [C] as for :func:`fitted_offsets`; g is 1 for a channel that does not vary or would be turned over."""
    z, other = np.asarray(real, np.float64), np.asarray(seen, np.float64)
    count = np.maximum(counted.sum(axis=1), 1)
    means = [np.where(counted, a, 0.0).sum(axis=1) / count for a in (z, other)]
    centred = [np.where(counted, a - m[:, None], 0.0) for a, m in zip((z, other), means, strict=True)]
    variance = np.square(centred[1]).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = (centred[0] * centred[1]).sum(axis=1) / variance
    gains = np.where((gains > 1.0 / LARGEST_GAIN) & (gains < LARGEST_GAIN), gains, 1.0)
    return gains, means[0] - gains * means[1]
