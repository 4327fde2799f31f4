"""Samplers of ops that choose elements: split, slice, gather, pad."""

from __future__ import annotations

import math

from amctc.ops import nn
from amctc.ops.shapes import FAR
from amctc.testing.reduction_samplers import signed, some_axes
from amctc.testing.samplers import Sample, Wanted, dim, draw_size, draw_type, sampler
from amctc.testing.source import Source, Unfit
from amctc.types import I32, I64, Dim, QuantizedType, TensorType


def _numbers(type_: TensorType) -> list[int]:
    """The axes whose size is a number."""
    return [i for i, d in enumerate(type_.dims) if isinstance(d, int) and d > 0]


def _resized(type_: TensorType, axis: int, size: Dim) -> TensorType:
    return TensorType((*type_.dims[:axis], size, *type_.dims[axis + 1 :]), type_.elem)


@sampler(nn.Split)
def sample_split(source: Source, wanted: Wanted) -> Sample:
    """One to three parts along any axis, also empty ones."""
    x, first = wanted.operand(0), wanted.result
    like = first or x or draw_type(source, wanted.elem, 2, 4)
    axis = source.choice(_numbers(like)[::-1])
    size = _size(like, axis)
    cut = size if first is not None else source.integer(min(1, size), size)
    left = (size + source.integer(0, 3) if x is None else _size(x, axis)) - cut
    if left < 0:
        raise Unfit(f"{x} cannot be cut into {first}")
    middle = source.integer(0, left)
    several = source.choice([(cut, left), (cut, middle, left - middle)])
    sizes = several if left or source.flip(0.1) else (cut,)
    (named,) = signed(source, [axis], like.rank)
    return Sample(nn.Split(named, sizes), (x or _resized(like, axis, cut + left),))


def _size(type_: TensorType, axis: int) -> int:
    size = dim(type_, axis)
    if not isinstance(size, int):
        raise Unfit(f"dimension {size!r} must be a number")
    return size


@sampler(nn.Slice)
def sample_slice(source: Source, wanted: Wanted) -> Sample:
    """Forwards and backwards, by steps, with positions from either end and past it; a symbol whole or reversed."""
    x, y = wanted.operand(0), wanted.result
    like = x or y or draw_type(source, wanted.elem)
    axes = some_axes(source, list(range(like.rank)))
    dims, bounds = [*like.dims], list[tuple[int, int, int]]()
    for axis in axes:
        size = like.dims[axis]
        if not isinstance(size, int) or size == 0 or (x is not None and y is not None and y.dims[axis] == size):
            bounds.append((0, FAR, 1) if source.flip() or (x and y) else (-1, -FAR, -1))
        elif y is None or x is not None:
            bounds.append(_some_of(source, size))
        else:
            dims[axis], taken = _more_than(source, size)
            bounds.append(taken)
    starts, ends, steps = (tuple(b[i] for b in bounds) for i in range(3))
    kind = nn.Slice(starts, ends, signed(source, axes, like.rank), steps)
    return Sample(kind, (x or TensorType(tuple(dims), like.elem),))


def _some_of(source: Source, size: int) -> tuple[int, int, int]:
    """Start, end and step that take at least one of ``size`` elements."""
    first, last = sorted((source.integer(0, size - 1), source.integer(0, size - 1)))
    step, to_the_end = source.choice((1, 1, 2, 3)), last == size - 1
    if source.flip(0.3):
        start = FAR if to_the_end and source.flip() else last
        return start, first - 1 if first else -FAR, -step
    start = first - size if source.flip(0.3) else first
    end = last + 1 - size if source.flip(0.3) else last + 1
    return start, FAR if to_the_end else end, step


def _more_than(source: Source, count: int) -> tuple[int, tuple[int, int, int]]:
    """A size, and a start, end and step that take ``count`` of its elements."""
    step, before, after = source.choice((1, 1, 2)), source.integer(0, 2), source.integer(0, 2)
    reach = (count - 1) * step + 1
    if source.flip(0.3):
        end = before - 1 if before else -FAR
        return before + reach + after, (before + reach - 1, end, -step)
    return before + reach + after, (before, before + reach, step)


@sampler(nn.Gather)
def sample_gather(source: Source, wanted: Wanted) -> Sample:
    """One index, a list, a table of them; the axis counted from either end."""
    x, indices, y = wanted.operand(0), wanted.operand(1), wanted.result
    elem = source.choice((I64, I64, I32))
    if x is None and y is not None:
        rank = indices.rank if indices is not None else source.choice([r for r in (1, 0, 2) if r <= y.rank])
        at = source.choice(
            [i for i in range(y.rank - rank + 1) if all(isinstance(d, int) for d in y.dims[i : i + rank])]
        )
        indices = indices or TensorType(y.dims[at : at + rank], elem)
        x = TensorType((*y.dims[:at], draw_size(source) + 1, *y.dims[at + rank :]), y.elem)
        axis = at
    else:
        x = x or draw_type(source, wanted.default_elem if indices is not None else wanted.elem)
        axis = source.choice(range(x.rank))
    shape = tuple(draw_size(source) for _ in range(source.choice((1, 0, 2))))
    size = x.dims[axis]
    (named,) = signed(source, [axis], x.rank)
    return Sample(
        nn.Gather(named), (x, indices or TensorType(shape, elem)),
        indices=((1, size if isinstance(size, int) else 1),),
    )  # fmt: skip


@sampler(nn.Pad)
def sample_pad(source: Source, wanted: Wanted) -> Sample:
    """Every mode; zero, negative and large values; cropping."""
    x, y = wanted.operand(0), wanted.result
    like = x or y or draw_type(source, wanted.elem)
    modes = ("reflect", "edge") if isinstance(like.elem, QuantizedType) else ("constant", "constant", "reflect", "edge")
    mode = source.choice(modes)
    pads = [_pads(source, mode, d, y is not None and x is None) for d in like.dims]
    value = source.choice((0.0, 0.0, -math.inf, 1.0, -1.0, -math.inf)) if mode == "constant" and like.is_float else 0.0
    kind = nn.Pad((*(b for b, _ in pads), *(e for _, e in pads)), mode, value)
    if x is None and y is not None:
        dims = tuple(d - b - e if isinstance(d, int) else d for d, (b, e) in zip(y.dims, pads, strict=True))
        x = TensorType(dims, y.elem)
    return Sample(kind, (x or like,))


def _pads(source: Source, mode: str, size: Dim, padded: bool) -> tuple[int, int]:
    """Begin and end of one axis, whose size before (or, ``padded``, after) is ``size``."""
    if not isinstance(size, int) or size == 0 or source.flip(0.4):
        return 0, 0
    if mode == "constant":
        begin = source.choice((1, 0, 2, -1)) if size > 1 else 0
        end = source.choice((0, 1, 2))
        return (begin, min(end, max(size - begin - 1, 0)) if padded else end) if begin < size else (0, 0)
    least = 2 if mode == "reflect" else 1
    if padded:
        begin = 1 if size > least else 0
        return begin, 0
    most = size - 1 if mode == "reflect" else 2
    return source.integer(0, most), source.integer(0, most)
