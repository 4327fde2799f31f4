"""Quantize the weights of layers with a quantized input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Changes, Contract
from amctc.data import deferred
from amctc.ir import Graph, Op, Value, apply, constant_data
from amctc.numerics.linear import quantize_weight
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED, is_quantized
from amctc_passes.quantize.layers import matching, names
from amctc_passes.quantize.weight_types import WeightScheme, dequantized_weight


@register
@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize weights symmetrically to the nearest integers (N10), one scale per output channel or one per tensor.

    Scales are raised just enough where the int32 bias or accumulator would overflow (N9), and a channel without
    weights takes a scale that keeps its bias fine (N10); both are noted. So is a layer that cannot store int4 (N4):
    its weight takes 8 bits. ``int4`` lists layers that take 4 bits where the others take 8, by name with wildcards.
    ``round-weights`` rounds better, and needs samples for it.
    """

    bits: int = 8
    per_channel: bool = True
    int4: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to integers"), requires=(NOT_LOWERED, UNOBSERVED),
        ensures=(WEIGHTS_QUANTIZED,), keeps=(TWO_OF_FOUR,),
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._scheme()

    def _scheme(self) -> WeightScheme:
        return WeightScheme(self.bits, self.per_channel, self.name, self.int4)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace each float weight by a dequantized integer one; the integers are computed when they are read."""
        scheme = self._scheme()
        matching(names(graph), self.int4, "int4")

        def quantized(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            weight = operands[1] if isinstance(op.kind, nn.Layer) else None
            data = constant_data(weight)
            if weight is None or data is None or not is_quantized(operands[0]):
                return None
            elem = scheme.weight_type(op, operands, context)
            bits, axis, scales = elem.storage.bits, elem.axis, np.asarray(elem.scale_array, np.float32)
            integers = deferred("quantize weight", lambda w: quantize_weight(w, scales, axis=axis, bits=bits), data,
                                shape=data.shape, dtype=np.int8)  # fmt: skip
            real = dequantized_weight(op, weight, integers, elem)
            return (apply(op.kind, operands[0], real, *operands[2:], name=op.result.name),)

        return convert(graph, quantized)
