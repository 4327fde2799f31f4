"""Ops that return their operand unchanged, by kind, by shape, or by the range of what they get."""

from __future__ import annotations

from amctc.analysis import value_range
from amctc.contract import Exact
from amctc.ir import Value
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, op
from amctc.rewrite import rewrite

x = any_value(name="x")

identity = op(nn.Identity, x)


@rewrite(identity, effect=Exact())
def drop_identity(m: Match) -> Value:
    """identity(x) is x."""
    return m[x]


cast = op(nn.Cast, x)


@rewrite(cast, effect=Exact())
def drop_same_cast(m: Match) -> Value:
    """cast(x) to the type x has is x."""
    if m[cast].to != m[x].type.elem:
        raise NoMatch(f"casts {m[x].type.elem} to {m[cast].to}")
    return m[x]


moved = op((nn.Reshape, nn.Flatten), x)


@rewrite(moved, effect=Exact())
def drop_same_reshape(m: Match) -> Value:
    """reshape(x) to the static shape x has is x."""
    if m.value(moved).type != m[x].type or not m[x].type.is_static:
        raise NoMatch("the shape changes, or is not known to stay")
    return m[x]


permuted = op(nn.Transpose, x)


@rewrite(permuted, effect=Exact())
def drop_same_transpose(m: Match) -> Value:
    """transpose(x) that keeps every axis is x."""
    if m[permuted].permutation != tuple(range(m[x].type.rank)):
        raise NoMatch("axes move")
    return m[x]


joined = op(nn.Concat, x)


@rewrite(joined, effect=Exact())
def drop_single_concat(m: Match) -> Value:
    """concat(x) of one operand is x."""
    return m[x]


BOUNDED: tuple[type[nn.Relu | nn.Clip], ...] = (nn.Relu, nn.Clip)
bounded = op(BOUNDED, x)


@rewrite(bounded, effect=Exact())
def drop_dead_clip(m: Match) -> Value:
    """relu(x) and clip(x) are x where x cannot leave the bounds."""
    kind, seen = m[bounded], value_range(m[x])
    low, high = (0.0, float("inf")) if isinstance(kind, nn.Relu) else (kind.low, kind.high)
    if not low <= seen.low <= seen.high <= high:
        raise NoMatch(f"x ranges over [{seen.low:g}, {seen.high:g}]")
    return m[x]
