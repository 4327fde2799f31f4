"""Recognise functions that exporters wrote out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Rounding
from amctc.pipeline import PatternPass, register
from amctc.rewrite import Rewrite
from amctc_passes.facts import TWO_OF_FOUR
from amctc_patterns import gates, gelu, layer_norm


@register
@dataclass(frozen=True)
class Recompose(PatternPass):
    """Make layer normalisation, gelu, silu, mish, hard sigmoid and swish, leaky relu one op each where written out.

    The target's graph compiler knows these functions and rounds to float16 once, not after every step.
    """

    name: ClassVar[str] = "recompose"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2), keeps=(TWO_OF_FOUR,))

    def rewrites(self) -> tuple[Rewrite, ...]:
        """Every spelling; scale and bias join a layer normalisation one after the other."""
        return (
            layer_norm.recompose_layer_norm,
            layer_norm.recompose_layer_norm_product,
            layer_norm.recompose_layer_norm_expanded,
            layer_norm.fold_layer_norm_scale,
            layer_norm.fold_layer_norm_bias,
            gelu.recompose_gelu_halved_last,
            gelu.recompose_gelu_halved_x,
            gelu.recompose_gelu_halved_gate,
            gates.recompose_silu,
            gates.recompose_mish,
            gates.recompose_hard_sigmoid,
            gates.recompose_hard_sigmoid_product,
            gates.recompose_hard_swish,
            gates.recompose_hard_swish_quotient,
            gates.recompose_hard_swish_product,
            gates.recompose_leaky_relu,
        )
