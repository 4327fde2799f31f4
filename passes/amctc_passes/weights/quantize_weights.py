"""Quantize the weights of layers with a quantized input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED
from amctc_passes.weights.weight_types import WeightScheme, with_nearest_weight


@register
@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize weights symmetrically to the nearest integers (N10), one scale per output channel or one per tensor.

    Scales are raised just enough where the int32 bias or accumulator would overflow (N9), and a channel without
    weights takes a scale that keeps its bias fine (N10); both are noted. So is a layer that cannot store int4 (N4):
    its weight takes 8 bits. ``int4`` lists layers that take 4 bits where the others take 8, by name with wildcards, and
    ``weight-only`` matrix products whose data stays in float (``place-qdq.skip``) and whose weights take 8 bits all the
    same, where the target computes those (N21).
    ``round-weights`` rounds better, and needs samples for it.
    """

    bits: int = 8
    per_channel: bool = True
    int4: tuple[str, ...] = ()
    weight_only: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to integers"), requires=(NOT_LOWERED, UNOBSERVED),
        ensures=(WEIGHTS_QUANTIZED,), keeps=(TWO_OF_FOUR,),
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._scheme()

    def _scheme(self) -> WeightScheme:
        return WeightScheme(self.bits, self.per_channel, self.name, self.int4, weight_only=self.weight_only)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace each float weight by a dequantized integer one; the integers are computed when they are read."""
        scheme = self._scheme()
        chosen = set(scheme.chosen(graph, context))

        def quantized(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            if op not in chosen:
                return None
            elem = scheme.weight_type(op, operands, context)
            return with_nearest_weight(op, operands, elem, elem.storage.bits)

        return convert(graph, quantized)
