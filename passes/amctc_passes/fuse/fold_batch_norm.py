"""Fold batch normalisation into the layer beside it."""

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
    """Fold batch normalisation into the layer before it or after it: Conv, ConvTranspose, Gemm, MatMul, grouped too.

    Into a layer after it only where no padding sees its shift.
    """

    name: ClassVar[str] = "fold-batch-norm"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2), requires=(UNQUANTIZED,), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """Batch normalisation right after a layer, then right before one."""
        return (batch_norm.fold_batch_norm, batch_norm.fold_batch_norm_before)
