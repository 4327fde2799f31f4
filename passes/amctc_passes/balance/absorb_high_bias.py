"""Move what every value of a channel lies above through its relu, into the biases of the layers that read it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.analysis import uses
from amctc.calibrate.checkpoint import Collection
from amctc.calibrate.frontier import watched
from amctc.contract import Changes, Contract
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, layer_name
from amctc.numerics.channel_moments import ChannelMoments, high_bias
from amctc.ops import nn
from amctc.pattern import NoMatch
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import Array
from amctc_passes.balance.channels import rescalable
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED
from amctc_passes.quantize.layers import layers
from amctc_patterns.layers import (
    channel_bias,
    input_channel_axis,
    input_channels,
    output_channels,
    rounded,
    with_affine_input,
    with_affine_result,
)


@register
@dataclass(frozen=True)
class AbsorbHighBias(Pass):
    """Narrow activations whose channels never come near 0: their least value moves into the next layers' biases.

    High-bias absorption (Nagel et al. 2019, section 4.1.3): where z ≥ c > 0, relu(z) is relu(z - c) + c; c leaves the
    bias of the layer before and enters those of the layers behind, times their weights. Exact for all data whose z do
    not fall below c, and below the bound of a clip. c is the least value of the channel over the samples; with
    ``deviations`` so many standard deviations below the mean (3 in the paper), if that is more, and then the rare
    values below are cut off.

    For layers that carry a relu, or a clip from 0 that the samples did not reach in that channel, and whose result
    nothing reads but layers of constant weight without padding: padding is 0 behind the shift, not before.
    """

    deviations: float = math.inf

    name: ClassVar[str] = "absorb-high-bias"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("values below what the samples showed are cut off"), requires=(UNQUANTIZED, UNOBSERVED),
        keeps=(TWO_OF_FOUR,), idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.deviations > 0.0:
            raise ValueError(f"deviations={self.deviations} is not positive")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Find the pairs, observe what is between them, and shift."""
        chosen = [op for op in layers(graph) if _gives(op) and _is_absorbed(graph, op)]
        if not chosen:
            return graph
        shifts: dict[Value, Array] = {}
        for op, seen in zip(chosen, _moments(graph, chosen, context), strict=True):
            shift = _taken_off(op, high_bias(seen, self.deviations, _ceiling(op)))
            if shift.any():
                shifts[op.result] = shift
                text = f"{np.count_nonzero(shift)} of {shift.size} channels shifted by up to {shift.max():.3g}"
                context.note(self.name, layer_name(op), text)
        return shifted(graph, shifts)


def shifted(graph: Graph, shifts: Mapping[Value, Array]) -> Graph:
    """``graph`` with shifts [C] taken off the results of layers, and given back in the layers that read them."""

    def conversion(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        data = op.operands[0] if op.operands else None
        read, written = None if data is None else shifts.get(data), shifts.get(op.results[0])
        if read is None and written is None:
            return None
        kind, (x, weight, *rest) = op.kind, operands
        assert isinstance(kind, nn.Layer)
        assert x is not None
        assert weight is not None
        bias = rest[0] if rest else None
        if read is not None:
            value = with_affine_input(kind, x, weight, bias, None, read)
            assert value.producer is not None
            kind, bias = value.producer.kind, value.producer.operand(2)
            assert isinstance(kind, nn.Layer)
        if written is not None:
            value = with_affine_result(kind, x, weight, bias, None, -written)
        return (value,)

    return convert(graph, conversion) if shifts else graph


def _gives(op: Op) -> bool:
    """True for a layer from whose bias a shift can come off, in front of a relu."""
    kind = op.kind
    assert isinstance(kind, nn.Layer)
    clip = isinstance(kind.activation, nn.Clip) and kind.activation.low == 0.0
    return rescalable(op) and (clip or isinstance(kind.activation, nn.Relu)) and _takes(op, result=True)


def _is_absorbed(graph: Graph, op: Op) -> bool:
    """Whether all that reads the result of ``op`` can take a shift of its channels."""
    axis = _axis(op)
    return all(
        user is not None and position == 0 and isinstance(user.kind, nn.Layer) and rescalable(user)
        and input_channel_axis(user.kind, op.result.type.rank) == axis and _takes(user, result=False)
        for user, position in uses(graph).get(op.result, ())
    )  # fmt: skip


def _takes(op: Op, *, result: bool) -> bool:
    """Whether a constant added to the channels of the result, or of the data, can go into the bias of ``op``."""
    kind, data, weight = op.kind, op.operands[0], op.operands[1]
    assert isinstance(kind, nn.Layer)
    assert data is not None
    assert weight is not None
    try:
        if result:
            with_affine_result(kind, data, weight, op.operand(2), None, np.zeros(output_channels(kind, weight.type)))
        else:
            with_affine_input(kind, data, weight, op.operand(2), None, np.ones(input_channels(kind, weight.type)))
    except NoMatch:
        return False
    return True


def _taken_off(op: Op, shift: Array) -> Array:
    """What the bias of ``op`` loses where it is rounded, so that the layers behind get that and no more."""
    weight = op.operands[1]
    assert isinstance(op.kind, nn.Layer)
    assert weight is not None
    old = channel_bias(op.kind, weight.type, op.operand(2))
    return np.asarray(old - rounded(old - shift, weight.type))


def _axis(op: Op) -> int:
    assert isinstance(op.kind, nn.Layer)
    return nn.result_channel_axis(op.kind, op.result.type.rank)


def _ceiling(op: Op) -> float:
    assert isinstance(op.kind, nn.Layer)
    activation = op.kind.activation
    return activation.high if isinstance(activation, nn.Clip) else math.inf


def _moments(graph: Graph, chosen: Sequence[Op], context: Context) -> list[ChannelMoments]:
    """What the channels of the results of ``chosen`` were over the samples."""
    name = AbsorbHighBias.name
    collection, seen = context.collection(name, chosen), dict[Op, ChannelMoments]()
    if collection.done:
        seen = {op: _restored(collection, f"{i}", op) for i, op in enumerate(chosen)}
    if not collection.finished:
        results = [op.result for op in chosen]
        for arrays in watched(graph, results, context.calibration(name), context.provider, done=collection.done):
            for op in chosen:
                try:
                    found = ChannelMoments.of(arrays[op.result], _axis(op))
                except AmctcError as error:
                    raise error.located(layer_name(op)) from None
                seen[op] = seen[op].merged(found) if op in seen else found
            collection.advance(lambda: _state(seen.values()))
        collection.finish()
    return list(seen.values())


def _state(seen: Iterable[ChannelMoments]) -> dict[str, Array]:
    state: dict[str, Array] = {}
    for i, m in enumerate(seen):
        state[f"{i} moments"] = np.stack([m.low, m.high, m.mean, m.square])
        state[f"{i} count"] = np.array(m.count, np.int64)
    return state


def _restored(found: Collection, name: str, op: Op) -> ChannelMoments:
    weight = op.operands[1]
    assert isinstance(op.kind, nn.Layer)
    assert weight is not None
    low, high, mean, square = found.array(f"{name} moments", (4, output_channels(op.kind, weight.type)), np.float64)
    return ChannelMoments(low, high, mean, square, int(found.array(f"{name} count", (), np.int64)))
