"""Rescale channels between layers so that one quantizer serves them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.calibrate.frontier import watched
from amctc.contract import Changes, Contract
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value
from amctc.numerics.equalization import ChannelWidths, equalizing_factors
from amctc.ops import nn
from amctc.pipeline import Batch, Context, Pass, register
from amctc.substitute import convert
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED
from amctc_passes.quantize.channels import ChannelClasses, channel_classes, contracted
from amctc_passes.quantize.layers import layers
from amctc_passes.quantize.rescaled import Factors, rescaled_layer, rescaled_normalization


@register
@dataclass(frozen=True)
class Equalize(Pass):
    """Make narrow channels of quantized activations wider, and the weights that read them smaller.

    Cross-layer equalisation (Nagel et al. 2019) with the balance of SmoothQuant (Xiao et al. 2023): a channel grows by
    ``room ** strength``, its room being how much narrower it is than the widest channel of its tensor over the
    samples. It goes through activations, pools, additions, concatenations and resampling, and starts at layers and
    at the scale and bias of normalisations. The network's function stays as it is, but for one thing: a channel under
    a clip (relu6) grows at most to the clip's bound, so beyond what the samples showed it saturates earlier.
    """

    strength: float = 0.5

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
        pinned = set(found.pinned().tolist())
        free = [c for c in np.unique(found.classes()).tolist() if c not in pinned]
        if not points or not free:
            return graph
        samples = context.calibration(self.name)
        values = list(dict.fromkeys([*(_data(op) for op in points), *(c.value for c in found.ceilings)]))
        factors = self._factors(found, points, _ranges(graph, found, values, samples, context.provider))

        def rescaled(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            written = _of(found, factors, op.results[0])
            if isinstance(op.kind, nn.Layer):
                channels = contracted(found, op)
                read = None if channels is None else _unless_one(factors[channels.numbers])
                changes = read is not None or written is not None
                return (rescaled_layer(op, operands, read, written),) if changes else None
            if written is not None and isinstance(
                op.kind, nn.LayerNorm | nn.BatchNorm | nn.InstanceNorm | nn.GroupNorm
            ):
                return (rescaled_normalization(op, operands, written),)
            return None

        return convert(graph, rescaled)

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


def _ranges(
    graph: Graph, found: ChannelClasses, values: list[Value], samples: Iterable[Batch], provider: str
) -> dict[Value, ChannelWidths]:
    """What the channels of ``values`` were over the samples."""
    ranges: dict[Value, ChannelWidths] = {}
    for arrays in watched(graph, values, samples, provider):
        for value, array in arrays.items():
            try:
                seen = ChannelWidths.of(array, found.of[value].axis)
            except AmctcError as error:
                raise error.located(f"value {value.name!r}") from None
            ranges[value] = ranges[value].merged(seen) if value in ranges else seen
    return ranges


def _data(op: Op) -> Value:
    value = op.operands[0]
    assert value is not None
    return value


def _of(found: ChannelClasses, factors: Factors, value: Value) -> Factors | None:
    return _unless_one(factors[found.of[value].numbers]) if value in found.of else None


def _unless_one(factors: Factors) -> Factors | None:
    return None if (factors == 1.0).all() else factors
