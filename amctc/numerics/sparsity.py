"""Masks of weights to keep, and the form of 2-of-4 sparse weights on the wire (N22)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, BoolArray, Int64Array, require_finite

GROUP, KEPT = 4, 2
"""Weights that share their indices, and how many of them the hardware keeps (N22)."""

_WORD_BITS = 64


class SparseWeight(NamedTuple):
    """Compacted weights and their indices, both with two slots where the dense axis had four elements.

    ``values`` has the weight's type; ``indices`` uint8 holds idx0 and idx1 in turn, each 0 … 2: the first slot is
    element idx0 of its group, the second element idx1 + 1. An unused slot holds 0.
    """

    values: AnyArray
    indices: npt.NDArray[np.uint8]


def magnitude_mask(w: npt.ArrayLike, sparsity: float) -> BoolArray:
    """True for the weights to keep: RNE(sparsity · size) of the smallest magnitudes go; the shape of ``w``.

    Of equal magnitudes the first in C order stay. Raises InputError for a sparsity outside [0, 1] and weights that
    are not finite.
    """
    if not 0.0 <= sparsity <= 1.0:
        raise InputError(f"a sparsity is in [0, 1], not {sparsity}")
    magnitude = _magnitude(w)
    mask = np.zeros(magnitude.size, np.bool_)
    kept = magnitude.size - round(sparsity * magnitude.size)
    mask[np.argsort(-magnitude.reshape(-1), kind="stable")[:kept]] = True
    return mask.reshape(magnitude.shape)


def n_of_m_mask(w: npt.ArrayLike, *, axis: int = 1, n: int = KEPT, m: int = GROUP) -> BoolArray:
    """True for the ``n`` largest magnitudes of every ``m`` consecutive elements along ``axis``; the shape of ``w``.

    The axis is padded with zeros to whole groups. Of equal magnitudes the first stay, so padding never displaces a
    weight, and up to n elements are all kept. Raises InputError unless 1 ≤ n ≤ m.
    """
    if not 1 <= n <= m:
        raise InputError(f"{n} of {m} weights cannot be kept")
    groups = _grouped(_magnitude(w), axis, m)
    order = np.argsort(-groups, axis=-1, kind="stable")
    mask = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(mask, order[..., :n], True, axis=-1)
    return _ungrouped(mask, axis, np.asarray(w).shape)


def has_n_of_m(w: npt.ArrayLike, *, axis: int = 1, n: int = KEPT, m: int = GROUP) -> bool:
    """Whether at most ``n`` of every ``m`` consecutive elements along ``axis`` are not zero."""
    used = _grouped(np.asarray(w) != 0, axis, m).sum(axis=-1)
    return bool((used <= n).all())


def encode_two_of_four(
    w: npt.ArrayLike, *, axis: int = 1, lone_third: Literal["same", "zero"] = "same"
) -> SparseWeight:
    """The compact form (N22) of weights with at most two non-zero among four along ``axis``, padded to whole groups.

    idx0 is the position of the first non-zero among elements 0 – 2, idx1 that of the last among elements 1 – 3, minus
    1; both 0 where there is none. A lone element 1 or 2 is named by both indices and stored in the first slot only.
    The vendor's pages disagree on one case, [0, 0, x, 0]: ``lone_third="same"`` gives (2, 1), by the rule, and
    ``"zero"`` gives (2, 0). Raises InputError where a group has more than two non-zero weights.
    """
    weights: AnyArray = np.asarray(w)
    groups = _grouped(weights, axis, GROUP)
    used = groups != 0
    if (used.sum(axis=-1) > KEPT).any():
        raise InputError("a group of four weights has more than two that are not zero", rule="N22")
    first = np.argmax(used[..., :3], axis=-1)
    last = np.where(used[..., 1:].any(axis=-1), 2 - np.argmax(used[..., :0:-1], axis=-1), 0)
    alone = first == last + 1
    slots = np.stack([first, last + 1], axis=-1)
    values = np.take_along_axis(groups, slots, axis=-1)
    values[..., 1] = np.where(alone, 0, values[..., 1])
    if lone_third == "zero":
        last = np.where(alone & (first == 2), 0, last)
    shape = list(weights.shape)
    shape[axis] = KEPT * groups.shape[-2]
    indices = np.stack([first, last], axis=-1).astype(np.uint8)
    return SparseWeight(_ungrouped(values, axis, tuple(shape)), _ungrouped(indices, axis, tuple(shape)))


def decode_two_of_four(sparse: SparseWeight, length: int, *, axis: int = 1) -> AnyArray:
    """The dense weight with ``length`` elements along ``axis``: the inverse of :func:`encode_two_of_four`.

    Both vendor forms decode alike, because an unused slot adds 0. Raises InputError for indices beyond 2 or a length
    that the slots do not cover.
    """
    values, indices = _grouped(sparse.values, axis, KEPT), _grouped(sparse.indices, axis, KEPT).astype(np.intp)
    if values.shape != indices.shape or sparse.values.shape[axis] != KEPT * -(-length // GROUP):
        raise InputError(f"{sparse.values.shape[axis]} slots do not hold {length} weights", rule="N22")
    if (indices > 2).any():
        raise InputError("a 2-of-4 index is beyond 2", rule="N22")
    groups = np.zeros((*values.shape[:-1], GROUP), values.dtype)
    for slot in range(KEPT):
        at = indices[..., slot : slot + 1] + slot
        sums = np.take_along_axis(groups, at, axis=-1) + values[..., slot : slot + 1]
        np.put_along_axis(groups, at, sums, axis=-1)
    shape = list(sparse.values.shape)
    shape[axis] = length
    return _ungrouped(groups, axis, tuple(shape))


def pack_mask(mask: npt.ArrayLike) -> Int64Array:
    """A mask as the words of a prune record: C order, first bit highest in its byte, bytes in little-endian int64."""
    kept = np.asarray(mask, np.bool_).reshape(-1)
    packed = np.packbits(np.pad(kept, (0, -kept.size % _WORD_BITS)))
    return packed.view("<i8").astype(np.int64)


def unpack_mask(words: npt.ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """The mask of ``shape`` from its words; raises InputError when their number does not fit."""
    packed = np.asarray(words, "<i8").reshape(-1)
    size = int(np.prod(shape))
    if packed.size != -(-size // _WORD_BITS):
        raise InputError(f"{packed.size} words do not hold a mask of shape {shape}")
    return np.unpackbits(packed.view(np.uint8), count=size).astype(np.bool_).reshape(shape)


def _magnitude(w: npt.ArrayLike) -> AnyArray:
    weights: AnyArray = np.asarray(w)
    if weights.dtype.kind != "f":
        weights = weights.astype(np.float64)  # |-128| does not fit int8
    require_finite(weights, "the weight")
    return np.abs(weights)


def _grouped(x: AnyArray, axis: int, size: int) -> AnyArray:
    """``x`` with ``axis`` last, padded with zeros and cut: [..., groups, size]."""
    if not -x.ndim <= axis < x.ndim:
        raise InputError(f"axis {axis} is outside an array of rank {x.ndim}")
    rows = np.moveaxis(x, axis, -1)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -rows.shape[-1] % size)]
    padded: AnyArray = np.pad(rows, padding)
    return padded.reshape(*rows.shape[:-1], padded.shape[-1] // size, size)


def _ungrouped(groups: AnyArray, axis: int, shape: tuple[int, ...]) -> AnyArray:
    """The inverse of :func:`_grouped` to an array of ``shape``."""
    rows = groups.reshape(*groups.shape[:-2], groups.shape[-2] * groups.shape[-1])[..., : shape[axis]]
    return np.ascontiguousarray(np.moveaxis(rows, -1, axis))
