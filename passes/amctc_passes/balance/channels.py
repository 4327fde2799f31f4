"""Which channels of which values can only be rescaled together.

Multiplying channel c of a layer's result by a positive factor, and dividing by it where later layers read it, leaves
the network's function as it is, as long as all that lies between is positively homogeneous (Nagel et al. 2019, section
4.1). Every channel that a producer may rescale gets a number. What lies between carries the numbers along, an addition
makes two numbers one, and whatever a factor cannot pass pins the numbers it reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from amctc.analysis import is_identity
from amctc.ir import Graph, Op, Value, constant_data
from amctc.ops import nn
from amctc.schema import OpKind

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Channels:
    """The numbers of a value's channels: ``numbers[i]`` belongs to index i along ``axis``."""

    axis: int
    numbers: Numbers


@dataclass(frozen=True)
class Ceiling:
    """``value`` was clipped at ``high``: its channels may grow no further than that."""

    value: Value
    high: float


@dataclass
class ChannelClasses:
    """The channels of a graph that can be rescaled.

    ``of`` gives the channels of a value, ``ceilings`` the clipped values. Channels of one class (:meth:`classes`) take
    one factor; :meth:`pinned` classes keep the factor 1.
    """

    of: dict[Value, Channels] = field(default_factory=dict)
    ceilings: list[Ceiling] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)
    _pins: set[int] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self._parent)

    def classes(self) -> Numbers:
        """The class of every number."""
        return np.array([self._root(i) for i in range(self.count)], np.int64)

    def pinned(self) -> Numbers:
        """Classes whose factor is 1."""
        return np.array(sorted({self._root(i) for i in self._pins}), np.int64)

    def pin(self, value: Value | None) -> None:
        """The channels of ``value`` keep their scale."""
        if value is not None and value in self.of:
            self._pins.update(self.of[value].numbers.tolist())

    def start(self, value: Value, axis: int) -> None:
        """New numbers for the channels of ``value`` along ``axis``, if it is known how many there are."""
        channels = value.type.dims[axis]
        if isinstance(channels, int):
            first = len(self._parent)
            self._parent.extend(range(first, first + channels))
            self.of[value] = Channels(axis, np.arange(first, first + channels))

    def unite(self, a: Numbers, b: Numbers) -> None:
        """Two runs of channels take the same factors."""
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            self._parent[self._root(i)] = self._root(j)

    def clip(self, value: Value, kind: OpKind | None) -> None:
        """``value`` went through the activation ``kind``."""
        if isinstance(kind, nn.Clip) and math.isfinite(kind.high):
            self.ceilings.append(Ceiling(value, kind.high))

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number


def channel_classes(graph: Graph) -> ChannelClasses:
    """The channels of ``graph`` that can be rescaled, found in one walk; graph outputs are pinned."""
    from amctc_passes.balance.channel_flow import FLOW, unchanged  # those rules are written in terms of this module

    found, shared = ChannelClasses(), _layers_with_shared_weights(graph)
    for op in graph.ops:
        flow = FLOW.get(type(op.kind), unchanged if is_identity(op) else None)
        if isinstance(op.kind, nn.Layer):
            _layer(found, op, op in shared)
        elif flow is None or not flow(found, op):
            for operand in op.operands:
                found.pin(operand)
    for value in graph.outputs:
        found.pin(value)
    found.ceilings = [c for c in found.ceilings if c.value in found.of]
    return found


def contracted(found: ChannelClasses, op: Op) -> Channels | None:
    """The channels of a layer's data, where they run along the axis that the weight contracts."""
    data, kind = op.operands[0], op.kind
    assert data is not None
    assert isinstance(kind, nn.Layer)
    axis = 1 if isinstance(kind, nn.Conv | nn.ConvTranspose) else data.type.rank - 1
    channels = found.of.get(data)
    return channels if channels is not None and channels.axis == axis else None


def rescalable(op: Op) -> bool:
    """True for a layer whose weight and bias are constants that factors can go into."""
    constant = all(o is None or constant_data(o) is not None for o in op.operands[1:])
    weight = op.operands[1]
    assert weight is not None
    return constant and weight.type.is_float and weight.type.rank >= 2 and not getattr(op.kind, "trans_a", False)


def homogeneous(kind: OpKind | None) -> bool:
    """True for activations with f(s·x) = s·f(x), s > 0; a clip at a positive bound counts, up to that ceiling."""
    if isinstance(kind, nn.Clip):
        return kind.low in (0.0, -math.inf) and kind.high > 0
    return kind is None or isinstance(kind, nn.Relu | nn.LeakyRelu)


def _layer(found: ChannelClasses, op: Op, shared: bool) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Layer)
    free = rescalable(op) and not shared
    if not free or contracted(found, op) is None:
        for operand in op.operands:
            found.pin(operand)
    if free:
        found.start(op.result, nn.result_channel_axis(kind, op.result.type.rank))
        found.clip(op.result, kind.activation)
        if not homogeneous(kind.activation):
            found.pin(op.result)


def _layers_with_shared_weights(graph: Graph) -> set[Op]:
    """Layers that share a weight with another: rescaled, each would need one of its own."""
    readers: dict[Value | None, list[Op]] = {}
    for op in graph.ops:
        if isinstance(op.kind, nn.Layer):
            readers.setdefault(op.operands[1], []).append(op)
    return {op for ops in readers.values() if len(ops) > 1 for op in ops}
