"""Quantize the biases of layers with quantized input and weight to int32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Changes, Contract
from amctc.errors import LimitError
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.bias import accumulator_scale, fits_int32, quantize_bias
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I32, QuantizedType
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    is_quantized,
    quantized_type,
)
from amctc_passes.quantize.layers import quantized_name


@register
@dataclass(frozen=True)
class QuantizeBias(Pass):
    """Quantize biases to int32 in steps of weight scale times activation scale (N9)."""

    name: ClassVar[str] = "quantize-bias"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("biases are rounded to integers"), requires=(NOT_LOWERED, UNOBSERVED, WEIGHTS_QUANTIZED),
        ensures=(BIASES_QUANTIZED,), keeps=(WEIGHTS_QUANTIZED, TWO_OF_FOUR),
    )  # fmt: skip

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace each float bias by a dequantized int32 one."""
        return convert(graph, _quantized)


def _quantized(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    data = constant_data(operands[2]) if isinstance(op.kind, nn.Layer) and len(operands) > 2 else None
    if data is None or not is_quantized(operands[0]) or not is_quantized(operands[1]):
        return None
    x, w, b = operands
    assert b is not None
    activation, weight = quantized_type(x), quantized_type(w)
    scales, bias = accumulator_scale(weight.scale_array, np.float32(activation.scales[0])), data.read()
    if weight.axis is not None:
        # One scale per element of the last axis: groups of ConvTranspose share theirs, a short Gemm bias is spread.
        groups = op.kind.group if isinstance(op.kind, nn.ConvTranspose) else 1
        scales = np.tile(scales, groups)
        bias = np.broadcast_to(bias, (*bias.shape[:-1], len(scales)))
    integers = quantize_bias(bias, scales)
    if not fits_int32(integers).all():
        remedy = "run quantize-weights again (it raises the weight scale), or skip the layer"
        raise LimitError("a quantized bias leaves int32", where=layer_name(op), rule="N9", remedy=remedy)
    axis = None if weight.axis is None else bias.ndim - 1
    elem = QuantizedType(I32, activation.expressed, tuple(map(float, scales)), (0,) * len(scales), axis,
                         *I32.integer_range)  # fmt: skip
    stored = const(integers.astype(np.int32), elem, name=quantized_name(b, op, "bias"))
    real = apply(quant.Dequantize(), stored, name=f"{stored.name}.dequant")
    return (apply(op.kind, x, w, real, name=op.result.name),)
