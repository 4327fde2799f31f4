"""The quantized type of a layer's weight: bits, scales, and what the accumulator and the packing demand of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amctc.data import deferred
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.affine import weight_scales
from amctc.numerics.bias import bias_scale_for_dead_channel, rescue_weight_scales
from amctc.numerics.linear import quantize_weight
from amctc.ops import nn, quant
from amctc.pipeline import Context
from amctc.types import I4, I8, Array, QuantizedType
from amctc_passes.facts import has_row_steps, is_quantized, quantized_type, stands_for_integers
from amctc_passes.quantize.layers import (
    float_data_obstacle,
    int4_obstacle,
    layers,
    matching,
    named,
    names,
    quantized_name,
)

DEAD = 1.1920928955078125e-07
"""Weights whose scale is below FLT_EPSILON count as zero (N10)."""


@dataclass(frozen=True)
class WeightScheme:
    """How weights are quantized: bits of storage, one scale per output channel or one in all.

    ``source`` is the pass that notes what it had to do otherwise. Layers that ``int4`` names, with wildcards, take 4
    bits whatever ``bits`` says, and 8 those that are listed in ``int8``. Layers that ``weight_only`` names have weights
    in 8 bits though their data stays in float (N21).
    """

    bits: int
    per_channel: bool
    source: str
    int4: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()
    weight_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits={self.bits}: weights are stored in 4 or 8 bits")

    def chosen(self, graph: Graph, context: Context) -> list[Op]:
        """The layers whose constant weights are stored: on quantized data, or on float data by name where they can be.

        Raises :class:`UsageError` for a pattern of ``int4`` or ``weight_only`` that matches no layer.
        """
        matching(names(graph), self.int4, "int4")
        named_so = matching(names(graph), self.weight_only, "weight-only")
        found = []
        for op in layers(graph):
            if constant_data(op.operands[1]) is None:
                continue
            if stands_for_integers(op.operands[0]):
                found.append(op)
            elif layer_name(op) in named_so:
                reason = float_data_obstacle(op, context.target)
                if reason is None:
                    found.append(op)
                else:
                    context.note(self.source, layer_name(op), f"weights left in float: {reason}")
        return found

    def weight_type(self, op: Op, operands: tuple[Value | None, ...], context: Context) -> QuantizedType:
        """The type for the constant weight of ``op``, on its quantized data; errors name the layer.

        Symmetric (N10). Scales are raised just enough where the int32 bias or accumulator would overflow (N9), a
        channel without weights takes a scale that keeps its bias fine (N10), and a layer that cannot store int4 takes
        8 bits (N4); all are noted.
        """
        kind, weight, data = op.kind, operands[1], constant_data(operands[1])
        assert isinstance(kind, nn.Layer)
        assert weight is not None
        assert data is not None
        channel_axis, bits = nn.weight_channel_axis(kind, weight.type), self._bits(op, context)
        axis = channel_axis if self.per_channel else None
        try:
            array = data.read()
            scales = weight_scales(array, axis=axis, bits=bits)
            if is_quantized(operands[0]):  # else the bias is added to numbers, not to integers (N13, N21)
                bias = _largest_biases(operands, array.shape[channel_axis])
                scales = self._safe(op, operands[0], array, scales, bias, channel_axis, bits, context)
        except AmctcError as error:
            raise error.located(layer_name(op)) from None
        storage = I8 if bits == 8 else I4
        steps, zeros = tuple(map(float, scales)), (0,) * len(scales)
        return QuantizedType(storage, weight.type.scalar, steps, zeros, axis, *storage.integer_range)

    def _bits(self, op: Op, context: Context) -> int:
        bits = 4 if any(named(layer_name(op), pattern) for pattern in self.int4) else self.bits
        obstacle = self._int4_obstacle(op, context) if bits == 4 else None
        if obstacle is None:
            return bits
        context.note(self.source, layer_name(op), f"weights stored in 8 bits, not 4: {obstacle}")
        return 8

    def _int4_obstacle(self, op: Op, context: Context) -> str | None:
        if layer_name(op) in self.int8:
            return "at an end of the network"
        if not is_quantized(op.operands[0]):
            return "its data has a step per row (N6)" if has_row_steps(op.operands[0]) else "its data stays in float"
        obstacle = int4_obstacle(op, context.target)
        return None if obstacle is None else f"{obstacle} (N4)"

    def _safe(
        self, op: Op, data: Value | None, array: Array, scales: Array, bias: Array | None, axis: int, bits: int,
        context: Context,
    ) -> Array:  # fmt: skip
        """N10 for dead channels, then N9 for overflow. ``bias`` has one element per slice along ``axis``."""
        elem = quantized_type(data)
        step = elem.scales[0]
        if bias is not None and len(scales) == array.shape[axis]:
            largest = np.abs(np.moveaxis(array, axis, 0).reshape(len(scales), -1)).max(axis=1, initial=0)
            dead = largest < DEAD * ((1 << (bits - 1)) - 1)
            if dead.any():
                scales = np.where(dead, bias_scale_for_dead_channel(bias, step), scales).astype(np.float32)
                context.note(self.source, layer_name(op), f"{int(dead.sum())} channels have no weights")
        scales, rescued = rescue_weight_scales(array, scales, bias, activation_scale=step,
                                               zero_point=elem.zero_points[0], axis=axis, bits=bits)  # fmt: skip
        if rescued.any():
            context.note(self.source, layer_name(op), f"weight scale raised in {int(rescued.sum())} channels: "
                         "the int32 accumulator would overflow (N9)")  # fmt: skip
        return scales


def narrowable(op: Op, operands: tuple[Value | None, ...], elem: QuantizedType, share: float) -> Array:
    """Per channel of a weight of type ``elem``: can its scale shrink to ``share`` before int32 overflows (N9)? [C]"""
    weight, data = operands[1], constant_data(operands[1])
    assert isinstance(op.kind, nn.Layer)
    assert weight is not None
    assert data is not None
    axis, array = nn.weight_channel_axis(op.kind, weight.type), data.read()
    if not is_quantized(operands[0]):
        return np.ones(array.shape[axis], np.bool_)  # no bias in the accumulator
    read = quantized_type(operands[0])
    _, rescued = rescue_weight_scales(
        array, elem.scale_array * np.float32(share), _largest_biases(operands, array.shape[axis]),
        activation_scale=read.scales[0], zero_point=read.zero_points[0], axis=axis, bits=elem.storage.bits,
    )  # fmt: skip
    return np.asarray(~rescued)


def _largest_biases(operands: tuple[Value | None, ...], channels: int) -> Array | None:
    """The largest bias [channels] that meets each scale: rows of a Gemm bias and groups of ConvTranspose share one."""
    constant = constant_data(operands[2] if len(operands) > 2 else None)
    if constant is None:
        return None
    bias = constant.read()
    spread = bias.ndim > 0 and bias.shape[-1] % channels == 0
    rows = bias.reshape(-1, channels) if spread else np.broadcast_to(bias.reshape(-1, 1), (bias.size, channels))
    return np.asarray(rows[np.abs(rows).argmax(axis=0), np.arange(channels)])


def with_nearest_weight(
    op: Op, operands: tuple[Value | None, ...], elem: QuantizedType, bits: int
) -> tuple[Value, ...]:  # fmt: skip
    """``op`` with its constant weight rounded to the nearest integers of ``bits`` bits, computed when they are read."""
    weight, data = operands[1], constant_data(operands[1])
    assert weight is not None
    assert data is not None
    axis, scales = elem.axis, np.asarray(elem.scale_array, np.float32)
    integers = deferred("quantize weight", lambda w: quantize_weight(w, scales, axis=axis, bits=bits), data,
                        shape=data.shape, dtype=np.int8)  # fmt: skip
    real = dequantized_weight(op, weight, integers, elem)
    return (apply(op.kind, operands[0], real, *operands[2:], name=op.result.name),)


def dequantized_weight(op: Op, weight: Value, integers: object, elem: QuantizedType) -> Value:
    """``integers``, an array or data, stored in place of ``weight``, as the float value the layer reads."""
    stored = const(integers, elem, name=quantized_name(weight, op, "weight"))
    return apply(quant.Dequantize(), stored, name=f"{stored.name}.dequant")
