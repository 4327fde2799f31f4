"""Fold the addition of a constant per channel into the bias of the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Rounding
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR, UNQUANTIZED
from amctc_patterns import batch_norm


@register
@dataclass(frozen=True)
class FoldBiasAdd(PatternPass):
    """Make the constant added to a layer's result its bias: MatMul + Add, and Conv + Add as old exporters write it."""

    name: ClassVar[str] = "fold-bias-add"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2), requires=(UNQUANTIZED,), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """An addition right after a layer."""
        return (batch_norm.fold_bias_add,)
