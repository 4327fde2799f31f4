"""How channels pass through ops that are no layers: one rule per op kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from amctc.ir import Op, Value, constant_data
from amctc.ops import nn
from amctc.schema import OpKind
from amctc_passes.balance.channels import ChannelClasses, Channels, homogeneous

Flow = Callable[[ChannelClasses, Op], bool]
"""Gives the result its channels; ``False`` where a factor cannot pass, so that the operands must be pinned."""


def unchanged(found: ChannelClasses, op: Op) -> bool:
    """The result has the channels of the first operand."""
    source = _source(found, op)
    if source is not None:
        found.of[op.result] = source
    return True


def _data(op: Op) -> Value:
    value = op.operands[0]
    assert value is not None
    return value


def _source(found: ChannelClasses, op: Op) -> Channels | None:
    return found.of.get(_data(op))


def _clip(found: ChannelClasses, op: Op) -> bool:
    if not homogeneous(op.kind):
        return False
    found.clip(op.result, op.kind)
    return unchanged(found, op)


def _pool(found: ChannelClasses, op: Op) -> bool:
    source = _source(found, op)
    return (source is None or source.axis == 1) and unchanged(found, op)


def _prelu(found: ChannelClasses, op: Op) -> bool:
    return op.operands[1] not in found.of and unchanged(found, op)


def _other_axes(found: ChannelClasses, op: Op) -> bool:
    """Resampling and reductions along axes other than the channels, which stay where they are."""
    source, kind = _source(found, op), op.kind
    assert isinstance(kind, nn.Resize | nn.ReduceMean | nn.ReduceMax | nn.ReduceSum)
    if source is None:
        return True
    axes = {a % _data(op).type.rank for a in kind.axes}
    if source.axis in axes:
        return False
    before = 0 if isinstance(kind, nn.Resize) or kind.keepdims else sum(a < source.axis for a in axes)
    found.of[op.result] = replace(source, axis=source.axis - before)
    return True


def _pad(found: ChannelClasses, op: Op) -> bool:
    source, kind = _source(found, op), op.kind
    assert isinstance(kind, nn.Pad)
    if source is None:
        return True
    rank = len(kind.pads) // 2
    no_constant = kind.mode != "constant" or kind.value == 0
    return no_constant and kind.pads[source.axis] == kind.pads[source.axis + rank] == 0 and unchanged(found, op)


def _sum(found: ChannelClasses, op: Op) -> bool:
    """Channels that are added take one factor; a broadcast along the channels, or a constant, takes none."""
    a, b = (None if o is None else found.of.get(o) for o in op.operands)
    ranks = {o.type.rank for o in op.operands if o is not None}
    if a is None or b is None or len(ranks) != 1 or a.axis != b.axis or a.numbers.size != b.numbers.size:
        return False
    found.unite(a.numbers, b.numbers)
    found.of[op.result] = a
    return True


def _product(found: ChannelClasses, op: Op) -> bool:
    """A gate scales its data: factors of the data pass, those of the gate do not."""
    data, gate = op.operands
    if data not in found.of or data.type.shape != op.result.type.shape:
        data, gate = gate, data
    found.pin(gate)
    if data is None or data not in found.of:
        return True
    if data.type.shape != op.result.type.shape:
        return False
    found.of[op.result] = found.of[data]
    return True


def _concat(found: ChannelClasses, op: Op) -> bool:
    """Joined channels keep their numbers; parts without any get numbers that are pinned."""
    kind = op.kind
    assert isinstance(kind, nn.Concat)
    axis = kind.axis % op.result.type.rank
    parts = [o for o in op.operands if o is not None]
    if all(p not in found.of for p in parts):
        return True
    for part in parts:
        if part not in found.of:
            found.start(part, axis)
            found.pin(part)
    channels = [found.of.get(p) for p in parts]
    if any(c is None or c.axis != axis for c in channels):
        return False
    found.of[op.result] = Channels(axis, np.concatenate([c.numbers for c in channels if c is not None]))
    return True


def _split(found: ChannelClasses, op: Op) -> bool:
    source, kind = _source(found, op), op.kind
    assert isinstance(kind, nn.Split)
    if source is None:
        return True
    parts = [source.numbers] * len(op.results)
    if source.axis == kind.axis % _data(op).type.rank:
        parts = np.split(source.numbers, np.cumsum(kind.sizes)[:-1].tolist())
    for result, numbers in zip(op.results, parts, strict=True):
        found.of[result] = Channels(source.axis, numbers)
    return True


def _slice(found: ChannelClasses, op: Op) -> bool:
    source, kind = _source(found, op), op.kind
    assert isinstance(kind, nn.Slice)
    if source is None:
        return True
    numbers, rank = source.numbers, _data(op).type.rank
    for axis, start, end, step in zip(kind.axes, kind.starts, kind.ends, kind.steps, strict=True):
        if axis % rank == source.axis:
            if step < 0:
                return False
            numbers = numbers[start:end:step]
    found.of[op.result] = Channels(source.axis, numbers)
    return True


def _transpose(found: ChannelClasses, op: Op) -> bool:
    source, kind = _source(found, op), op.kind
    assert isinstance(kind, nn.Transpose)
    if source is not None:
        found.of[op.result] = replace(source, axis=kind.permutation.index(source.axis))
    return True


def _reshape(found: ChannelClasses, op: Op) -> bool:
    """Axes behind the channels may be cut and joined, or joined to the channels: each is then repeated."""
    source = _source(found, op)
    if source is None:
        return True
    old, new, axis = _data(op).type.dims, op.result.type.dims, source.axis
    if old[:axis] != new[:axis] or axis >= len(new):
        return False
    if old[axis] == new[axis]:
        return unchanged(found, op)
    behind = [d for d in old[axis + 1 :] if isinstance(d, int)]
    if len(new) != axis + 1 or len(behind) != len(old) - axis - 1:
        return False
    found.of[op.result] = Channels(axis, np.repeat(source.numbers, math.prod(behind)))
    return True


def _normalization(found: ChannelClasses, op: Op) -> bool:
    """Factors end here; new ones can start, in a constant scale and bias per channel."""
    found.pin(_data(op))
    kind, rank = op.kind, op.result.type.rank
    axis = rank - 1 if isinstance(kind, nn.LayerNorm) else 1
    parameters = [o for o in op.operands[1:3] if o is not None]
    per_channel = {o.type.dims for o in parameters} == {(op.result.type.dims[axis],)}
    last = not isinstance(kind, nn.LayerNorm) or kind.axis % rank == axis
    if per_channel and last and all(constant_data(o) is not None for o in parameters):
        found.start(op.result, axis)
    return True


FLOW: Mapping[type[OpKind], Flow] = {
    nn.Relu: unchanged, nn.LeakyRelu: unchanged, nn.Clip: _clip, nn.PRelu: _prelu,
    nn.MaxPool: _pool, nn.AveragePool: _pool, nn.GlobalAveragePool: _pool, nn.GlobalMaxPool: _pool,
    nn.Resize: _other_axes, nn.ReduceMean: _other_axes, nn.ReduceMax: _other_axes, nn.ReduceSum: _other_axes,
    nn.Pad: _pad, nn.Add: _sum, nn.Sub: _sum, nn.Mul: _product, nn.Concat: _concat, nn.Split: _split,
    nn.Slice: _slice, nn.Transpose: _transpose, nn.Reshape: _reshape, nn.Flatten: _reshape,
    nn.LayerNorm: _normalization, nn.BatchNorm: _normalization, nn.InstanceNorm: _normalization,
    nn.GroupNorm: _normalization,
}  # fmt: skip
"""The rules by op kind; any other op pins what it reads."""
