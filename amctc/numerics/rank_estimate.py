"""Which convolutions the existing tool splits, how, and to which rank (EVBMF).

Source: section Layers and "Calibration formulas" of the numerics rules, read from ``amct_tensor_decompose`` of AMCT;
EVBMF: Nakajima et al., "Global analytic solution of fully-observed variational Bayesian matrix factorization", JMLR
14 (2013), and "Perfect dimensionality recovery by variational Bayesian PCA", NIPS 2012.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from scipy.optimize import minimize_scalar

from amctc.errors import InputError
from amctc.numerics._arrays import Float64Array

CHANNEL_STEP = 16
"""Ranks are multiples of the fp16 channel block C0."""

_NOISE_RATIO = 2.5129  # τ/√α at the threshold: numeric constant of Nakajima 2012, theorem 2


class SplitMode(IntEnum):
    """What the existing tool does with a convolution; its names tell which channel and kernel axis the rows hold."""

    UNCHANGED = 0
    FIRST_CHANNEL_FIRST_KERNEL = 1
    FIRST_CHANNEL_SECOND_KERNEL = 2
    SECOND_CHANNEL_FIRST_KERNEL = 3
    SECOND_CHANNEL_SECOND_KERNEL = 4

    @property
    def vertical_first(self) -> bool:
        """Whether the kh×1 convolution comes first (:func:`amctc.numerics.low_rank.split_spatial`)."""
        return self in (SplitMode.SECOND_CHANNEL_FIRST_KERNEL, SplitMode.FIRST_CHANNEL_SECOND_KERNEL)


def split_mode(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    group: int = 1,
    dilations: tuple[int, int] = (1, 1),
) -> SplitMode:
    """The tool's decision for a convolution [outputs, inputs, kh, kw].

    Split when dilation and group are 1, min(k) ≥ 3, strides ≤ 2, min(k)·min(c) ≥ 16, and min(k) ≥ 7 or min(c) ≥ 64.
    The matrix has its rows on the side with fewer channels (inputs when equal) and on the smaller kernel axis (the
    first when equal).
    """
    side, channels = min(kernel), min(inputs, outputs)
    too_small = side < 3 or side * channels < CHANNEL_STEP or (side < 7 and channels < 64)
    if max(dilations) > 1 or group > 1 or max(strides) > 2 or too_small:
        return SplitMode.UNCHANGED
    first_kernel = kernel[0] <= kernel[1]
    if outputs < inputs:
        return SplitMode.FIRST_CHANNEL_FIRST_KERNEL if first_kernel else SplitMode.FIRST_CHANNEL_SECOND_KERNEL
    return SplitMode.SECOND_CHANNEL_FIRST_KERNEL if first_kernel else SplitMode.SECOND_CHANNEL_SECOND_KERNEL


def split_rank(singular: Float64Array, inputs: int, outputs: int, kernel: tuple[int, int]) -> int:
    """The rank the tool gives a convolution from the singular values of its spatial matrix.

    EVBMF, clipped to [⌊L/(d + 1)⌋, ⌊L/d⌋] with L = min(k)·min(c) and d = 6 (4 from min(c) = 256 on), rounded to a
    multiple of 16, at most the number of singular values. Raises InputError for another number than L.
    """
    size = min(kernel) * min(inputs, outputs)
    if singular.shape != (size,):
        raise InputError(f"{singular.size} singular values where the tool expects {size}")
    divisor = 4 if min(inputs, outputs) >= 256 else 6
    rank = min(evbmf_rank(singular, max(kernel) * max(inputs, outputs)), size // divisor)
    return min(multiple_of(max(rank, size // (divisor + 1))), size)


def multiple_of(rank: int, step: int = CHANNEL_STEP, least: int = CHANNEL_STEP) -> int:
    """``rank`` rounded half up to a multiple of ``step``, at least ``least``, one step more if below 0.9·rank."""
    if rank < 0 or step < 1 or least < 0:
        raise InputError(f"rank {rank} cannot be rounded to a multiple of {step}")
    rounded = max(least, (rank + step // 2) // step * step)
    return rounded + step if rounded < 0.9 * rank else rounded


def evbmf_rank(singular: Float64Array, columns: int) -> int:
    """Rank of the signal in a matrix of L singular values ``singular`` (falling) and ``columns`` = M ≥ L, plus noise.

    Empirical variational Bayes: the noise variance minimises the free energy between its two bounds, and the singular
    values above sqrt(M·σ²·(1 + τ)(1 + α/τ)), α = L/M, τ = 2.5129·√α, are signal. Unlike the existing tool the values
    are first divided by their root mean square, so that the tolerance of the search (1e-5 of the variance) and hence
    the rank do not depend on the weight's unit; and the lower bound averages the values after the H-th as published,
    where the tool takes one more. Raises InputError for no or negative values or M < L.
    """
    rows = singular.size
    if not rows or columns < rows or not np.isfinite(singular).all() or singular.min() < 0.0:
        raise InputError(f"no rank follows from {rows} singular values of a matrix with {columns} columns")
    power = np.square(singular.astype(np.float64) / max(float(singular.max()), float(np.finfo(np.float64).tiny)))
    if not power.any():
        return 0
    # In units of the upper bound of the variance; exact zeros would make the free energy infinite everywhere.
    power = np.maximum(power * (rows * columns / power.sum()), float(np.finfo(np.float64).eps) ** 2)
    alpha = rows / columns
    tau = _NOISE_RATIO * math.sqrt(alpha)
    edge = (1.0 + tau) * (1.0 + alpha / tau)
    most = min(math.ceil(rows / (1.0 + alpha)) - 1, rows) - 1
    tail = power[most + 1 :]
    lower = min(max(float(power[most + 1]) / edge, float(tail.mean())) / columns, 1.0)

    def free_energy(variance: float) -> float:
        x = power / (columns * variance)
        noise, signal = x[x <= edge], x[x > edge]
        z = signal - (1.0 + alpha)
        gain = (z + np.sqrt(z * z - 4.0 * alpha)) / 2
        signal_terms = signal - gain + np.log((gain + 1.0) / signal) + alpha * np.log(gain / alpha + 1.0)
        return float((noise - np.log(noise)).sum() + signal_terms.sum())

    options = {"xatol": 1e-5, "maxiter": 500}
    variance = float(minimize_scalar(free_energy, bounds=(lower, 1.0), method="bounded", options=options).x)
    return int((power > columns * variance * edge).sum())
