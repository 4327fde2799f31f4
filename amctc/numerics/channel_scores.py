"""Which output channels to prune: scores of channels, and the masks that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import BoolArray, Float64Array, require_finite

ASCEND_BLOCK = 16
"""Channels in an fp16 block (C0); what the existing tool aligns the kept channels to."""


def balanced_l2_scores(w: npt.ArrayLike, axis: int = 0) -> Float64Array:
    """BalancedL2Norm of the channels along ``axis``, in [0, 1]: ‖w_c‖₂ / (numel / C), min-max normalised.

    Source: calibration formulas (BalancedL2), ``custom_op/bcp`` of AMCT; in float64 where the tool has float32. Where
    all norms are equal the tool divides 0 by 0; here all scores are 0. Raises InputError for weights not finite.
    """
    weight: Float64Array = np.asarray(w, np.float64)
    require_finite(weight, "the weight")
    if not weight.size or not -weight.ndim <= axis < weight.ndim:
        raise InputError(f"axis {axis} of a weight of shape {weight.shape} has no channels")
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    norms = np.linalg.norm(rows, axis=1) / rows.shape[1]
    spread = float(norms.max() - norms.min())
    return np.asarray((norms - norms.min()) / spread) if spread > 0.0 else np.zeros(norms.size)


def summed_scores(scores: Sequence[Float64Array]) -> Float64Array:
    """One score per channel from those of all layers that produce it (the tool concatenates, and uses the first)."""
    if not scores or any(s.shape != scores[0].shape for s in scores):
        raise InputError("producers of one tensor must have equally many channels")
    return np.asarray(np.sum(scores, axis=0), np.float64)


def pruned_channels(channels: int, ratio: float, *, multiple: int = 1, groups: int = 1) -> int:
    """How many of ``channels`` to prune for a ``ratio`` in (0, 1).

    remaining = channels - RNE(channels·ratio), rounded up to ``multiple`` (at least one), then down to a multiple of
    ``groups`` (at least one per group). 0 where that is more than there are: the tool returns a negative number.
    """
    if not 0.0 < ratio < 1.0 or channels < 1 or multiple < 1 or groups < 1:
        raise InputError(f"no share {ratio} of {channels} channels in {groups} groups can be pruned")
    remaining = max(math.ceil((channels - round(channels * ratio)) / multiple), 1 if multiple > 1 else 0) * multiple
    remaining = remaining // groups * groups or groups
    return max(channels - remaining, 0)


def channel_mask(scores: Float64Array, pruned: int, *, groups: int = 1) -> BoolArray:
    """True for the channels to keep: ``pruned`` / ``groups`` of the lowest scores go in each group of neighbours.

    Of equal scores the first go, as in the tool. Raises InputError when the channels do not divide into the groups
    or a group would lose all of its channels.
    """
    if groups < 1 or scores.size % groups or not 0 <= pruned // groups < scores.size // groups:
        raise InputError(f"{pruned} of {scores.size} channels in {groups} groups cannot be pruned")
    rows = scores.reshape(groups, -1)
    mask = np.ones(rows.shape, np.bool_)
    order = np.argsort(rows, axis=1, kind="stable")
    np.put_along_axis(mask, order[:, : pruned // groups], False, axis=1)
    return mask.reshape(-1)
