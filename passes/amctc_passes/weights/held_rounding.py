"""Whether rounding and bias correction hold for samples that they were not fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amctc.numerics.linear import storage_range
from amctc_passes.quantize.held_back import FoldMeans
from amctc_passes.weights.layer_moments import Part

Float64Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]


def rounded_to_nearest(matrix: Float64Array, scales: Float64Array, bits: int) -> Codes:
    """``matrix`` [G, O, K] in steps of ``scales`` [G, O], ties to even."""
    return np.clip(np.rint(matrix / scales[:, :, None]), *storage_range(bits)).astype(np.int8)


def better_held_back(
    held: Sequence[Part], matrix: Float64Array, rounded: tuple[Codes, Float64Array], simple: tuple[Codes, Float64Array]
) -> bool:  # fmt: skip
    """Whether ``rounded``, integers [G, O, K] and scales [G, O], disturbs outputs no more than ``simple`` on ``held``.

    True where no samples are held back. Terms are taken part by part, because a weight in float64 is large.
    """

    def loss(part: Part, codes: Codes, scales: Float64Array) -> float:
        return part.loss(matrix[:, :, part.terms], codes[:, :, part.terms] * scales[:, :, None])

    return sum(loss(p, *rounded) - loss(p, *simple) for p in held) <= 0.0


def mean_shift(
    real: FoldMeans, seen: FoldMeans, matrix: Float64Array, rounded: Float64Array
) -> tuple[Float64Array, bool]:  # fmt: skip
    """What to add to the biases [G, O] of a layer that reads ``seen`` in place of ``real``; and whether it was undone.

    Undone, and 0, where by cross-validation it helps no samples but those it comes from: fold by fold, the shift of the
    other folds leaves more of the fold's own shift than there is. A single fold says nothing against it.
    """

    def shift(of: Float64Array, by: Float64Array) -> Float64Array:
        return np.asarray(np.einsum("gok,gk->go", matrix, of) - np.einsum("gok,gk->go", rounded, by))

    every, left, found = shift(real.value, seen.value), 0.0, 0.0
    folds = np.flatnonzero(real.counts)
    for fold in folds.tolist() if len(folds) > 1 else ():
        own = shift(real.of_fold(fold), seen.of_fold(fold))
        found += float(np.square(own).sum())
        left += float(np.square(own - shift(real.without(fold), seen.without(fold))).sum())
    undone = left > found
    return np.zeros_like(every) if undone else every, undone
