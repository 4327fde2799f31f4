"""Bring bounds to one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR
from amctc_patterns import clips


@register
@dataclass(frozen=True)
class CanonicalizeClips(PatternPass):
    """Make min and max with numbers clips, clips of clips one clip, and a clip from 0 up a relu."""

    name: ClassVar[str] = "canonicalize-clips"
    contract: ClassVar[Contract] = Contract(effect=Exact(), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """Other spellings first."""
        return (clips.clip_by_constant, clips.merge_clips, clips.relu_of_clip)
