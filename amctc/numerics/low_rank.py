"""Low-rank factors of weights: a convolution or a matrix product as two smaller ones.

Sources: spatial SVD (Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions", 2014,
scheme 2), weight SVD (Zhang et al. 2016). Singular values are split as sqrt(S) on both sides, so that both factors
have weights of one magnitude to quantize. All factors are computed in float64 and cast to the weight's type once.
Which layers the existing tool splits, and to which rank, is in :mod:`amctc.numerics.rank_estimate`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, Float64Array, require_finite


class Factors(NamedTuple):
    """Two weights that replace one, in the order in which data pass them."""

    first: AnyArray
    last: AnyArray


def split_matrix(w: npt.ArrayLike, rank: int) -> Factors:
    """Factors [rows, rank] and [rank, columns] whose product is nearest to ``w`` [rows, columns] (Eckart–Young).

    Raises InputError for a rank outside 1 … min(rows, columns) or a weight that is no finite matrix.
    """
    weight = _finite(w, 2)
    return _cast(_halves(weight, rank), weight)


def split_spatial(w: npt.ArrayLike, rank: int, *, vertical_first: bool = True) -> Factors:
    """Spatial SVD of a kernel [O, I, kh, kw]: a kh×1 convolution to ``rank`` channels, then a 1×kw one.

    The factors are [rank, I, kh, 1] and [O, rank, 1, kw]; with ``vertical_first=False`` [rank, I, 1, kw] and
    [O, rank, kh, 1]. Stride, padding and dilation go with their axis, a bias with the last. Raises InputError for a
    rank outside 1 … :func:`full_rank` or a weight that is no finite rank-4 array.
    """
    weight = _finite(w, 4)
    outputs, inputs, height, width = weight.shape
    if not vertical_first:
        across, down = split_spatial(weight.swapaxes(2, 3), rank)
        return Factors(across.swapaxes(2, 3), down.swapaxes(2, 3))
    left, right = _halves(_spatial_matrix(weight, True), rank)
    first = left.T.reshape(rank, inputs, height, 1)
    last = right.reshape(rank, outputs, 1, width).swapaxes(0, 1)
    return _cast((first, last), weight)


def split_pointwise(w: npt.ArrayLike, rank: int) -> Factors:
    """Weight SVD of a kernel [O, I, kh, kw]: a 1×1 convolution to ``rank`` ≤ I channels, then the kh×kw one.

    The factors are [rank, I, 1, 1] and [O, rank, kh, kw]; stride, padding, dilation and bias belong to the last.
    Raises InputError as :func:`split_spatial`.
    """
    weight = _finite(w, 4)
    outputs, inputs, height, width = weight.shape
    left, right = _halves(weight.swapaxes(0, 1).reshape(inputs, -1), rank)
    last = right.reshape(rank, outputs, height, width).swapaxes(0, 1)
    return _cast((left.T.reshape(rank, inputs, 1, 1), last), weight)


def joined(factors: Factors) -> AnyArray:
    """The one kernel [O, I, kh, kw] (or matrix) that two factors amount to, in their type; InputError if they differ.

    Of two kernels one must have extent 1 along each spatial axis, as in all splits of this module.
    """
    first, last = factors
    if first.ndim == last.ndim == 2 and first.shape[1] == last.shape[0]:
        product: AnyArray = first.astype(np.float64) @ last.astype(np.float64)
        return product.astype(first.dtype)
    extents = zip(first.shape[2:], last.shape[2:], strict=False)
    if first.ndim != 4 or last.ndim != 4 or last.shape[1] != first.shape[0] or any(min(e) != 1 for e in extents):
        raise InputError(f"weights of shapes {first.shape} and {last.shape} are no factors of one")
    # Stacks of matrices [kh, kw, O, rank] and [kh, kw, rank, I], where an extent of 1 is broadcast.
    left, right = last.astype(np.float64).transpose(2, 3, 0, 1), first.astype(np.float64).transpose(2, 3, 0, 1)
    kernel: AnyArray = (left @ right).transpose(2, 3, 0, 1).astype(first.dtype)
    return kernel


def singular_values(
    w: npt.ArrayLike, split: Literal["matrix", "spatial", "pointwise"], *, vertical_first: bool = True
) -> Float64Array:
    """Singular values, falling, of the matrix that the named split factors; their number is its full rank."""
    weight = _finite(w, 2 if split == "matrix" else 4)
    if split == "spatial":
        weight = _spatial_matrix(weight, vertical_first)
    elif split == "pointwise":
        weight = weight.swapaxes(0, 1).reshape(weight.shape[1], -1)
    values: Float64Array = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    return values


def relative_error(singular: Float64Array, rank: int) -> float:
    """‖W - W_rank‖ / ‖W‖ in the Frobenius norm from the singular values alone; 0 for a zero weight.

    It never rises with the rank and is 0 at full rank (P20).
    """
    energy = np.square(singular)
    total = float(energy.sum())
    return float(np.sqrt(energy[rank:].sum() / total)) if total else 0.0


def reconstruction_error(w: npt.ArrayLike, factors: Factors) -> float:
    """‖W - joined(factors)‖ / ‖W‖ in the Frobenius norm, with the rounding of the factors; 0 for a zero weight."""
    weight = np.asarray(w, np.float64)
    total = float(np.linalg.norm(weight))
    return float(np.linalg.norm(weight - joined(factors)) / total) if total else 0.0


def rank_by_energy(singular: Float64Array, energy: float) -> int:
    """The least rank, at least 1, that keeps the share ``energy`` in (0, 1] of Σ s²; InputError for another share."""
    if not 0.0 < energy <= 1.0:
        raise InputError(f"a share of the energy is in (0, 1], not {energy}")
    kept = np.cumsum(np.square(singular))
    return min(int(np.searchsorted(kept, energy * kept[-1])) + 1, singular.size) if singular.any() else 1


def rank_by_ratio(ratio: float, full_cost: float, cost_per_rank: float, most: int, *, multiple: int = 1) -> int:
    """The largest rank whose cost is at most ``ratio`` · ``full_cost``, rounded down to a multiple; 0 if none is.

    Costs are weights or multiply-accumulates, linear in the rank: see :func:`spatial_cost`. A rank is at most ``most``.
    """
    if not (ratio > 0.0 and full_cost > 0.0 and cost_per_rank > 0.0 and multiple >= 1):
        raise InputError(f"no rank follows from ratio {ratio}, costs {full_cost} and {cost_per_rank}")
    return min(int(ratio * full_cost / cost_per_rank), most) // multiple * multiple


def spatial_cost(
    shape: tuple[int, int, int, int], *, strides: tuple[int, int] = (1, 1), vertical_first: bool = True
) -> tuple[int, int]:
    """(cost of the kernel [O, I, kh, kw], cost of one rank of its spatial split), in MACs per output pixel.

    Per rank I·kh·s_w + O·kw: the first convolution strides along its own axis only, so it computes s_w as many
    pixels. With strides of 1 these are also numbers of weights.
    """
    outputs, inputs, height, width = shape
    down, across = strides
    full = outputs * inputs * height * width
    if vertical_first:
        return full, inputs * height * across + outputs * width
    return full, inputs * width * down + outputs * height


def full_rank(shape: tuple[int, int, int, int], *, vertical_first: bool = True) -> int:
    """Largest rank of :func:`split_spatial` for a kernel [O, I, kh, kw]."""
    outputs, inputs, height, width = shape
    return min(inputs * height, outputs * width) if vertical_first else min(inputs * width, outputs * height)


def _spatial_matrix(weight: AnyArray, vertical_first: bool) -> AnyArray:
    """Rows (i, y), columns (o, x); or rows (i, x), columns (o, y)."""
    outputs, inputs, height, width = weight.shape
    if vertical_first:
        return weight.transpose(1, 2, 0, 3).reshape(inputs * height, outputs * width)
    return weight.transpose(1, 3, 0, 2).reshape(inputs * width, outputs * height)


def _halves(matrix: AnyArray, rank: int) -> tuple[Float64Array, Float64Array]:
    if not 1 <= rank <= min(matrix.shape):
        raise InputError(f"rank {rank} is outside 1 … {min(matrix.shape)}")
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def _cast(pair: tuple[AnyArray, AnyArray], weight: AnyArray) -> Factors:
    first, last = (np.ascontiguousarray(factor).astype(weight.dtype) for factor in pair)
    return Factors(first, last)


def _finite(w: npt.ArrayLike, ndim: int) -> AnyArray:
    weight: AnyArray = np.asarray(w)
    if weight.ndim != ndim or not weight.size or weight.dtype.kind != "f":
        raise InputError(f"a weight of type {weight.dtype} and shape {weight.shape} has no such factors")
    require_finite(weight, "the weight")
    return weight
