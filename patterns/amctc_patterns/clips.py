"""Bounds of every spelling made one clip, and relu where the bounds are those of relu."""

from __future__ import annotations

import math

from amctc.contract import Exact
from amctc.ir import Value, apply
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, number, op
from amctc.rewrite import rewrite

x, bound = any_value(name="x"), number(name="bound")
BOUNDS: tuple[type[nn.Min | nn.Max], ...] = (nn.Min, nn.Max)
bounded = op(BOUNDS, x, bound)


@rewrite(bounded, effect=Exact())
def clip_by_constant(m: Match) -> Value:
    """min or max of x and a number is a clip."""
    if m.value(bounded).type != m[x].type:
        raise NoMatch("the constant broadcasts x")
    if math.isnan(m[bound]):
        raise NoMatch("the bound is NaN")
    return apply(nn.Clip(low=m[bound]) if isinstance(m[bounded], nn.Max) else nn.Clip(high=m[bound]), m[x])


CLIPS: tuple[type[nn.Relu | nn.Clip], ...] = (nn.Relu, nn.Clip)
inner = op(CLIPS, x, uses=1)
outer = op(CLIPS, inner)


def range_of(kind: nn.Relu | nn.Clip) -> tuple[float, float]:
    """The bounds of relu or clip; those of a clip whose bounds cross are both the upper one (ONNX)."""
    return (0.0, math.inf) if isinstance(kind, nn.Relu) else (min(kind.low, kind.high), kind.high)


@rewrite(outer, effect=Exact())
def merge_clips(m: Match) -> Value:
    """clip(clip(x)), relu counted among the clips, is one clip."""
    (low, high), (least, most) = range_of(m[inner]), range_of(m[outer])
    return apply(nn.Clip(min(max(low, least), most), min(max(high, least), most)), m[x])


clipped = op(nn.Clip, x, where=lambda k: (k.low, k.high) == (0.0, math.inf), wanted="bounds of 0 and infinity")


@rewrite(clipped, effect=Exact())
def relu_of_clip(m: Match) -> Value:
    """clip(x) from 0 up is relu(x), which the target fuses (N12)."""
    return apply(nn.Relu(), m[x])
