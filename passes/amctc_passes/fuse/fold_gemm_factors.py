"""Fold alpha and beta of Gemm into its constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Rounding
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR, UNQUANTIZED
from amctc_patterns import products


@register
@dataclass(frozen=True)
class FoldGemmFactors(PatternPass):
    """Fold alpha and beta into weight and bias, and spread the bias to one per output: the form of integer Gemm."""

    name: ClassVar[str] = "fold-gemm-factors"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2), requires=(UNQUANTIZED,), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """One rewrite per Gemm with factors."""
        return (products.fold_gemm_factors,)
