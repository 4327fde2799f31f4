"""Samplers of the ``ascend`` dialect; evaluate with ``kernels=ascend_table(profile)``."""

from __future__ import annotations

from dataclasses import replace

from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.testing.linear_samplers import sample_conv, sample_matmul, transposed_sample, window_attributes
from amctc.testing.samplers import Sample, Wanted, dim, draw_batch, draw_size, draw_type, known, number, sampler
from amctc.testing.source import Source, Unfit
from amctc.testing.windows import draw_window
from amctc.types import F16, F32, I4, I8, I16, I32, ScalarType, Shape, TensorType

SCALES = (0.5, 8.0, 20.0, 0.0625)
"""Few scales on purpose: rewrites ask whether a quantizer undoes a dequantizer."""


def _data(source: Source, wanted: Wanted, elem: ScalarType) -> TensorType:
    """The type of the first operand: given, or shaped like the result, or drawn."""
    like = wanted.operand(0) or wanted.result or draw_type(source, elem, 2, 4)
    return wanted.operand(0) or like.with_elem(elem)


def _float(source: Source, wanted: Wanted) -> ScalarType:
    """The element type of a float result."""
    return wanted.result.scalar if wanted.result else source.choice((F32, F32, F16))


@sampler(ascend.Quant)
def sample_quant(source: Source, wanted: Wanted) -> Sample:
    """To int8 mostly, int16 and int4 sometimes."""
    x = _data(source, wanted, wanted.default_elem)
    to = wanted.result.scalar if wanted.result else source.choice((I8, I8, I8, I16, I4))
    return Sample(ascend.Quant(source.choice(SCALES), source.choice((0, 3, -128)), to, source.flip(0.1)), (x,))


@sampler(ascend.AntiQuant)
def sample_anti_quant(source: Source, wanted: Wanted) -> Sample:
    """Of int8 data, to float32 or float16."""
    kind = ascend.AntiQuant(source.choice(SCALES), source.choice((0, -3, 128)), _float(source, wanted))
    return Sample(kind, (_data(source, wanted, I8),))


def _integer(source: Source, wanted: Wanted, sample: Sample, kind: OpKind) -> Sample:
    """A float layer's sample on integers: int8 data, int8 or int4 weight, int32 bias."""
    elems = (I8, source.choice((I8, I8, I8, I4)), I32)
    types = tuple(
        wanted.operand(i) or (None if t is None else t.with_elem(elems[i])) for i, t in enumerate(sample.operands)
    )
    return Sample(kind, types, constants=(1, 2))


@sampler(ascend.Conv)
def sample_integer_conv(source: Source, wanted: Wanted) -> Sample:
    """Every geometry of the float convolution, with an offset sometimes."""
    drawn = sample_conv(source, wanted)
    float_kind = drawn.kind
    assert isinstance(float_kind, nn.Conv)
    k = replace(float_kind, activation=None)
    offset = source.choice((0, 0, 3, -128))
    return _integer(source, wanted, drawn, ascend.Conv(k.strides, k.pads, k.dilations, k.group, offset))


@sampler(ascend.ConvTranspose)
def sample_integer_conv_transpose(source: Source, wanted: Wanted) -> Sample:
    """Every geometry of the float transposed convolution but dilation, output padding below the stride."""
    drawn = transposed_sample(source, wanted, dilated=False)
    k = drawn.kind
    assert isinstance(k, nn.ConvTranspose)
    offset = source.choice((0, 0, 3, -128))
    kind = ascend.ConvTranspose(k.strides, k.pads, k.dilations, k.group, k.output_padding, offset)
    return _integer(source, wanted, drawn, kind)


@sampler(ascend.SumPool)
def sample_sum_pool(source: Source, wanted: Wanted) -> Sample:
    """Every geometry of the float average pool but dilation and ceil_mode."""
    x, y = wanted.operand(0), wanted.result
    rank = x.rank if x else y.rank if y else source.choice((4, 3, 4, 5))
    axes = [draw_window(source, dim(x, i), None, dim(y, i), form="pool", dilated=False) for i in range(2, rank)]
    if not axes:
        raise Unfit("nothing to pool over")
    lead = (known(dim(x, 0), dim(y, 0)) or draw_batch(source), known(dim(x, 1), dim(y, 1)) or draw_size(source))
    kernel, offset = tuple(a.kernel for a in axes), source.choice((0, 3, -128))
    kind = ascend.SumPool(**window_attributes(axes), kernel=kernel, offset_x=offset)
    return Sample(kind, (x or TensorType((*lead, *(a.size for a in axes)), I8),))


@sampler(ascend.BatchMatMul)
def sample_batch_matmul(source: Source, wanted: Wanted) -> Sample:
    """Matrices and stacks of them on either side."""
    x, w, b = (*sample_matmul(source, wanted).operands, None)[:3]
    assert x is not None
    assert w is not None
    if w.rank < 2 and wanted.operand(1) is None:
        w = TensorType((*w.dims, draw_size(source)), w.elem)
    given = (x.with_elem(I8), w.with_elem(I8), b and b.with_elem(I32))
    return Sample(ascend.BatchMatMul(), tuple(wanted.operand(i) or t for i, t in enumerate(given)), constants=(2,))


