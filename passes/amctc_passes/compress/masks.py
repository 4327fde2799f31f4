"""Weights with some elements set to zero."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from amctc.data import Data, deferred
from amctc.ir import Graph, Op, Value, apply, const, constant_data
from amctc.numerics.sparsity import pack_mask, unpack_mask
from amctc.substitute import convert
from amctc.types import Array
from amctc_passes.compress.selection import weight_obstacle


def masked(weight: Value, mask: Array) -> Value:
    """The constant ``weight`` where ``mask`` is true, exactly 0 elsewhere; itself when all of that is 0 already.

    Computed when it is read: what is held is one bit per weight.
    """
    data = weight_data(weight)
    if not (data.read()[~mask] != 0).any():
        return weight
    words = pack_mask(mask)

    def cleared(array: Array) -> Array:
        return np.where(unpack_mask(words, array.shape), array, array.dtype.type(0))

    assert weight.producer is not None
    after = deferred("mask", cleared, data, shape=data.shape, dtype=data.dtype)
    return const(after, weight.type.elem, name=weight.name, origins=weight.producer.origins)


def with_weights(graph: Graph, weights: Mapping[Op, Value]) -> Graph:
    """The graph in which some layers read another weight."""

    def exchanged(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        if op not in weights or weights[op] is op.operands[1]:
            return None
        return (apply(op.kind, operands[0], weights[op], *operands[2:], name=op.result.name),)

    return convert(graph, exchanged)


def mask_obstacle(op: Op) -> str | None:
    """Why the weight of a layer has no magnitudes to go by; ``None`` when it has."""
    reason, data = weight_obstacle(op), constant_data(op.operands[1])
    if reason is not None or data is None:
        return reason
    if not data.size:
        return "its weight is empty"
    return None if np.isfinite(data.read()).all() else "its weight holds NaN or infinite values"


def weight_data(weight: Value) -> Data:
    """The contents of a constant weight."""
    data = constant_data(weight)
    assert data is not None
    return data


def remark(before: Value, after: Value) -> str:
    """How many weights are zero, and the share of the norm that the mask took."""
    old, new = (weight_data(v).read().astype(np.float64) for v in (before, after))
    zeros, norm = int((new == 0).sum()), float(np.linalg.norm(old))
    error = float(np.linalg.norm(old - new)) / norm if norm else 0.0
    return f"{zeros:,} of {new.size:,} weights are zero ({zeros / new.size:.1%}), relative error {error:.4f}"
