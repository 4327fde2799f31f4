"""Samplers of activations, elementary functions, arithmetic with broadcasting, softmax and pooling."""

from __future__ import annotations

import math

from amctc.ops import nn
from amctc.schema import OpKind
from amctc.testing.samplers import (
    Sample,
    Wanted,
    dim,
    draw_batch,
    draw_size,
    draw_type,
    known,
    sampler,
)
from amctc.testing.source import Source, Unfit
from amctc.testing.windows import draw_window
from amctc.types import BOOL, Shape, TensorType

BOUNDS = ((0.0, 6.0), (-math.inf, math.inf), (0.0, math.inf), (-1.0, 1.0), (2.0, 3.0), (0.0, 1.0), (-math.inf, 0.5),
          (-2.0, -0.5), (1.0, -1.0))  # fmt: skip
"""Clip bounds: open, touching zero, disjoint from each other, crossing."""


def _data(source: Source, wanted: Wanted) -> TensorType:
    """The type of the only operand of an op that keeps it."""
    return wanted.operand(0) or wanted.result or draw_type(source, wanted.elem)


def _unary(kind: type[OpKind]) -> None:
    @sampler(kind)
    def sample_unary(source: Source, wanted: Wanted) -> Sample:
        return Sample(kind(), (_data(source, wanted),))


for _unary_kind in (nn.Relu, nn.Sigmoid, nn.Tanh, nn.Identity, nn.HardSwish, nn.Silu, nn.Mish, nn.Neg, nn.Abs,
                    nn.Reciprocal, nn.Sqrt, nn.Exp, nn.Erf, nn.Softplus):  # fmt: skip
    _unary(_unary_kind)


@sampler(nn.HardSigmoid)
def sample_hard_sigmoid(source: Source, wanted: Wanted) -> Sample:
    """The usual slope, that of hard swish, a negative one."""
    kind = nn.HardSigmoid(source.choice((0.2, 1 / 6, -0.5)), source.choice((0.5, 0.0)))
    return Sample(kind, (_data(source, wanted),))


@sampler(nn.Elu)
def sample_elu(source: Source, wanted: Wanted) -> Sample:
    """Slopes below, at and above one, and a negative one."""
    return Sample(nn.Elu(source.choice((1.0, 0.5, 2.0, -1.0))), (_data(source, wanted),))


@sampler(nn.Gelu)
def sample_gelu(source: Source, wanted: Wanted) -> Sample:
    """Both formulas."""
    return Sample(nn.Gelu(source.flip()), (_data(source, wanted),))


@sampler(nn.Pow)
def sample_pow(source: Source, wanted: Wanted) -> Sample:
    """Squares, roots, reciprocals, the powers zero and one."""
    return Sample(nn.Pow(source.choice((2.0, 0.5, 3.0, -1.0, 1.0, 0.0, -0.5))), (_data(source, wanted),))


@sampler(nn.LeakyRelu)
def sample_leaky_relu(source: Source, wanted: Wanted) -> Sample:
    """Slopes below, at and above one, zero and negative."""
    return Sample(nn.LeakyRelu(source.choice((0.01, 0.1, 1.0, 0.0, -0.5, 2.0))), (_data(source, wanted),))


@sampler(nn.Clip)
def sample_clip(source: Source, wanted: Wanted) -> Sample:
    """Bounds of :data:`BOUNDS`, or relu-like ones of any size."""
    bounds = source.choice(BOUNDS) if source.flip(0.8) else (0.0, float(source.integer(1, 8)))
    return Sample(nn.Clip(*bounds), (_data(source, wanted),))


def _softmax(kind: type[nn.Softmax | nn.LogSoftmax]) -> None:
    @sampler(kind)
    def sample_softmax(source: Source, wanted: Wanted) -> Sample:
        x = _data(source, wanted)
        return Sample(kind(source.choice([-1, *range(-x.rank, x.rank)] if x.rank else [])), (x,))


_softmax(nn.Softmax)
_softmax(nn.LogSoftmax)


def _broadcastable(source: Source, shape: Shape) -> Shape:
    """A shape that broadcasts to ``shape``: the same, per channel, a scalar, a suffix, ones anywhere."""
    options: list[Shape] = [shape, shape, (), (1,), shape[1:], (1,) * len(shape)]
    if len(shape) >= 2:
        channel = (shape[1], *(1,) * (len(shape) - 2))
        options += [channel, (1, *channel), channel, (1, *channel), (1, *shape[1:])]
    if shape:
        options += [shape[-1:], tuple(1 if source.flip() else d for d in shape)]
    return source.choice(options)


def _larger(source: Source, shape: Shape) -> Shape:
    """A shape that ``shape`` broadcasts to, or with: one axis more, of any size or of 1, or what was 1 is not."""
    more = (source.choice((1, draw_size(source))), *(shape if source.flip() else (1,) * len(shape)))
    return source.choice((more, tuple(draw_size(source) if d == 1 else d for d in shape)))


