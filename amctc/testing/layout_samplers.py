"""Samplers of ops that move elements, casts, observers and quantizers."""

from __future__ import annotations

import numpy as np

from amctc.data import ArrayData
from amctc.ops import nn, quant
from amctc.testing.reduction_samplers import signed, some_axes
from amctc.testing.samplers import Sample, Wanted, dim, draw_size, draw_type, sampler
from amctc.testing.source import Source, Unfit
from amctc.types import (
    BOOL,
    F16,
    F32,
    I4,
    I8,
    I16,
    I32,
    U8,
    Dim,
    Elem,
    QuantizedType,
    ScalarType,
    Shape,
    TensorType,
)

SCALES = (0.5, 0.0625, float(np.float32(0.1)))
"""Few scales on purpose: rewrites ask whether two quantizers agree."""


@sampler(nn.Concat)
def sample_concat(source: Source, wanted: Wanted) -> Sample:
    """Any axis, counted from either end; operands of different lengths along it."""
    like = wanted.result or (wanted.fixed[0] if wanted.fixed else draw_type(source, wanted.elem))
    axis = source.choice(range(-like.rank, like.rank))
    lengths: list[Dim] = [dim(wanted.operand(i), axis) for i in range(len(wanted.operands))]
    if wanted.result is not None:
        total = like.dims[axis]
        free = lengths.count(None)
        room = (total if isinstance(total, int) else 0) - sum(d for d in lengths if isinstance(d, int))
        if room < free:
            raise Unfit(f"{total} is too short for {len(lengths)} operands")
        shares = [1] * (free - 1) + [room - free + 1] if free else []
    else:
        shares = [draw_size(source) for d in lengths if d is None]
    lengths = [shares.pop() if d is None else d for d in lengths]
    at = axis % like.rank
    types = (TensorType((*like.dims[:at], d, *like.dims[at + 1 :]), like.elem) for d in lengths)
    return Sample(nn.Concat(axis), tuple(wanted.operand(i) or t for i, t in enumerate(types)))


@sampler(nn.Flatten)
def sample_flatten(source: Source, wanted: Wanted) -> Sample:
    """Every axis, counted from either end; mostly the usual one."""
    x = wanted.operand(0)
    if x is not None or wanted.result is None:
        x = x or draw_type(source, wanted.elem, 1, 4)
        return Sample(nn.Flatten(1 if source.flip() and x.rank else source.choice(range(-x.rank, x.rank + 1))), (x,))
    rows, columns = wanted.result.dims if wanted.result.rank == 2 else (None, None)
    if rows is None or columns is None:
        raise Unfit("flatten gives matrices")
    tail = source.choice(_factorings((columns,) if isinstance(columns, int) else ()) or [(columns,)])
    return Sample(nn.Flatten(1), (TensorType((rows, *tail), wanted.elem),))


