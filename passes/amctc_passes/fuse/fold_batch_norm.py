"""Fold batch normalisation and constant additions into the layer before them."""

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
class FoldBatchNorm(PatternPass):
    """Fold batch normalisation into the layer before it: Conv, ConvTranspose, Gemm, MatMul, grouped ones too."""

    name: ClassVar[str] = "fold-batch-norm"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2), requires=(UNQUANTIZED,), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """Batch normalisation right after a layer."""
        return (batch_norm.fold_batch_norm,)
