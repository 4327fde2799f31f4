"""Merge reshapes that follow each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR
from amctc_patterns import moves


@register
@dataclass(frozen=True)
class MergeReshapes(PatternPass):
    """Merge reshapes, flattens, squeezes and unsqueezes that follow each other."""

    name: ClassVar[str] = "merge-reshapes"
    contract: ClassVar[Contract] = Contract(effect=Exact(), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """A reshape of a reshape."""
        return (moves.merge_reshapes,)
