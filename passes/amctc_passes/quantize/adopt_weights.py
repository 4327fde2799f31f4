"""Bring weights that came quantized into the form in which the target computes with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from amctc.contract import Changes, Contract
from amctc.data import deferred
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.bias import fits_int32, quantize_bias
from amctc.numerics.linear import quantize_weight, spread
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I8, U8, QuantizedType
from amctc_passes.facts import (
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    is_quantized,
    quantized_type,
    stored_under,
)
from amctc_passes.quantize.layers import accumulator_scales, integer_obstacle
from amctc_passes.quantize.stored_forms import activation_obstacle, bias_obstacle, weight_obstacle
from amctc_passes.weights.weight_types import WeightScheme, dequantized_weight


@register
@dataclass(frozen=True)
class AdoptWeights(Pass):
    """Store 8-bit weights that came with zero points, or scales over another axis, as symmetric int8 (N10).

    A channel whose integers less their zero point are int8 keeps its scale and its numbers. Any other is rounded a
    second time, to a scale of its own, and a note counts them. So is one whose bias would leave int32 in its steps
    (N9). A bias in steps of other scales becomes float, for ``quantize-bias``. Layers that the target does not compute
    in integers anyway stay as they came, and so do weights of 4 and 16 bits and weights in blocks.
    """

    name: ClassVar[str] = "adopt-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("channels beyond int8 are rounded again"), requires=(NOT_LOWERED, UNOBSERVED),
        keeps=(WEIGHTS_QUANTIZED, TWO_OF_FOUR),
    )  # fmt: skip

    def run(self, graph: Graph, context: Context) -> Graph:
        """Rebuild the layers whose constants have no form on the target."""
        return convert(graph, lambda op, operands: self._adopted(op, operands, context))

    def _adopted(self, op: Op, operands: tuple[Value | None, ...], context: Context) -> tuple[Value, ...] | None:
        if not _has_integer_form(op, context):
            return None
        data, weight, *rest = operands
        activation, bias = quantized_type(data), _real(op.operand(2))
        kept = _exact_channels(op, activation, bias)
        if weight_obstacle(op, activation, context.target) is not None or not kept.all():
            weight = self._stored(op, operands, bias, kept, context)
        if bias is not None and bias_obstacle(op, activation, quantized_type(weight)) is not None:
            rest = [bias]
        if weight is operands[1] and rest == list(operands[2:]):
            return None
        return (apply(op.kind, data, weight, *rest, name=op.result.name),)

    def _stored(
        self, op: Op, operands: tuple[Value | None, ...], bias: Value | None, kept: NDArray[np.bool_], context: Context
    ) -> Value:
        """The weight in symmetric int8: on its own scales where ``kept``, else on those that fit each channel."""
        real, elem = _real(operands[1]), quantized_type(operands[1])
        assert isinstance(op.kind, nn.Layer)
        assert real is not None
        if kept.all():
            to = replace(elem, storage=I8, zero_points=(0,) * len(elem.scales), low=-128, high=127)
        else:
            fitting = WeightScheme(8, True, self.name).weight_type(op, (operands[0], real, bias), context)
            given = elem.scale_array if elem.axis == fitting.axis or elem.axis is None else fitting.scale_array
            to = replace(fitting, scales=tuple(map(float, np.where(kept, given, fitting.scale_array))))
            why = weight_obstacle(op, quantized_type(operands[0]), context.target)
            context.note(self.name, layer_name(op),
                         f"weights rounded a second time in {int((~kept).sum())} of {kept.size} channels: "
                         f"{why or 'a bias would leave int32 (N9)'}")  # fmt: skip
        reals = constant_data(real)
        assert reals is not None
        scales, axis = to.scale_array, to.axis
        integers = deferred("adopt weight", lambda w: quantize_weight(w, scales, axis=axis), reals, shape=reals.shape,
                            dtype=np.int8)  # fmt: skip
        return dequantized_weight(op, stored_under(operands[1]), integers, to)


def _has_integer_form(op: Op, context: Context) -> bool:
    """True for a layer with constant 8-bit weights that the target would compute in integers but for its constants."""
    both = isinstance(op.kind, nn.Layer) and is_quantized(op.operands[0]) and is_quantized(op.operands[1])
    if not both or constant_data(stored_under(op.operands[1])) is None:
        return False
    elem = quantized_type(op.operands[1])
    obstacle = activation_obstacle(quantized_type(op.operands[0]), context.target)
    usable = elem.storage in (I8, U8) and not elem.block and obstacle is None
    return usable and integer_obstacle(op, context.target) is None


def _exact_channels(op: Op, activation: QuantizedType, bias: Value | None) -> NDArray[np.bool_]:
    """The output channels that symmetric int8 holds on the scales they have, and whose bias fits their steps."""
    kind, stored = op.kind, stored_under(op.operands[1])
    data, elem = constant_data(stored), quantized_type(op.operands[1])
    assert isinstance(kind, nn.Layer)
    assert data is not None
    axis = nn.weight_channel_axis(kind, stored.type)
    channels = data.shape[axis]
    if elem.axis not in (None, axis):
        return np.zeros(channels, np.bool_)
    zeros = elem.zero_point_array.astype(np.int16)
    integers = data.read().astype(np.int16) - spread(zeros, data.shape, axis=elem.axis)
    others = tuple(i for i in range(integers.ndim) if i != axis)
    fits = np.asarray(((integers >= -128) & (integers <= 127)).all(axis=others))
    values = constant_data(bias)
    if values is not None:
        steps = accumulator_scales(kind, activation, elem)
        fits &= fits_int32(quantize_bias(values.read(), steps)).reshape(-1, channels).all(axis=0)
    return fits


def _real(value: Value | None) -> Value | None:
    """The float constant for a constant in integers; any other operand as it is."""
    data = constant_data(stored_under(value)) if is_quantized(value) else None
    if data is None:
        return value
    return const(quant.dequantized(data, quantized_type(value)), name=stored_under(value).name)
