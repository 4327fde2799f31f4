"""Batch normalisation folded into the layer before it or after it."""

from __future__ import annotations

import numpy as np

from amctc.contract import Rounding
from amctc.ir import Value
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, OpPattern, any_value, op, weight
from amctc.rewrite import rewrite
from amctc.types import Array
from amctc_patterns.layers import LAYERS, input_channel_axis, with_affine_input, with_affine_result

x, w, b = any_value(name="x"), weight(name="w"), weight(optional=True, name="b")
gamma, beta, mean, var = weight(name="gamma"), weight(name="beta"), weight(name="mean"), weight(name="var")

layer = op(LAYERS, x, w, b, uses=1)
norm = op(nn.BatchNorm, layer, gamma, beta, mean, var)


def scale_and_shift(m: Match, norm: OpPattern[nn.BatchNorm]) -> tuple[Array, Array]:
    """The affine function that inference batch normalisation is, float64 [C] each; not finite where var + eps is 0."""
    with np.errstate(all="ignore"):
        scale = m[gamma].astype(np.float64) / np.sqrt(m[var].astype(np.float64) + m[norm].eps)
        shift = m[beta].astype(np.float64) - m[mean].astype(np.float64) * scale
    return scale, shift


@rewrite(norm, effect=Rounding(units=2, algebraic=True))
def fold_batch_norm(m: Match) -> Value:
    """batch_norm(layer(x, w, b)) is a layer with scaled weights and another bias (Krishnamoorthi 2018, 3.2.2)."""
    if nn.result_channel_axis(m[layer], m.value(layer).type.rank) != 1 or m.value(w).type.rank < 2:
        raise NoMatch("the layer's output channels are not the axis that is normalised")
    return with_affine_result(m[layer], m[x], m.value(w), m.optional(b), *scale_and_shift(m, norm))


inner_norm = op(nn.BatchNorm, x, gamma, beta, mean, var, uses=1)
following = op(LAYERS, inner_norm, w, b, fused=True)


@rewrite(following, effect=Rounding(units=2, algebraic=True))
def fold_batch_norm_before(m: Match) -> Value:
    """layer(batch_norm(x), w, b) is a layer with scaled weights and another bias, unless padding sees the shift."""
    if input_channel_axis(m[following], m[x].type.rank) != 1:
        raise NoMatch("the layer does not sum over the axis that is normalised")
    return with_affine_input(m[following], m[x], m.value(w), m.optional(b), *scale_and_shift(m, inner_norm))
