"""Quantize the weights of layers with a quantized input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Changes, Contract
from amctc.data import Data, deferred
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.affine import weight_scales
from amctc.numerics.bias import bias_scale_for_dead_channel, rescue_weight_scales
from amctc.numerics.linear import quantize_weight
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I4, I8, Array, QuantizedType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED, is_quantized, quantized_type
from amctc_passes.quantize.layers import int4_obstacle, quantized_name

DEAD = 1.1920928955078125e-07
"""Weights whose scale is below FLT_EPSILON count as zero (N10)."""


@register
@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize weights symmetrically (N10), one scale per output channel or one per tensor.

    Scales are raised just enough where the int32 bias or accumulator would overflow (N9), and a channel without
    weights takes a scale that keeps its bias fine (N10); both are noted. So is a layer that cannot store int4 (N4):
    its weight takes 8 bits.
    """

    bits: int = 8
    per_channel: bool = True

    name: ClassVar[str] = "quantize-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to integers"), requires=(NOT_LOWERED, UNOBSERVED),
        ensures=(WEIGHTS_QUANTIZED,), keeps=(TWO_OF_FOUR,),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits={self.bits}: weights are stored in 4 or 8 bits")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace each float weight by a dequantized integer one; the integers are computed when they are read."""
        return convert(graph, lambda op, operands: self._quantized(op, operands, context))

    def _quantized(self, op: Op, operands: tuple[Value | None, ...], context: Context) -> tuple[Value, ...] | None:
        data = constant_data(operands[1]) if isinstance(op.kind, nn.Layer) else None
        if data is None or not is_quantized(operands[0]):
            return None
        weight = operands[1]
        assert weight is not None
        try:
            elem, integers = self._weight(op, data, operands, context)
        except AmctcError as error:
            raise error.located(layer_name(op)) from None
        stored = const(integers, elem, name=quantized_name(weight, op, "weight"))
        real = apply(quant.Dequantize(), stored, name=f"{stored.name}.dequant")
        return (apply(op.kind, operands[0], real, *operands[2:], name=op.result.name),)

    def _weight(
        self, op: Op, data: Data, operands: tuple[Value | None, ...], context: Context
    ) -> tuple[QuantizedType, Data]:
        kind, weight = op.kind, operands[1]
        assert isinstance(kind, nn.Layer)
        assert weight is not None
        channel_axis, bits = nn.weight_channel_axis(kind, weight.type), self._bits(op, context)
        axis = channel_axis if self.per_channel else None
        array = data.read()
        scales = weight_scales(array, axis=axis, bits=bits)
        constant = constant_data(operands[2] if len(operands) > 2 else None)
        bias = None if constant is None else _largest_biases(constant.read(), array.shape[channel_axis])
        scales = self._safe_scales(op, array, scales, bias, channel_axis, bits, context)
        storage = I8 if bits == 8 else I4
        low, high = storage.integer_range
        integers = deferred("quantize weight", lambda w: quantize_weight(w, scales, axis=axis, bits=bits), data,
                            shape=data.shape, dtype=np.int8)  # fmt: skip
        zeros = (0,) * len(scales)
        return QuantizedType(storage, weight.type.scalar, tuple(map(float, scales)), zeros, axis, low, high), integers

    def _bits(self, op: Op, context: Context) -> int:
        obstacle = int4_obstacle(op, context.target) if self.bits == 4 else None
        if obstacle is None:
            return self.bits
        context.note(self.name, layer_name(op), f"weights stored in 8 bits, not 4: {obstacle} (N4)")
        return 8

    def _safe_scales(
        self, op: Op, array: Array, scales: Array, bias: Array | None, axis: int, bits: int, context: Context
    ) -> Array:
        """N10 for dead channels, then N9 for overflow. ``bias`` has one element per slice along ``axis``."""
        elem = quantized_type(op.operands[0])
        step = elem.scales[0]
        if bias is not None and len(scales) == array.shape[axis]:
            largest = np.abs(np.moveaxis(array, axis, 0).reshape(len(scales), -1)).max(axis=1, initial=0)
            dead = largest < DEAD * ((1 << (bits - 1)) - 1)
            if dead.any():
                scales = np.where(dead, bias_scale_for_dead_channel(bias, step), scales).astype(np.float32)
                context.note(self.name, layer_name(op), f"{int(dead.sum())} channels have no weights")
        scales, rescued = rescue_weight_scales(array, scales, bias, activation_scale=step,
                                               zero_point=elem.zero_points[0], axis=axis, bits=bits)  # fmt: skip
        if rescued.any():
            context.note(self.name, layer_name(op), f"weight scale raised in {int(rescued.sum())} channels: "
                         "the int32 accumulator would overflow (N9)")  # fmt: skip
        return scales


def _largest_biases(bias: Array, channels: int) -> Array:
    """The largest bias [channels] that meets each scale: rows of a Gemm bias and groups of ConvTranspose share one."""
    spread = bias.ndim > 0 and bias.shape[-1] % channels == 0
    rows = bias.reshape(-1, channels) if spread else np.broadcast_to(bias.reshape(-1, 1), (bias.size, channels))
    return np.asarray(rows[np.abs(rows).argmax(axis=0), np.arange(channels)])
