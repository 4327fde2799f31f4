"""Fold padding into the window that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR, UNQUANTIZED
from amctc_patterns import pads


@register
@dataclass(frozen=True)
class FoldPad(PatternPass):
    """Make a Pad of the spatial axes the padding of the convolution or pool that reads it."""

    name: ClassVar[str] = "fold-pad"
    contract: ClassVar[Contract] = Contract(effect=Exact(), requires=(UNQUANTIZED,), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """One rewrite per op that pads by itself."""
        return (pads.fold_pad_into_conv, pads.fold_pad_into_average_pool, pads.fold_pad_into_max_pool)
