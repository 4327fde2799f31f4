"""Merge transposes that follow each other."""

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
class MergeTransposes(PatternPass):
    """Merge transposes that follow each other; two that undo each other disappear."""

    name: ClassVar[str] = "merge-transposes"
    contract: ClassVar[Contract] = Contract(effect=Exact(), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """A transpose of a transpose."""
        return (moves.merge_transposes,)
