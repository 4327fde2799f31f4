"""AdaRound: rounding up or down learned by gradient descent on a relaxation (Nagel et al. 2020, "Up or Down?").

Each weight is s·(floor(w/s) + h(v)) with the rectified sigmoid h(v) = clip(1.2·sigmoid(v) - 0.1, 0, 1). Adam minimises

    Σ eᵀ H e / (s² · mean diagonal of H) + λ Σ (1 - |2h - 1|^β)

over v: the error of the layer's output (:mod:`amctc.numerics.second_order`), and a regularizer that drives h to 0 or 1
as β falls. The output error of a linear layer is quadratic, so its gradient is a matrix product and no network is run.
Warm start and the course of β are those of the existing tool; its λ of 0.01 is for an error in units of the output.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from amctc.errors import InputError
from amctc.numerics.second_order import DAMPING, Float64Array, Grid, damped

STEPS = 2000
RATE = 0.02
REGULARIZATION = 0.5
WARM_START = 0.2
"""Share of the steps without a regularizer."""

BETA = (20.0, 2.0)
"""First and last exponent."""

_STRETCH, _SHIFT = 1.2, -0.1
_DECAY = (0.9, 0.999)  # of Adam's moments (Kingma and Ba 2015)


def adaround(
    weight: npt.ArrayLike,
    gram: npt.ArrayLike,
    scales: npt.ArrayLike,
    *,
    bits: int = 8,
    damping: float = DAMPING,
    steps: int = STEPS,
) -> npt.NDArray[np.int8]:
    """Integers [O, K] for ``weight`` [O, K] in steps of ``scales`` [O], each next to its weight, above or below.

    ``gram`` and ``damping`` as in :func:`amctc.numerics.second_order.round_second_order`. A weight of 0 stays 0.
    Raises InputError for a Gram matrix that does not fit or is not finite.
    """
    w, h, s = (np.asarray(a, np.float64) for a in (weight, gram, scales))
    if w.ndim != 2 or h.shape != (w.shape[1], w.shape[1]) or s.shape != w.shape[:1]:
        raise InputError(f"a Gram matrix {list(h.shape)} and {list(s.shape)} scales for weights {list(w.shape)}")
    if not np.isfinite(h).all():
        raise InputError("the Gram matrix of a layer's input is not finite", remedy="check the calibration samples")
    if not w.size:
        return np.zeros(w.shape, np.int8)
    grid, matrix = Grid.of(w, s, 0, bits), damped(h, damping)
    matrix = matrix / np.mean(np.diag(matrix))
    codes = w / grid.steps
    floor = np.floor(codes)
    up = _learned(codes - floor, matrix, steps) >= 0.5
    return grid.nearest((floor + up) * grid.steps).astype(np.int8)


def _learned(fractions: Float64Array, gram: Float64Array, steps: int) -> Float64Array:
    """h [O, K] after ``steps`` of Adam, from h = ``fractions``."""
    v = -np.log(_STRETCH / (fractions - _SHIFT) - 1.0)
    first, second = np.zeros_like(v), np.zeros_like(v)
    for step in range(1, steps + 1):
        sigmoid = expit(v)
        stretched = _STRETCH * sigmoid + _SHIFT
        h = np.clip(stretched, 0.0, 1.0)
        slope = 2.0 * (h - fractions) @ gram
        slope += REGULARIZATION * _regularizer_slope(h, step / steps)
        slope *= np.where(h == stretched, _STRETCH * sigmoid * (1.0 - sigmoid), 0.0)
        first += (1.0 - _DECAY[0]) * (slope - first)
        second += (1.0 - _DECAY[1]) * (slope * slope - second)
        mean, square = first / (1.0 - _DECAY[0] ** step), second / (1.0 - _DECAY[1] ** step)
        v -= RATE * mean / (np.sqrt(square) + 1e-8)
    return np.asarray(np.clip(_STRETCH * expit(v) + _SHIFT, 0.0, 1.0))


def _regularizer_slope(h: Float64Array, progress: float) -> Float64Array | float:
    """The derivative of Σ (1 - |2h - 1|^β) by h; 0 during the warm start."""
    if progress < WARM_START:
        return 0.0
    left = (1.0 - progress) / (1.0 - WARM_START)
    beta = BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1.0 - np.cos(np.pi * left))
    far = 2.0 * h - 1.0
    return np.asarray(-2.0 * beta * np.sign(far) * np.abs(far) ** (beta - 1.0))