@sampler(ascend.MatMul)
def sample_integer_matmul(source: Source, wanted: Wanted) -> Sample:
    """A matrix weight, either way round."""
    drawn = sample_matmul(source, wanted)
    x, w, b = (*drawn.operands, None)[:3]
    if x is None or w is None or (w.rank != 2 and wanted.operand(1) is not None):
        raise Unfit("the weight is a matrix")
    if w.rank != 2:
        w = TensorType((x.dims[-1], w.dims[-1] if w.rank > 2 else draw_size(source)), w.elem)
    transposed = wanted.operand(1) is None and source.flip(0.4)
    w = TensorType(w.dims[::-1], w.elem) if transposed else w
    return _integer(source, wanted, Sample(drawn.kind, (x, w, b)), ascend.MatMul(transposed, source.choice((0, 3))))


@sampler(ascend.WeightQuantMatMul)
def sample_weight_quant_matmul(source: Source, wanted: Wanted) -> Sample:
    """int8 and int4, either way round; scales per tensor, per channel and in groups; with and without offset."""
    x, w, y = wanted.operand(0), wanted.operand(1), wanted.result
    trans_b = source.flip(0.4) if x is None or w is None else w.dims[-1] == x.dims[-1]
    inner, columns = number(dim(x, -1)) or draw_size(source), number(dim(y, -1)) or draw_size(source)
    if w is not None:
        inner, columns = (number(d) or 0 for d in (w.dims[::-1] if trans_b else w.dims))
    elem = next((t.elem for t in (x, y, wanted.operand(4)) if t is not None), _float(source, wanted))
    lead = y.dims[:-1] if y else (draw_batch(source), *(draw_size(source) for _ in range(source.choice((0, 1)))))
    group = source.choice((0, 0, 1, 2)) if wanted.operand(2) is None else 0
    shapes: list[Shape] = [(1,), (columns,), (-(-inner // max(group, 1)), columns)]
    shape = shapes[2] if group else source.choice(shapes[:2])
    scale = wanted.operand(2) or TensorType(shape[::-1] if trans_b else shape, F32)
    weight = w or TensorType((columns, inner) if trans_b else (inner, columns), source.choice((I8, I8, I4)))
    offset = None if wanted.absent(3) else wanted.operand(3) or TensorType(scale.shape, I32)
    bias = None if wanted.absent(4) else wanted.operand(4) or TensorType((columns,), elem)
    data = x or TensorType((*lead, inner), elem)
    kind = ascend.WeightQuantMatMul(trans_b, group)
    return Sample(kind, (data, weight, scale, offset, bias), nonnegative=(2,), constants=(1, 2, 3, 4))


def _parameter(source: Source, wanted: Wanted, acc: TensorType) -> tuple[TensorType, int]:
    """A float32 parameter, one for all or one per channel, and its axis."""
    axis = 1 if acc.rank > 1 and source.flip(0.8) else acc.rank - 1
    channels = acc.dims[axis]
    per_channel = isinstance(channels, int) and source.flip(0.7)
    return wanted.operand(1) or TensorType((channels if per_channel else 1,), F32), axis


@sampler(ascend.Dequant)
def sample_dequant(source: Source, wanted: Wanted) -> Sample:
    """Per tensor and per channel, relu sometimes."""
    acc = _data(source, wanted, I32)
    parameter, axis = _parameter(source, wanted, acc)
    kind = ascend.Dequant(axis, _float(source, wanted), source.flip(0.3), source.choice((1, 1, 4, 9)))
    return Sample(kind, (acc, parameter), nonnegative=(1,), constants=(1,))


@sampler(ascend.Requant)
def sample_requant(source: Source, wanted: Wanted) -> Sample:
    """Per tensor and per channel; no activation, relu, leaky relu."""
    acc = _data(source, wanted, I32)
    parameter, axis = _parameter(source, wanted, acc)
    kind = ascend.Requant(axis, source.choice((0, 3, -128)), source.choice((1.0, 0.0, 0.125)))
    return Sample(kind, (acc, parameter), nonnegative=(1,), constants=(1,))


@sampler(ascend.DynamicQuant)
def sample_dynamic_quant(source: Source, wanted: Wanted) -> Sample:
    """Of float32 and float16 rows."""
    return Sample(ascend.DynamicQuant(), (_data(source, wanted, source.choice((F32, F32, F16))),))


@sampler(ascend.DequantRows)
def sample_dequant_rows(source: Source, wanted: Wanted) -> Sample:
    """Scales per column and in all, with and without a bias."""
    acc = _data(source, wanted, I32)
    columns = acc.dims[-1]
    shape: Shape = (columns,) if isinstance(columns, int) and source.flip(0.7) else (1,)
    scale, rows = wanted.operand(1) or TensorType(shape, F32), wanted.operand(2) or TensorType(acc.dims[:-1], F32)
    bias = None if wanted.absent(3) else wanted.operand(3) or TensorType((columns,), F32)
    return Sample(ascend.DequantRows(_float(source, wanted)), (acc, scale, rows, bias), nonnegative=(1, 2))
