"""Samplers of the ``ascend`` dialect; evaluate with ``kernels=ascend_table(profile)``."""

from __future__ import annotations

from dataclasses import replace

from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.testing.linear_samplers import sample_conv, sample_matmul
from amctc.testing.samplers import Sample, Wanted, draw_size, draw_type, sampler
from amctc.testing.source import Source, Unfit
from amctc.types import F16, F32, I4, I8, I16, I32, ScalarType, TensorType

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
    return Sample(kind, types)


@sampler(ascend.Conv)
def sample_integer_conv(source: Source, wanted: Wanted) -> Sample:
    """Every geometry of the float convolution, with an offset sometimes."""
    drawn = sample_conv(source, wanted)
    float_kind = drawn.kind
    assert isinstance(float_kind, nn.Conv)
    k = replace(float_kind, activation=None)
    offset = source.choice((0, 0, 3, -128))
    return _integer(source, wanted, drawn, ascend.Conv(k.strides, k.pads, k.dilations, k.group, offset))


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
    return Sample(ascend.Dequant(axis, _float(source, wanted), source.flip(0.3)), (acc, parameter), nonnegative=(1,))


@sampler(ascend.Requant)
def sample_requant(source: Source, wanted: Wanted) -> Sample:
    """Per tensor and per channel; no activation, relu, leaky relu."""
    acc = _data(source, wanted, I32)
    parameter, axis = _parameter(source, wanted, acc)
    kind = ascend.Requant(axis, source.choice((0, 3, -128)), source.choice((1.0, 0.0, 0.125)))
    return Sample(kind, (acc, parameter), nonnegative=(1,))
