"""Rescale channels between layers so that one quantizer serves them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from amctc.calibrate.checkpoint import Collection
from amctc.calibrate.frontier import watched
from amctc.contract import Changes, Contract
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, layer_name
from amctc.numerics.equalization import ChannelWidths, equalizing_factors
from amctc.pipeline import Context, Pass, register
from amctc.types import Array
from amctc_passes.balance.channels import ChannelClasses, channel_classes, contracted
from amctc_passes.balance.rescaled import Factors, rescaled_graph
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED
from amctc_passes.quantize.layers import layers
from amctc_passes.ranges.batch_norm_statistics import channel_statistics

_SURE = 1 << 30
"""Values of a channel, so many that its width is known."""


@register
@dataclass(frozen=True)
class Equalize(Pass):
    """Make narrow channels of quantized activations wider, and the weights that read them smaller.

    Cross-layer equalisation (Nagel et al. 2019) with the balance of SmoothQuant (Xiao et al. 2023): a channel grows by
    ``room ** strength``, its room being how much narrower it is than the widest channel of its tensor over the
    samples. It goes through activations, pools, additions, concatenations and resampling, and starts at layers and
    at the scale and bias of normalisations. The network's function stays as it is, but for one thing: a channel under
    a clip (relu6) grows at most to the clip's bound, so beyond what the samples showed it saturates earlier.

    ``widths=batch-norm`` needs no samples: it takes six deviations to either side of the mean that batch
    normalisations give a channel, before ``fold-batch-norm``; values they say nothing of keep their channels.
    """

    strength: float = 0.5
    widths: Literal["samples", "batch-norm"] = "samples"

    name: ClassVar[str] = "equalize"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("channels are rescaled; clips act at what the samples reached"),
        requires=(UNQUANTIZED, UNOBSERVED), keeps=(TWO_OF_FOUR,), idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"strength={self.strength} is not above 0 and at most 1")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Find what can be rescaled, observe it, and put the factors into the constants around."""
        found = channel_classes(graph)
        points = [op for op in layers(graph) if contracted(found, op) is not None]
        if self.widths == "batch-norm":
            points = _with_statistics(found, points)
        pinned = set(found.pinned().tolist())
        free = [c for c in np.unique(found.classes()).tolist() if c not in pinned]
        if not points or not free:
            return graph
        values = list(dict.fromkeys([*(_data(op) for op in points), *(c.value for c in found.ceilings)]))
        if self.widths == "batch-norm":
            ranges = {v: _expected(v) for v in values}
        else:
            ranges = _ranges(graph, found, values, context)
        return rescaled_graph(graph, found, self._factors(found, points, ranges))

    def _factors(self, found: ChannelClasses, points: list[Op], ranges: Mapping[Value, ChannelWidths]) -> Factors:
        """The factor of every number: the least room that any quantizer or ceiling leaves its class."""
        classes = found.classes()
        room, seen = np.full(found.count, np.inf), np.full(found.count, np.inf)
        for value in map(_data, points):
            numbers = classes[found.of[value].numbers]
            np.minimum.at(room, numbers, ranges[value].room())
            np.minimum.at(seen, numbers, ranges[value].count)
        for ceiling in found.ceilings:
            numbers = found.of[ceiling.value].numbers
            np.minimum.at(room, classes[numbers], ranges[ceiling.value].room_below(ceiling.high))
        room[found.pinned()] = 1.0
        return equalizing_factors(room, self.strength, seen)[classes]


def _ranges(graph: Graph, found: ChannelClasses, values: list[Value], context: Context) -> dict[Value, ChannelWidths]:
    """What the channels of ``values`` were over the samples."""
    samples, collection = context.calibration(Equalize.name), context.collection(Equalize.name, values)
    ranges: dict[Value, ChannelWidths] = {}
    if collection.done:
        ranges = {v: _restored(collection, f"{i}", len(found.of[v].numbers)) for i, v in enumerate(values)}
    if collection.finished:
        return ranges
    for arrays in watched(graph, values, samples, context.provider, done=collection.done):
        for value, array in arrays.items():
            try:
                seen = ChannelWidths.of(array, found.of[value].axis)
            except AmctcError as error:
                raise error.located(_where(value)) from None
            ranges[value] = ranges[value].merged(seen) if value in ranges else seen
        collection.advance(lambda: _state(ranges[value] for value in values))
    collection.finish()
    return ranges


def _with_statistics(found: ChannelClasses, points: list[Op]) -> list[Op]:
    """The points whose data a batch normalisation determines; the channels of the others, and their ceilings, stay."""
    for value in (*map(_data, points), *(c.value for c in found.ceilings)):
        if channel_statistics(value) is None:
            found.pin(value)
    found.ceilings = [c for c in found.ceilings if channel_statistics(c.value) is not None]
    return [op for op in points if channel_statistics(_data(op)) is not None]


def _expected(value: Value) -> ChannelWidths:
    """How wide a batch normalisation makes the channels of ``value``, sure of it as after many samples."""
    statistics = channel_statistics(value)
    assert statistics is not None
    low, high = statistics.ends()
    return ChannelWidths(np.minimum(low, 0.0), np.maximum(high, 0.0), _SURE)


def _where(value: Value) -> str:
    """The name of ``value``; the layer that computes it where it has none."""
    if value.name is None and value.producer is not None:
        return layer_name(value.producer)
    return f"value {value.name!r}"


def _state(ranges: Iterable[ChannelWidths]) -> dict[str, Array]:
    state: dict[str, Array] = {}
    for i, widths in enumerate(ranges):
        state |= {f"{i} low": widths.low, f"{i} high": widths.high, f"{i} count": np.array(widths.count, np.int64)}
    return state


def _restored(found: Collection, name: str, channels: int) -> ChannelWidths:
    low, high = (found.array(f"{name} {end}", (channels,), np.float64) for end in ("low", "high"))
    return ChannelWidths(low, high, int(found.array(f"{name} count", (), np.int64)))


def _data(op: Op) -> Value:
    value = op.operands[0]
    assert value is not None
    return value
