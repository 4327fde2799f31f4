"""Fold arithmetic with constants into the layer beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Rounding
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR, UNQUANTIZED
from amctc_patterns import affine


@register
@dataclass(frozen=True)
class FoldAffine(PatternPass):
    """Make constants added to, taken from, multiplied with or divided out of a layer's result or input its own.

    One constant per channel or one for all. MatMul + Add, Conv + Add as old exporters write it, batch normalisation
    written out, scaled and shifted images. A shift of the input stays where padding would see it.
    """

    name: ClassVar[str] = "fold-affine"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2), requires=(UNQUANTIZED,), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """After a layer first: between two layers the constants go into the output channels of the first."""
        return (affine.fold_affine_after, affine.fold_subtraction_after, affine.fold_affine_before)
