"""Weight scales chosen by the error of a layer's output.

A scale that holds the largest weight makes every step as coarse as that one weight demands; at 4 bits a narrower range
that clips it often disturbs the output less. AWQ (Lin et al. 2023, its clip search) and AIMET ("sequential MSE") try
such ranges with weights rounded to nearest; here they are tried with any rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Trial = Callable[[Float64Array], tuple[npt.NDArray[np.int8], Float64Array]]
"""For scales [O]: the integers [O, K] of the weights, and the error [O] of each output."""

NARROWEST = 0.45
"""Of the full range. The best 4-bit range of normally distributed weights is half of one that holds 4 deviations."""


def search_scales(scales: Float64Array, trial: Trial, count: int) -> tuple[Float64Array, npt.NDArray[np.int8]]:
    """Of ``count`` shares of ``scales`` [O], down to :data:`NARROWEST`, for each output the one with the least error.

    Also gives its integers. The first of equal ones is taken, which is the full range where nothing depends on it.
    Scales are float32 numbers, as they are stored.
    """
    best = np.asarray(scales, np.float32).astype(np.float64)
    codes, least = trial(best)
    for share in np.linspace(1.0, NARROWEST, count)[1:]:
        candidate = (scales * share).astype(np.float32).astype(np.float64)
        found, losses = trial(candidate)
        better = losses < least
        least, best = np.where(better, losses, least), np.where(better, candidate, best)
        codes = np.where(better[:, None], found, codes)
    return best, codes