def _factorings(numbers: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Other shapes of as many elements, near ones."""
    total = int(np.prod(numbers, dtype=np.int64))
    found = [numbers, (total,), (*numbers, 1), (1, *numbers), numbers[::-1]]
    found += [(f, total // f) for f in (2, 3) if total % f == 0]
    found += [(*numbers[:i], numbers[i] * numbers[i + 1], *numbers[i + 2 :]) for i in range(len(numbers) - 1)]
    return [f for f in found if f]


@sampler(nn.Reshape)
def sample_reshape(source: Source, wanted: Wanted) -> Sample:
    """Merged, split and reversed dimensions; copied (0) and inferred (-1) ones; a batch symbol in front."""
    given = wanted.operand(0) or wanted.result or draw_type(source, wanted.elem)
    symbols = [i for i, d in enumerate(given.dims) if not isinstance(d, int)]
    if symbols not in ([], [0]):
        return Sample(nn.Reshape((0,) * given.rank), (given,))
    lead, numbers = given.dims[: len(symbols)], tuple(d for d in given.dims if isinstance(d, int))
    other = source.choice(_factorings(numbers) or [()])
    if wanted.operand(0) is not None and wanted.result is not None:
        other = tuple(d for d in wanted.result.dims if isinstance(d, int))
    x = wanted.operand(0) or TensorType((*lead, *other), given.elem)
    target = list(other if wanted.operand(0) is not None else numbers)
    head = [source.choice((0, -1))] if symbols else []
    copied = not head and bool(target) and bool(x.rank) and x.dims[0] == target[0] and source.flip(0.3)
    if copied:
        target[0] = 0
    if -1 not in head and len(target) > copied and source.flip(0.4):
        target[source.integer(copied, len(target) - 1)] = -1
    return Sample(nn.Reshape((*head, *target), 0 not in (*head, *target) and source.flip(0.1)), (x,))


@sampler(nn.Transpose)
def sample_transpose(source: Source, wanted: Wanted) -> Sample:
    """Every permutation, channels-last ones more often."""
    x, y = wanted.operand(0), wanted.result
    given = x or y or draw_type(source, wanted.elem, 1, 4)
    rest, order = list(range(given.rank)), list[int]()
    inverses = [np.argsort(k.permutation) for k in source.recalled(nn.Transpose) if len(k.permutation) == given.rank]
    if inverses and source.flip(0.3):
        order, rest = [int(i) for i in source.choice(inverses)], []
    elif given.rank == 4 and source.flip(0.3):
        order, rest = list(source.choice(((0, 2, 3, 1), (0, 3, 1, 2)))), []
    while rest:
        order.append(rest.pop(source.integer(0, len(rest) - 1)))
    if x is None and y is not None:
        dims: Shape = tuple(y.dims[order.index(i)] for i in range(y.rank))
        x = TensorType(dims, y.elem)
    return Sample(source.remember(nn.Transpose(tuple(order))), (x or given,))


@sampler(nn.Squeeze)
def sample_squeeze(source: Source, wanted: Wanted) -> Sample:
    """One or more axes of size 1 anywhere, counted from either end."""
    x, y = wanted.operand(0), wanted.result
    if x is None:
        kept = (y or draw_type(source, wanted.elem, 1, 3)).dims
        at = sorted(source.integer(0, len(kept)) for _ in range(source.choice((1, 2))))
        x = TensorType(_with_ones(kept, at), (y or wanted).elem)
        return Sample(nn.Squeeze(signed(source, [i + p for i, p in enumerate(at)], x.rank)), (x,))
    ones = [i for i, d in enumerate(x.dims) if d == 1]
    return Sample(nn.Squeeze(signed(source, some_axes(source, ones), x.rank)), (x,))


def _with_ones(dims: Shape, at: list[int]) -> Shape:
    """``dims`` with a 1 in front of each of these positions."""
    return tuple(d for i in range(len(dims) + 1) for d in (*[1] * at.count(i), *dims[i : i + 1]))


@sampler(nn.Unsqueeze)
def sample_unsqueeze(source: Source, wanted: Wanted) -> Sample:
    """One or more new axes anywhere, counted from either end."""
    x, y = wanted.operand(0), wanted.result
    if x is None and y is not None:
        axes = some_axes(source, [i for i, d in enumerate(y.dims) if d == 1])
        x = TensorType(tuple(d for i, d in enumerate(y.dims) if i not in axes), y.elem)
    else:
        x = x or draw_type(source, wanted.elem, 1, 3)
        rank = x.rank + source.choice((1, 2)) if y is None else y.rank
        axes = []
        while len(axes) < rank - x.rank:
            axes.append(source.choice([i for i in range(rank) if i not in axes]))
    return Sample(nn.Unsqueeze(signed(source, axes, x.rank + len(axes))), (x,))


@sampler(nn.Expand)
def sample_expand(source: Source, wanted: Wanted) -> Sample:
    """Ones repeated, new axes in front; a target shorter than the shape, and ones in it."""
    x, y = wanted.operand(0), wanted.result
    if x is None:
        full = y or draw_type(source, wanted.elem, 1, 4)
        dims = tuple(1 if isinstance(d, int) and source.flip() else d for d in full.dims)
        dropped = source.integer(0, len(dims)) if full.is_static and source.flip(0.3) else 0
        target = tuple(d if isinstance(d, int) else 1 for d in full.dims)
        return Sample(nn.Expand(target), (TensorType(dims[dropped:], full.elem),))
    if y is not None:
        return Sample(nn.Expand(tuple(d if isinstance(d, int) else 1 for d in y.dims)), (x,))
    grown = tuple(draw_size(source) if d == 1 and source.flip() else d if isinstance(d, int) else 1 for d in x.dims)
    if source.flip(0.3):
        return Sample(nn.Expand(grown[source.integer(0, x.rank) :]), (x,))
    return Sample(nn.Expand((*(draw_size(source) for _ in range(source.integer(0, 1))), *grown)), (x,))


@sampler(nn.Cast)
def sample_cast(source: Source, wanted: Wanted) -> Sample:
    """Between float32, float16, int32 and bool."""
    options = (F32, F16, I32, BOOL)
    shape = (wanted.operand(0) or wanted.result or draw_type(source, F32)).shape
    to = wanted.result.elem if wanted.result else source.choice(options)
    if not isinstance(to, ScalarType):
        raise Unfit("casts give plain types")
    return Sample(nn.Cast(to), (wanted.operand(0) or TensorType(shape, source.choice(options)),))


@sampler(quant.Observe)
def sample_observe(source: Source, wanted: Wanted) -> Sample:
    """A small histogram."""
    x = wanted.operand(0) or wanted.result or draw_type(source, wanted.elem)
    counts = np.asarray([source.integer(0, 3) for _ in range(4)], np.int64)
    exponent = source.integer(0, 3)
    reach = 0.75 * 2.0**exponent
    return Sample(quant.Observe(ArrayData(counts), exponent, -reach, reach, int(counts.sum())), (x,))


def draw_quantized(source: Source, shape: Shape, expressed: ScalarType = F32) -> QuantizedType:
    """A quantized element type for tensors of ``shape``: mostly int8 per tensor, often one drawn before."""
    earlier = [e for e in source.recalled(QuantizedType) if e.expressed == expressed and _covers(e, shape)]
    if earlier and source.flip():
        return source.choice(earlier)
    storage = source.choice((I8, I8, I8, U8, I16, I4))
    axes = [i for i, d in enumerate(shape) if isinstance(d, int) and d > 0]
    if axes and source.flip(0.3):
        axis = source.choice(axes)
        length = shape[axis]
        assert isinstance(length, int)
        scales = [source.choice(SCALES) for _ in range(length)]
        return source.remember(QuantizedType.per_axis(scales, axis, storage, expressed))
    zero = source.choice((0, 3)) if storage != U8 else 128
    return source.remember(QuantizedType.per_tensor(source.choice(SCALES), zero, storage, expressed))


def _covers(elem: QuantizedType, shape: Shape) -> bool:
    return elem.axis is None or (elem.axis < len(shape) and shape[elem.axis] == len(elem.scales))


@sampler(quant.Quantize)
def sample_quantize(source: Source, wanted: Wanted) -> Sample:
    """Per tensor and per axis, signed and unsigned, 4 to 16 bits."""
    y = wanted.result
    x = wanted.operand(0) or (TensorType(y.shape, y.scalar) if y else draw_type(source, wanted.default_elem))
    to: Elem = y.elem if y else draw_quantized(source, x.dims, x.scalar)
    if not isinstance(to, QuantizedType):
        raise Unfit("quantize gives quantized types")
    return Sample(quant.Quantize(to), (x,))


@sampler(quant.Dequantize)
def sample_dequantize(source: Source, wanted: Wanted) -> Sample:
    """Of every quantized type that quantize gives, and of int32 (biases)."""
    q, y = wanted.operand(0), wanted.result or draw_type(source, wanted.default_elem)
    if q is None:
        accumulator = QuantizedType.per_tensor(source.choice(SCALES), 0, I32, y.scalar)
        q = y.with_elem(accumulator if source.flip(0.1) else draw_quantized(source, y.dims, y.scalar))
    return Sample(quant.Dequantize(), (q,))


@sampler(quant.FakeQuantizeRows)
def sample_fake_quantize_rows(source: Source, wanted: Wanted) -> Sample:
    """Matrices and stacks of them, of float32."""
    like = wanted.operand(0) or wanted.result or draw_type(source, F32, 2, 4)
    return Sample(quant.FakeQuantizeRows(), (like.with_elem(F32),))