def _binary(kind: type[OpKind]) -> None:
    @sampler(kind)
    def sample_binary(source: Source, wanted: Wanted) -> Sample:
        a, b = wanted.operand(0), wanted.operand(1)
        full = wanted.result or a or b or draw_type(source, wanted.elem, 1, 4)
        if a is None and b is None:
            # One side has the result's shape, the other broadcasts to it; both sides, so that neither is special.
            other = TensorType(_broadcastable(source, full.dims), full.elem)
            a, b = (other, full) if source.flip(0.4) else (full, other)
        elif a is None or b is None:
            fixed, other = a or b, full
            if fixed == full and wanted.result is None and source.flip(0.15):
                other = TensorType(_larger(source, full.dims), full.elem)
            elif fixed == full:
                other = TensorType(_broadcastable(source, full.dims), full.elem)
            a, b = a or other, b or other
        return Sample(kind(), (a, b))


for _binary_kind in (nn.Add, nn.Sub, nn.Mul, nn.Div, nn.Min, nn.Max):
    _binary(_binary_kind)


@sampler(nn.PRelu)
def sample_prelu(source: Source, wanted: Wanted) -> Sample:
    """One slope, one per channel, one per element."""
    x, slope = wanted.operand(0) or wanted.result, wanted.operand(1)
    if x is None:
        x = slope if slope is not None and slope.rank else draw_type(source, wanted.elem)
    return Sample(nn.PRelu(), (x, slope or TensorType(_broadcastable(source, x.dims), x.elem)))


@sampler(nn.Where)
def sample_where(source: Source, wanted: Wanted) -> Sample:
    """One of the three operands has the result's shape, the others broadcast to it."""
    condition, a, b = (wanted.operand(i) for i in range(3))
    elem = next((t.elem for t in (a, b, wanted.result) if t is not None), wanted.default_elem)
    full = (wanted.result or a or b or condition or draw_type(source, elem)).dims
    shapes = [full, _broadcastable(source, full), _broadcastable(source, full)]
    turn = source.integer(0, 2)
    shapes = shapes[turn:] + shapes[:turn]
    elems = (BOOL, elem, elem)
    given = (condition, a, b)
    types = tuple(g or TensorType(s, e) for g, s, e in zip(given, shapes, elems, strict=True))
    return Sample(nn.Where(), types)


@sampler(nn.MaxPool)
def sample_max_pool(source: Source, wanted: Wanted) -> Sample:
    """Overlapping, dilated, padded and ceil_mode windows over 1 to 3 axes."""
    return _pool(source, wanted, nn.MaxPool)


@sampler(nn.AveragePool)
def sample_average_pool(source: Source, wanted: Wanted) -> Sample:
    """Like max pooling, counting the padding or not."""
    return _pool(source, wanted, nn.AveragePool)


def _pool(source: Source, wanted: Wanted, kind: type[nn.MaxPool | nn.AveragePool]) -> Sample:
    x, y = wanted.operand(0), wanted.result
    rank = x.rank if x else y.rank if y else source.choice((4, 3, 4, 5))
    ceil_mode = source.flip(0.3)
    axes = [draw_window(source, dim(x, i), None, dim(y, i), form="pool", ceil_mode=ceil_mode) for i in range(2, rank)]
    if not axes:
        raise Unfit("nothing to pool over")
    lead = (known(dim(x, 0), dim(y, 0)) or draw_batch(source), known(dim(x, 1), dim(y, 1)) or draw_size(source))
    data = x or TensorType((*lead, *(a.size for a in axes)), wanted.elem)
    strides, dilations = tuple(a.stride for a in axes), tuple(a.dilation for a in axes)
    pads = (*(a.begin for a in axes), *(a.end for a in axes))
    kernel = tuple(a.kernel for a in axes)
    if kind is nn.AveragePool:
        return Sample(nn.AveragePool(strides, pads, dilations, kernel, ceil_mode, source.flip()), (data,))
    return Sample(nn.MaxPool(strides, pads, dilations, kernel, ceil_mode), (data,))


def _global_pool(kind: type[nn.GlobalAveragePool | nn.GlobalMaxPool]) -> None:
    @sampler(kind)
    def sample_global_pool(source: Source, wanted: Wanted) -> Sample:
        x, y = wanted.operand(0), wanted.result
        if x is None and y is not None:
            x = TensorType((*y.dims[:2], *(draw_size(source) for _ in y.dims[2:])), y.elem)
        return Sample(kind(), (x or draw_type(source, wanted.elem, 3, 5),))


_global_pool(nn.GlobalAveragePool)
_global_pool(nn.GlobalMaxPool)
