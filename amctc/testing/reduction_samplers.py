"""Samplers of reductions and resampling."""

from __future__ import annotations

from amctc.ops import nn
from amctc.ops.reductions import Reduction
from amctc.ops.resize import COORDINATES, ROUNDINGS
from amctc.testing.samplers import Sample, Wanted, draw_size, draw_type, sampler
from amctc.testing.source import Source, Unfit
from amctc.types import Dim, TensorType


def some_axes(source: Source, options: list[int]) -> list[int]:
    """At least one of ``options``, in any order; :class:`Unfit` without any."""
    rest, chosen = list(options), list[int]()
    while not chosen or (rest and source.flip(0.4)):
        chosen.append(source.choice(rest))
        rest.remove(chosen[-1])
    return chosen


def signed(source: Source, axes: list[int], rank: int) -> tuple[int, ...]:
    """Axes counted from either end."""
    return tuple(a - rank if source.flip(0.4) else a for a in axes)


def _reduction(kind: type[Reduction]) -> None:
    @sampler(kind)
    def sample_reduction(source: Source, wanted: Wanted) -> Sample:
        x, y = wanted.operand(0), wanted.result
        if x is not None and y is not None and x.rank == y.rank:
            axes = [i for i, (a, b) in enumerate(zip(x.dims, y.dims, strict=True)) if a != b]
            axes = axes or some_axes(source, [i for i, d in enumerate(y.dims) if d == 1])
            return Sample(kind(signed(source, axes, x.rank), True), (x,))
        if x is not None or y is None:
            x = x or draw_type(source, wanted.elem, *source.choice(((1, 4), (4, 5))))
            return Sample(kind(signed(source, _reduced(source, x.rank), x.rank), source.flip()), (x,))
        ones = [i for i, d in enumerate(y.dims) if d == 1]
        if ones and source.flip(0.7):
            axes = some_axes(source, ones)
            dims: tuple[Dim, ...] = tuple(draw_size(source) if i in axes else d for i, d in enumerate(y.dims))
            return Sample(kind(signed(source, axes, y.rank), True), (TensorType(dims, y.elem),))
        at = source.integer(0, y.rank)
        dims = (*y.dims[:at], draw_size(source), *y.dims[at:])
        return Sample(kind(signed(source, [at], len(dims)), False), (TensorType(dims, y.elem),))


def _reduced(source: Source, rank: int) -> list[int]:
    """The spatial axes, the last one, all but the first, or any."""
    options = list(range(rank))
    run = options[source.choice((2, 2, -1, 1)) :] if source.flip(0.7) else []
    return run or some_axes(source, options)


for _reduction_kind in (nn.ReduceMean, nn.ReduceSum, nn.ReduceMax):
    _reduction(_reduction_kind)


@sampler(nn.Resize)
def sample_resize(source: Source, wanted: Wanted) -> Sample:
    """Every mode, to sizes or by scales, up and down, on any axes."""
    x, y = wanted.operand(0), wanted.result
    like = x or y or draw_type(source, wanted.elem)
    axes = some_axes(source, [i for i, d in enumerate(like.dims) if y is None or isinstance(y.dims[i], int)])
    linear = like.is_float and source.flip()
    how = ("linear" if linear else "nearest", source.choice(COORDINATES), source.choice(ROUNDINGS))
    named = signed(source, axes, like.rank)
    if y is not None:
        if x is None:
            x = TensorType(tuple(draw_size(source) if i in axes else d for i, d in enumerate(y.dims)), y.elem)
        return Sample(nn.Resize(named, tuple(_number(y.dims[a]) for a in axes), (), *how), (x,))
    if all(isinstance(like.dims[a], int) for a in axes) and source.flip():
        scales = tuple(
            source.choice((2.0, 1.5, 3.0, 0.5, 0.6) if _number(like.dims[a]) > 1 else (2.0, 1.5)) for a in axes
        )
        return Sample(nn.Resize(named, (), scales, *how), (like,))
    return Sample(nn.Resize(named, tuple(draw_size(source) + source.integer(0, 3) for _ in axes), (), *how), (like,))


def _number(d: Dim) -> int:
    if not isinstance(d, int):
        raise Unfit(f"dimension {d!r} must be a number")
    return d
