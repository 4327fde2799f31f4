"""Means over all spatial positions, made the global pool that they are."""

from __future__ import annotations

from amctc.contract import Exact
from amctc.ir import Value, apply
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, op
from amctc.rewrite import rewrite

MOST_AXES = 3
"""Runtimes have no pool over more than a volume."""

x = any_value(name="x")
mean = op(nn.ReduceMean, x)


@rewrite(mean, effect=Exact())
def pool_of_mean(m: Match) -> Value:
    """The mean over all spatial axes of an image or volume is a global average pool, squeezed where the axes go."""
    rank = m[x].type.rank
    spatial = tuple(range(2, rank))
    if len(spatial) < 2:
        raise NoMatch(f"data of rank {rank} are no images: they may be sequences of vectors")
    if len(spatial) > MOST_AXES:
        raise NoMatch(f"data of rank {rank} have more axes than runtimes pool over")
    if tuple(sorted(a % rank for a in m[mean].axes)) != spatial:
        raise NoMatch(f"the mean over axes {list(m[mean].axes)} of {rank} is not over all spatial ones")
    if 0 in m[x].type.dims:
        raise NoMatch("the mean of nothing")
    pooled = apply(nn.GlobalAveragePool(), m[x])
    return pooled if m[mean].keepdims else apply(nn.Squeeze(spatial), pooled)
