"""Set the weights of least magnitude to zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value, layer_name
from amctc.numerics.magnitude_cut import cut_mask, magnitude_cut
from amctc.numerics.sparsity import magnitude_mask
from amctc.pipeline import Context, Pass, register
from amctc_passes.compress.masks import mask_obstacle, masked, remark, weight_data, with_weights
from amctc_passes.compress.selection import selected
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED


@register
@dataclass(frozen=True)
class MaskWeights(Pass):
    """Set the weights of least magnitude to zero, to a target sparsity.

    ``scope=layer`` takes the share ``sparsity`` from every layer, ``scope=global`` from all together, so that layers of
    small weights lose more. Of equal magnitudes the first stay. ``layers`` and ``skip`` take names with wildcards.
    Zeros stay exact through folding and quantization. The cube multiplies them all the same: for speed see
    ``mask-n-of-m``.
    """

    sparsity: float = 0.5
    scope: Literal["layer", "global"] = "layer"
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    name: ClassVar[str] = "mask-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("small weights become zero"), requires=(UNQUANTIZED, UNOBSERVED), keeps=(TWO_OF_FOUR,)
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity < 1.0:
            raise ValueError(f"sparsity={self.sparsity} is not at least 0 and below 1")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Mask each weight once, whoever reads it."""
        weights: dict[Op, Value] = {}
        for op in selected(graph, self.layers, self.skip):
            reason, weight = mask_obstacle(op), op.operands[1]
            if reason is None and weight is not None:
                weights[op] = weight
            else:
                context.note(self.name, layer_name(op), f"left dense: {reason}")
        after = self._masked(dict.fromkeys(weights.values()))
        for op, weight in weights.items():
            context.note(self.name, layer_name(op), remark(weight, after[weight]))
        return with_weights(graph, {op: after[weight] for op, weight in weights.items()})

    def _masked(self, weights: Iterable[Value]) -> dict[Value, Value]:
        """Each weight with its mask. Weights are read one at a time."""
        if self.scope == "layer":
            return {w: masked(w, magnitude_mask(weight_data(w).read(), self.sparsity)) for w in weights}
        found: dict[Value, Value] = {}
        weights = tuple(weights)
        cut = magnitude_cut([weight_data(w).read for w in weights], self.sparsity)
        for weight in weights:
            mask, cut = cut_mask(weight_data(weight).read(), cut)
            found[weight] = masked(weight, mask)
        return found
