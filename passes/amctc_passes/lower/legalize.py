"""Return to float what the target cannot compute in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.targets import Profile, load_profile
from amctc.types import I4, I8, I32, QuantizedType, TensorType
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    has_quantizer,
    is_quantized,
    quantized_type,
    stored_under,
)
from amctc_passes.quantize.layers import accumulator_scales, int4_obstacle, integer_obstacle, weight_only_obstacle


@register
@dataclass(frozen=True)
class Legalize(Pass):
    """Take the quantizers off layers that the target does not compute in integers, and say why.

    ``place-qdq`` asks the same question first, so after it nothing is left to do here unless the target changed or
    the quantizers came with the model. Quantized weights stay rounded: they become float constants, except in matrix
    products under float data where the target computes those (N21). Quantizers between other ops go as well where the
    target has none of their form (uint8, per channel). Values stay within the range of a quantizer taken off: other
    tools leave the clip of a relu to its saturation.
    """

    target: str = ""

    name: ClassVar[str] = "legalize"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("layers return to float"), requires=(NOT_LOWERED, UNOBSERVED),
        keeps=(WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.target:
            load_profile(self.target)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Strip quantizers where the target has no integer form."""
        target = load_profile(self.target) if self.target else context.target

        def legal(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            if isinstance(op.kind, quant.Dequantize):
                return self._dequantized(op, operands[0], context)
            if not isinstance(op.kind, nn.Layer | nn.AveragePool) or not any(map(is_quantized, op.operands)):
                return None
            if _is_weight_only(op):
                reason = weight_only_obstacle(op, target)
            else:
                reason = integer_obstacle(op, target) or self._obstacle(op, op.operands, target)
            if reason is None:
                return None
            context.note(self.name, layer_name(op), f"left in float: {reason}")
            stripped = tuple(map(_stripped, operands))
            return (Op(op.kind, stripped, (op.result.type,), (op.result.name,), op.origins).result,)

        return convert(graph, legal)

    def _dequantized(self, op: Op, stored: Value | None, context: Context) -> tuple[Value, ...] | None:
        """What was quantized, for an activation in a form that the target has no quantizer for."""
        assert stored is not None
        elem = stored.type.elem
        assert isinstance(elem, QuantizedType)
        quantizer = stored.producer
        if quantizer is None or not isinstance(quantizer.kind, quant.Quantize) or has_quantizer(elem):
            return None
        form = f"{elem.storage} per channel" if elem.axis is not None else f"{elem.storage}"
        context.note(self.name, layer_name(quantizer), f"left in float: no quantizer of the target stores {form}")
        source = quantizer.operands[0]
        assert source is not None
        return (_saturated(source, elem),)

    @staticmethod
    def _obstacle(op: Op, operands: tuple[Value | None, ...], target: Profile) -> str | None:
        """Quantizers that came in a form N24 cannot say."""
        kind = op.kind
        both = isinstance(kind, nn.Layer)
        if not all(map(is_quantized, operands[: 1 + both])):
            return "only some of its operands are quantized"
        activation = quantized_type(operands[0])
        if activation.axis is not None:
            return "activations quantized per channel"
        if activation.storage != I8:
            return f"activations stored as {activation.storage} are not simulated on {target.name} yet"
        if not isinstance(kind, nn.Layer):
            return None
        reason = _weight_obstacle(op, operands[1], activation, target)
        return reason or (None if len(operands) < 3 else _bias_obstacle(kind, operands))


def _is_weight_only(op: Op) -> bool:
    """True for a layer whose constant weight alone is quantized."""
    if not isinstance(op.kind, nn.Layer) or is_quantized(op.operands[0]) or not is_quantized(op.operands[1]):
        return False
    return constant_data(stored_under(op.operands[1])) is not None


def _weight_obstacle(op: Op, operand: Value | None, activation: QuantizedType, target: Profile) -> str | None:
    """What the target has no form for in a weight, or in the second side of a product of two computed ones."""
    kind, weight = op.kind, quantized_type(operand)
    assert isinstance(kind, nn.Layer)
    if constant_data(stored_under(operand)) is None:
        symmetric = not any((*activation.zero_points, *weight.zero_points))
        plain = symmetric and weight.axis is None and weight.storage == I8
        return None if plain else "two computed sides must be symmetric int8, per tensor"
    if any(weight.zero_points) or weight.storage not in (I8, I4):
        return "weights must be symmetric int8 (N10)"
    if weight.storage == I4 and (obstacle := int4_obstacle(op, target)) is not None:
        return f"an int4 weight of {obstacle} (N4)"
    plain_type = TensorType((None,) * stored_under(operand).type.rank, weight.expressed)
    if weight.axis is not None and weight.axis != nn.weight_channel_axis(kind, plain_type):
        return "weight scales do not run over output channels"
    return None


def _bias_obstacle(kind: nn.Layer, operands: tuple[Value | None, ...]) -> str | None:
    """A bias that the accumulator cannot start from: it must be int32 in steps of scale_w · scale_d (N9)."""
    data, weight, bias = operands
    if bias is None:
        return None
    if not is_quantized(bias):
        return "its bias is not quantized"
    elem = quantized_type(bias)
    if elem.storage != I32:
        return f"its bias is stored as {elem.storage}"
    steps = accumulator_scales(kind, quantized_type(data), quantized_type(weight))
    if len(elem.scales) not in (1, len(steps)) or not np.allclose(elem.scale_array, steps, rtol=STEP_ERROR, atol=0):
        return "its bias has other steps than weight scale times activation scale (N9)"
    return None


STEP_ERROR = 2.0**-22
"""Bias scales of other tools differ from the float32 product by its rounding."""


def _stripped(value: Value | None) -> Value | None:
    """A dequantized value in float again: what was quantized, or the float constant the integers stand for."""
    if value is None or not is_quantized(value):
        return value
    stored = stored_under(value)
    data, elem = constant_data(stored), stored.type.elem
    assert isinstance(elem, QuantizedType)
    if data is not None:
        return const(quant.dequantized(data, elem), name=value.name)
    assert stored.producer is not None
    source = stored.producer.operands[0]
    if not isinstance(stored.producer.kind, quant.Quantize) or source is None:
        return value
    return _saturated(source, elem)


def _saturated(value: Value, elem: QuantizedType) -> Value:
    """``value`` clipped to the reals that ``elem`` has, the widest of its channels."""
    steps, zeros = elem.scale_array.astype(np.float64), elem.zero_point_array.astype(np.float64)
    low, high = float(((elem.low - zeros) * steps).min()), float(((elem.high - zeros) * steps).max())
    return apply(nn.Clip(low, high), value)
