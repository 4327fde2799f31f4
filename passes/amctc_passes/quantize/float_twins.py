"""For each layer of a quantized graph, the float layer it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from amctc.data import Data
from amctc.ir import Graph, Op, Value, apply, constant_data, layer_name, with_operands
from amctc.numerics.linear import dequantize_linear
from amctc.ops import nn, quant
from amctc.types import Array, QuantizedType
from amctc_passes.facts import is_quantized, quantized_type, stored_under
from amctc_passes.quantize.layers import layers
from amctc_passes.quantize.reference import before_quantizer

MOST = 0.9
"""Share of channels whose weights are near enough."""


@dataclass(frozen=True)
class FloatTwin:
    """A float layer: what it reads, its weight, and its bias or ``None``."""

    data: Value
    weight: Data
    bias: Data | None


def float_twins(graph: Graph, chosen: Sequence[Op], reference: Graph | None) -> dict[Op, FloatTwin]:
    """The twins of the layers ``chosen`` of a quantized ``graph`` in the float network.

    Of a ``reference`` that computes the same layers, matched by their names. Of ``graph`` itself without the steps of
    its quantizers, with the weights it has, where there is none, or where its layer differs in kind or shape, or its
    weights are further off than rounding takes them: channels are balanced then, or the model was trained on.
    """
    twins = _without_steps(graph)
    found = {op: FloatTwin(_data(op, twins), *_constants(op)) for op in chosen}
    listed = [] if reference is None else list(layers(reference))
    times = Counter(map(layer_name, listed))
    named = {layer_name(op): op for op in listed if times[layer_name(op)] == 1}
    for op in chosen:
        other = named.get(layer_name(op))
        data = None if other is None or not _same_layer(op, other) else other.operands[0]
        if other is not None and data is not None:
            found[op] = FloatTwin(data, *_constants(other))
    return found


def _data(op: Op, twins: dict[Value, Value]) -> Value:
    data = op.operands[0]
    assert data is not None
    return twins[data]


def _without_steps(graph: Graph) -> dict[Value, Value]:
    """What becomes of each value where quantizers do not round. They still saturate: tools leave clips to them."""
    twins: dict[Value, Value] = {i: i for i in graph.inputs}
    for op in graph.ops:
        source = before_quantizer(op.results[0])
        if source is not op.results[0] and is_quantized(op.results[0]):
            twins[op.results[0]] = saturated(op.results[0], twins[source])
            continue
        operands = tuple(None if o is None else twins[o] for o in op.operands)
        same = all(a is b for a, b in zip(operands, op.operands, strict=True))
        twins.update(zip(op.results, (op if same else with_operands(op, operands)).results, strict=True))
    return twins


def saturated(quantized: Value, value: Value) -> Value:
    """``value`` in the range of the quantizer that ``quantized`` came through."""
    low, high = dequantize_linear(*_ends(quantized_type(quantized)))
    return apply(nn.Clip(float(low), float(high)), value)


def _ends(elem: QuantizedType) -> tuple[Array, Array, Array]:
    """The least and the largest integer of a type for activations, its scale and its zero point."""
    return np.array([elem.low, elem.high], np.int32), elem.scale_array[:1], elem.zero_point_array[:1]


def real_contents(value: Value | None) -> Data | None:
    """The contents of a constant, dequantized if it is quantized; ``None`` for what is computed or absent."""
    if not is_quantized(value):
        return constant_data(value)
    data = constant_data(stored_under(value))
    return None if data is None else quant.dequantized(data, quantized_type(value))


def _constants(op: Op) -> tuple[Data, Data | None]:
    weight = real_contents(op.operands[1])
    assert weight is not None, layer_name(op)
    return weight, real_contents(op.operand(2))


def _same_layer(op: Op, other: Op) -> bool:
    weights = [real_contents(o.operands[1]) for o in (op, other)]
    if (
        _linear(op) != _linear(other)
        or weights[0] is None
        or weights[1] is None
        or weights[0].shape != weights[1].shape
    ):
        return False
    return _within_rounding(op, weights[0].read(), weights[1].read())


def _linear(op: Op) -> nn.Layer:
    """The kind of a layer without its activation, which may be an op of its own in one of two graphs."""
    assert isinstance(op.kind, nn.Layer)
    return replace(op.kind, activation=None)


def _within_rounding(op: Op, rounded: Array, real: Array) -> bool:
    """Whether in most channels the weights are the real ones, rounded: half of them not a step away.

    Second-order rounding moves weights by about half a step, narrow ranges clip the largest. A normalisation that only
    one of the graphs has folded moves most of them further, unless it changes a channel by less than a few percent.
    """
    assert isinstance(op.kind, nn.Layer)
    weight = op.operands[1]
    assert weight is not None
    elem, shape = quantized_type(weight), [1] * rounded.ndim
    if elem.axis is not None:
        shape[elem.axis] = -1
    channels = nn.weight_channel_axis(op.kind, weight.type)
    others = tuple(axis for axis in range(rounded.ndim) if axis != channels)
    off = np.median(np.abs(rounded - real) / elem.scale_array.reshape(shape), axis=others)
    return bool((off < 1.0).mean() >= MOST)
