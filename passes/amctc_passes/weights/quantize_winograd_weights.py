"""Quantize the weights of convolutions so that a Winograd transform has room for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Changes, Contract, Fact
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.numerics.affine import weight_scales
from amctc.numerics.linear import storage_range
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import Array, QuantizedType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, is_quantized
from amctc_passes.quantize.layers import is_constant, layers, matching, names
from amctc_passes.weights.weight_types import WeightScheme, with_nearest_weight


def _integer_weight(graph: Graph) -> str | None:
    found = (op for op in layers(graph) if is_constant(op, 1) and is_quantized(op.operands[1]))
    return next((f"the weight of {layer_name(op)} is in integers" for op in found), None)


FLOAT_WEIGHTS = Fact("with float weights", _integer_weight)


@register
@dataclass(frozen=True)
class QuantizeWinogradWeights(Pass):
    """Quantize weights of 3×3 convolutions to 6 or 7 bits, stored as int8, for chips that compute these by Winograd.

    F(2×2, 3×3) replaces a kernel by sums of its weights, up to 9/4 of the largest (Lavin and Gray 2016, section 4.1):
    of 6 bits they fit int8 whatever the weights are, of 7 bits in most kernels. Rounded to nearest, else as
    ``quantize-weights``, which takes the other layers and stands behind. For convolutions of stride 1, without
    dilation, in one group; ``layers`` names those to take, with wildcards.
    """

    bits: int = 7
    per_channel: bool = True
    layers: tuple[str, ...] = ("*",)

    name: ClassVar[str] = "quantize-winograd-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to few integers"), requires=(NOT_LOWERED, UNOBSERVED, FLOAT_WEIGHTS),
        keeps=(TWO_OF_FOUR,), idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.bits not in (6, 7):
            raise ValueError(f"bits={self.bits}: weights for Winograd transforms have 6 or 7 bits")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace the float weights of these layers by dequantized integer ones, computed when they are read."""
        scheme = WeightScheme(8, self.per_channel, self.name)
        named = matching(names(graph), self.layers, "layers") if names(graph) else set()
        chosen = {op for op in layers(graph) if layer_name(op) in named and _is_transformed(op)}

        def quantized(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            if op not in chosen:
                return None
            data = constant_data(operands[1])
            assert data is not None
            elem = self._narrowed(scheme.weight_type(op, operands, context), data.read())
            return with_nearest_weight(op, operands, elem, self.bits)

        return convert(graph, quantized)

    def _narrowed(self, elem: QuantizedType, array: Array) -> QuantizedType:
        """``elem`` with scales so large that fewer bits hold the weights; dead channels keep theirs (N10)."""
        largest = np.abs(array).max(axis=tuple(range(1, array.ndim)) if elem.axis is not None else None, initial=0)
        narrow = weight_scales(array, axis=elem.axis, bits=self.bits)
        alive = np.atleast_1d(largest) > narrow * 0.5
        scales = np.where(alive, np.maximum(narrow, elem.scale_array), elem.scale_array)
        low, high = storage_range(self.bits)
        return QuantizedType(
            elem.storage, elem.expressed, tuple(map(float, scales)), elem.zero_points, elem.axis, low, high
        )


def _is_transformed(op: Op) -> bool:
    """Whether a Winograd transform can compute an op: a quantized 3×3 convolution, stride 1, dense, in one group."""
    kind, data = op.kind, constant_data(op.operands[1])
    if not isinstance(kind, nn.Conv) or data is None or not is_quantized(op.operands[0]):
        return False
    return data.shape[2:] == (3, 3) and {*kind.strides, *kind.dilations, kind.group} == {1}
