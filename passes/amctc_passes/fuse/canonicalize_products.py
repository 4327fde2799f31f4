"""Bring Gemm and MatMul to the form the target computes in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Rounding
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import UNQUANTIZED
from amctc_patterns import products


@register
@dataclass(frozen=True)
class CanonicalizeProducts(PatternPass):
    """Give Gemm and MatMul plain data, a matrix as weight and one bias per output; what does not fit goes beside them.

    Transposed data becomes a transpose, a computed bias or one per row an addition, a stack of one matrix that matrix.
    """

    name: ClassVar[str] = "canonicalize-products"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2), requires=(UNQUANTIZED,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """One rewrite per thing that the integer form has not."""
        return (products.transpose_gemm_input, products.split_gemm_bias, products.flatten_matmul_weight)
