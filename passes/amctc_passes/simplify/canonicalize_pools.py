"""Bring means over all positions to one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR
from amctc_patterns import pools


@register
@dataclass(frozen=True)
class CanonicalizePools(PatternPass):
    """Make the mean over all spatial axes of images, as Keras and TensorFlow write it, a global average pool."""

    name: ClassVar[str] = "canonicalize-pools"
    contract: ClassVar[Contract] = Contract(effect=Exact(), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """One rewrite per spelling."""
        return (pools.pool_of_mean,)
