"""Leave to quantizers what they saturate anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import BIASES_QUANTIZED, NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED
from amctc_patterns import saturation


@register
@dataclass(frozen=True)
class RelaxClip(PatternPass):
    """Make relu of relu6, and of any clip to [0, c], that only a quantizer reads which saturates below c (N19).

    The integers stay the same, and the target computes relu on the way out of the accumulator.
    """

    name: ClassVar[str] = "relax-clip"
    contract: ClassVar[Contract] = Contract(
        effect=Exact(), requires=(NOT_LOWERED,), keeps=(UNOBSERVED, WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR)
    )

    def rewrites(self) -> tuple[Rewrite, ...]:
        """A clip of its own, and one that a layer carries."""
        return saturation.relax_clip, saturation.relax_fused_clip
