"""Forms in which a model brings its integers that N24 cannot say for a layer the target computes."""

from __future__ import annotations

import numpy as np

from amctc.ir import Op, constant_data
from amctc.ops import nn
from amctc.targets import Profile
from amctc.types import I4, I8, I32, Array, QuantizedType, TensorType
from amctc_passes.facts import is_quantized, quantized_type, stored_under
from amctc_passes.quantize.layers import accumulator_scales, int4_obstacle

STEP_ERROR = 2.0**-22
"""Bias scales of other tools differ from the float32 product by its rounding."""


def activation_obstacle(activation: QuantizedType, target: Profile) -> str | None:
    """Why no integer layer or pool of ``target`` reads data of this type; ``None`` when one does."""
    if activation.axis is not None:
        return "activations quantized per channel"
    if activation.storage != I8:
        return f"no rule says how {target.name} multiplies activations stored as {activation.storage}"
    return None


def weight_obstacle(op: Op, activation: QuantizedType, target: Profile) -> str | None:
    """What the target has no form for in the quantized weight of ``op``, or in the second of two computed sides."""
    kind, operand = op.kind, op.operands[1]
    assert isinstance(kind, nn.Layer)
    weight = quantized_type(operand)
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


def row_weight_obstacle(op: Op) -> str | None:
    """What a product of rows with scales of their own cannot take of the weight and the bias of ``op`` (N13)."""
    kind, weight, bias = op.kind, op.operands[1], op.operand(2)
    assert isinstance(kind, nn.Layer)
    if not is_quantized(weight) or constant_data(stored_under(weight)) is None:
        return "its data has a step per row and its weight is no constant of integers"
    elem = quantized_type(weight)
    if any(elem.zero_points) or elem.storage != I8:
        return "under data with a step per row weights must be symmetric int8"
    if elem.axis is not None and (elem.block or elem.axis != nn.weight_channel_axis(kind, stored_under(weight).type)):
        return "weight scales do not run over output channels"
    return "its bias is stored in integers, on steps that its data does not have" if is_quantized(bias) else None


def _same_steps(scales: Array, steps: Array) -> bool:
    """Whether a bias has these steps; either side may have one for all channels."""
    fits = scales.size == steps.size or 1 in (scales.size, steps.size)
    return fits and bool(np.allclose(scales, steps, rtol=STEP_ERROR, atol=0))


def bias_obstacle(op: Op, activation: QuantizedType, weight: QuantizedType) -> str | None:
    """A bias that the accumulator cannot start from: it must be int32 in steps of scale_w · scale_d (N9)."""
    kind, bias = op.kind, op.operand(2)
    assert isinstance(kind, nn.Layer)
    if bias is None:
        return None
    if not is_quantized(bias):
        return "its bias is not quantized"
    elem = quantized_type(bias)
    if elem.storage != I32:
        return f"its bias is stored as {elem.storage}"
    steps = accumulator_scales(kind, activation, weight)
    if not _same_steps(elem.scale_array, np.asarray(steps)):
        return "its bias has other steps than weight scale times activation scale (N9)"
    return None
