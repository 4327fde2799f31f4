"""Moves of elements that follow each other, made one."""

from __future__ import annotations

from amctc.contract import Exact
from amctc.ir import Value, apply
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, op
from amctc.rewrite import rewrite

x = any_value(name="x")

first_transpose = op(nn.Transpose, x, uses=1)
transposes = op(nn.Transpose, first_transpose)


@rewrite(transposes, effect=Exact())
def merge_transposes(m: Match) -> Value:
    """transpose(transpose(x)) is one transpose, or x where the second undoes the first."""
    first, second = m[first_transpose].permutation, m[transposes].permutation
    both = tuple(first[axis] for axis in second)
    return m[x] if both == tuple(range(len(both))) else apply(nn.Transpose(both), m[x])


RESHAPES: tuple[type[nn.Reshape | nn.Flatten | nn.Squeeze | nn.Unsqueeze], ...] = (
    nn.Reshape, nn.Flatten, nn.Squeeze, nn.Unsqueeze,
)  # fmt: skip
first_reshape = op(RESHAPES, x, uses=1)
reshapes = op(RESHAPES, first_reshape)


@rewrite(reshapes, effect=Exact())
def merge_reshapes(m: Match) -> Value:
    """reshape(reshape(x)) is one reshape, where the result's shape can be said without the shape between.

    Flatten, squeeze and unsqueeze are reshapes here.
    """
    dims = m.value(reshapes).type.dims
    unknown = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    if len(unknown) > 1:
        raise NoMatch(f"{len(unknown)} sizes of the result are not known")
    if any(d == 0 for d in dims):
        raise NoMatch("the result is empty: -1 would not be determined")
    target = tuple(d if isinstance(d, int) else -1 for d in dims)
    merged = apply(nn.Reshape(target), m[x])
    if merged.type != m.value(reshapes).type:
        raise NoMatch("a symbol of the result would be lost")
    return merged
