"""Move activations into the layer before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR, UNQUANTIZED
from amctc_patterns import activation


@register
@dataclass(frozen=True)
class FuseActivation(PatternPass):
    """Make relu, clip or leaky relu part of the layer it follows: one instruction on the target (N12, N17)."""

    name: ClassVar[str] = "fuse-activation"
    contract: ClassVar[Contract] = Contract(effect=Exact(), requires=(UNQUANTIZED,), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """An activation right after a layer."""
        return (activation.fuse_activation,)
