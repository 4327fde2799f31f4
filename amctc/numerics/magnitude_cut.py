"""Which weights of many arrays stay when the smallest magnitudes of all of them go, without holding them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, BoolArray, float32_array, require_finite

_HALF = 16


class MagnitudeCut(NamedTuple):
    """Weights whose magnitude is above ``level`` stay, and of those equal to it the first ``ties``.

    ``level`` is a float32 magnitude by its bits, which are in the order of the numbers.
    """

    level: int
    ties: int


def magnitude_cut(weights: Sequence[Callable[[], AnyArray]], sparsity: float) -> MagnitudeCut:
    """The cut at which RNE(sparsity · size) weights of all arrays together go; of equal ones the last go first.

    Each array is read twice, for the upper and the lower halves of the bits of |w| in float32, so that two histograms
    find the exact magnitude. Raises InputError for a sparsity outside [0, 1] and weights that are not finite.
    """
    if not 0.0 <= sparsity <= 1.0:
        raise InputError(f"a sparsity is in [0, 1], not {sparsity}")
    upper = np.zeros(1 << _HALF, np.int64)
    for read in weights:
        upper += np.bincount(_bits(read()) >> _HALF, minlength=upper.size)
    size = int(upper.sum())
    kept = size - round(sparsity * size)
    if not kept:
        return MagnitudeCut((1 << 32) - 1, 0)
    high, above = _level(upper, kept)
    lower = np.zeros(1 << _HALF, np.int64)
    for read in weights:
        bits = _bits(read())
        lower += np.bincount(bits[bits >> _HALF == high] & ((1 << _HALF) - 1), minlength=lower.size)
    low, more = _level(lower, kept - above)
    return MagnitudeCut(high << _HALF | low, kept - above - more)


def cut_mask(w: npt.ArrayLike, cut: MagnitudeCut) -> tuple[BoolArray, MagnitudeCut]:
    """True for the weights to keep, and the cut for the arrays after this one."""
    bits = _bits(np.asarray(w))
    mask = bits > cut.level
    equal = np.flatnonzero(bits == cut.level)
    mask[equal[: cut.ties]] = True
    return mask.reshape(np.shape(w)), MagnitudeCut(cut.level, max(cut.ties - equal.size, 0))


def _level(counts: npt.NDArray[np.int64], kept: int) -> tuple[int, int]:
    """The bin that holds the ``kept``-th largest element, and how many elements are in higher bins."""
    from_top = np.cumsum(counts[::-1])
    steps = int(np.searchsorted(from_top, kept))
    return counts.size - 1 - steps, int(from_top[steps] - counts[counts.size - 1 - steps])


def _bits(w: AnyArray) -> npt.NDArray[np.int64]:
    require_finite(w, "the weight")
    return np.abs(float32_array(w)).reshape(-1).view(np.uint32).astype(np.int64)
