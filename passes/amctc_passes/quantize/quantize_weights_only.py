"""Quantize the weights of matrix products whose data stays in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Changes, Contract
from amctc.data import Data, deferred
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, constant_data, layer_name, with_operands
from amctc.numerics.weight_only import quantize_weight_only, weight_only_parameters
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I4, I8, QuantizedType
from amctc_passes.facts import BIASES_QUANTIZED, NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED, is_quantized
from amctc_passes.quantize.layers import int4_obstacle, matching, names
from amctc_passes.quantize.weight_types import dequantized_weight


@register
@dataclass(frozen=True)
class QuantizeWeightsOnly(Pass):
    """Quantize the constant weights of MatMul and Gemm under float data, rounding to nearest (N21).

    It needs no samples. ``group`` 0 gives each output channel one scale, else each ``group`` input channels of it one
    (a multiple of 32; a weight of fewer channels has one group). ``symmetric=false`` adds zero points. ``skip`` lists
    layers to leave in float, by name with wildcards. A weight that cannot be packed in 4 bits (N4) takes 8.
    """

    bits: int = 8
    group: int = 0
    symmetric: bool = True
    skip: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-weights-only"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to integers"), requires=(NOT_LOWERED,),
        keeps=(UNOBSERVED, WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits={self.bits}: weights are stored in 4 or 8 bits")
        if self.group < 0 or self.group % 32:
            raise ValueError(f"group={self.group} is no multiple of 32")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace float weights by dequantized integer ones; the integers are computed when they are read."""
        skipped = matching(names(graph), self.skip, "skip")
        known: dict[tuple[Value, int, int], Value] = {}

        def quantized(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            kind, weight = op.kind, operands[1] if len(operands) > 1 else None
            if not isinstance(kind, nn.Layer) or is_quantized(operands[0]) or is_quantized(weight):
                return None
            reason = "skipped on request" if layer_name(op) in skipped else _obstacle(op, context)
            if reason is not None:
                context.note(self.name, layer_name(op), f"left in float: {reason}")
                return None
            assert weight is not None
            key = weight, nn.weight_channel_axis(kind, weight.type), self._bits(op, context)
            if key not in known:
                known[key] = self._quantized(op, weight, key[2])
            return with_operands(op, (operands[0], known[key], *operands[2:])).results

        return convert(graph, quantized)

    def _bits(self, op: Op, context: Context) -> int:
        obstacle = int4_obstacle(op, context.target) if self.bits == 4 else None
        if obstacle is None:
            return self.bits
        context.note(self.name, layer_name(op), f"weights stored in 8 bits, not 4: {obstacle} (N4)")
        return 8

    def _quantized(self, op: Op, weight: Value, bits: int) -> Value:
        """The dequantized integers that stand for ``weight``."""
        kind, data = op.kind, constant_data(weight)
        assert isinstance(kind, nn.Layer)
        assert data is not None
        along, channels = nn.weight_input_axis(kind, weight.type), nn.weight_channel_axis(kind, weight.type)
        block = self.group if self.group < data.shape[along] else 0
        try:
            scales, zeros = weight_only_parameters(
                data.read(), axis=along, block=block, bits=bits, symmetric=self.symmetric
            )
        except AmctcError as error:
            raise error.located(layer_name(op)) from None
        storage = I4 if bits == 4 else I8
        elem = QuantizedType(
            storage, weight.type.scalar, tuple(map(float, scales.ravel())), tuple(map(int, zeros.ravel())),
            along if block else channels, *storage.integer_range, block,
        )  # fmt: skip
        integers: Data = deferred(
            "quantize weight", lambda w: quantize_weight_only(w, scales, zeros, axis=along, block=block, bits=bits),
            data, shape=data.shape, dtype=np.int8,
        )  # fmt: skip
        return dequantized_weight(op, weight, integers, elem)


def _obstacle(op: Op, context: Context) -> str | None:
    """Why the weight of a layer stays in float."""
    weight = op.operands[1]
    assert weight is not None
    if not isinstance(op.kind, nn.MatMul | nn.Gemm):
        return "a convolution"
    if not context.target.weight_only:
        return f"{context.target.name} computes no integer weights under float data"
    if constant_data(weight) is None:
        return "it is computed, not constant"
    return None if weight.type.rank == 2 else "the constant side is no matrix"
