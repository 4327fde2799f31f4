"""Keep the largest n of every m weights along the input channels: the form of the sparse cube."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Changes, Contract
from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, Value, layer_name
from amctc.numerics.sparsity import n_of_m_mask
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.targets import load_profile, profile_names
from amctc_passes.compress.masks import mask_obstacle, masked, remark, weight_data, with_weights
from amctc_passes.compress.selection import selected
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED, sparse_obstacle


@register
@dataclass(frozen=True)
class MaskNOfM(Pass):
    """Keep the n largest of every m weights along the input channels, for a cube that skips the others (N22).

    The cube takes 2 of 4; 1 of 4 and 1 of 2 are cases of it. Of equal magnitudes the first stay. Layers of at most
    two input channels and grouped convolutions keep their weights. ``layers`` and ``skip`` take names with wildcards.
    Raises :class:`amctc.errors.UnsupportedError` for a target or a pattern without sparse products.
    """

    n: int = 2
    m: int = 4
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    name: ClassVar[str] = "mask-n-of-m"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("small weights become zero"), requires=(UNQUANTIZED, UNOBSERVED), keeps=(TWO_OF_FOUR,)
    )

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ValueError(f"n={self.n} is not at least 1 and below m={self.m}")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Mask each weight once per axis its readers sum over."""
        self._require_cube(context)
        weights: dict[Op, Value] = {}
        shared: dict[tuple[Value, int], Value] = {}
        for op in selected(graph, self.layers, self.skip):
            kind, weight = op.kind, op.operands[1]
            assert isinstance(kind, nn.Layer)
            assert weight is not None
            reason = sparse_obstacle(op) or mask_obstacle(op)
            if reason is not None:
                context.note(self.name, layer_name(op), f"left dense: {reason}")
                continue
            axis = nn.weight_input_axis(kind, weight.type)
            if (weight, axis) not in shared:
                mask = n_of_m_mask(weight_data(weight).read(), axis=axis, n=self.n, m=self.m)
                shared[weight, axis] = masked(weight, mask)
            weights[op] = shared[weight, axis]
            context.note(self.name, layer_name(op), remark(weight, weights[op]))
        return with_weights(graph, weights)

    def _require_cube(self, context: Context) -> None:
        if not context.target.sparsity_4_2:
            able = [n for n in profile_names() if load_profile(n).sparsity_4_2]
            raise UnsupportedError(f"{context.target.name} has no products with 4:2 sparse weights", rule="N22",
                                   remedy=f"mask-weights needs none; {' and '.join(able)} have them")  # fmt: skip
        if not ((self.m == 4 and self.n <= 2) or (self.n, self.m) == (1, 2)):
            raise UnsupportedError(f"{context.target.name} has no products with {self.n} of {self.m} weights",
                                   rule="N22", remedy="its cube takes 2 of 4")  # fmt: skip
