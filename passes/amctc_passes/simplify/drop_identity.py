"""Remove ops that return their operand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_patterns import identity


@register
@dataclass(frozen=True)
class DropIdentity(PatternPass):
    """Remove identities, casts, reshapes, transposes and clips that change nothing."""

    name: ClassVar[str] = "drop-identity"
    contract: ClassVar[Contract] = Contract(effect=Exact())

    def rewrites(self) -> tuple[Rewrite, ...]:
        """One rewrite per way of doing nothing."""
        return (
            identity.drop_identity,
            identity.drop_same_cast,
            identity.drop_same_reshape,
            identity.drop_same_transpose,
            identity.drop_single_concat,
            identity.drop_dead_clip,
        )
