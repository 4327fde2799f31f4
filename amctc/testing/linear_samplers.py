"""Samplers of convolutions, matrix products, batch normalisation and pooling."""

from __future__ import annotations

from amctc.ops import nn
from amctc.testing.samplers import (
    Sample,
    Wanted,
    dim,
    draw_batch,
    draw_size,
    known,
    number,
    sampler,
)
from amctc.testing.source import Source, Unfit
from amctc.testing.windows import Axis, draw_window
from amctc.types import Shape, TensorType

ALPHAS = (1.0, 0.5, 2.0, -1.5, 0.0)


def draw_activation(source: Source) -> nn.Activation | None:
    """Mostly none: a fused activation that a rewrite overlooks is a wrong result."""
    if not source.flip(0.1):
        return None
    activations: tuple[nn.Activation, ...] = (nn.Relu(), nn.LeakyRelu(0.1), nn.Clip(0.0, 6.0), nn.Clip(-1.0, 0.5))
    return source.choice(activations)


def _spatial(source: Source, *types: TensorType | None) -> int:
    ranks = {t.rank for t in types if t is not None} or {source.choice((3, 4, 4, 5))}
    if len(ranks) != 1 or min(ranks) < 3:
        raise Unfit("data, weight and result share a rank of at least 3")
    return ranks.pop() - 2


def _groups(source: Source, channels: int | None, outputs: int | None, per_group: int | None) -> tuple[int, int, int]:
    """(group, channels, outputs) with ``channels == group * per_group`` and ``outputs`` a multiple of the group."""
    if channels is not None and per_group is not None:
        groups = [channels // per_group] if per_group and channels % per_group == 0 else []
    else:
        groups = [1, 2, 3, 4] if source.flip(0.4) else [1]
    groups = [g for g in groups if (channels or g) % g == 0 and (outputs or g) % g == 0]
    group = source.choice(groups)
    if channels is None:
        # Keeping the number of channels lets residual connections be drawn.
        same = per_group is None and outputs is not None and source.flip()
        channels = outputs if same and outputs else group * (per_group or source.choice((1, 2, 3)))
    return group, channels, outputs if outputs is not None else group * source.choice((1, 2, 3))


def window_attributes(axes: list[Axis]) -> dict[str, tuple[int, ...]]:
    """Strides, pads and dilations as op kinds take them."""
    return {
        "strides": tuple(a.stride for a in axes),
        "pads": (*(a.begin for a in axes), *(a.end for a in axes)),
        "dilations": tuple(a.dilation for a in axes),
    }


def _bias(wanted: Wanted, shape: Shape) -> TensorType | None:
    return None if wanted.absent(2) else wanted.operand(2) or TensorType(shape, wanted.elem)


@sampler(nn.Conv)
def sample_conv(source: Source, wanted: Wanted) -> Sample:
    """Plain, grouped, depthwise, strided, dilated and asymmetrically padded, over 1 to 3 axes."""
    x, w, b, y = wanted.operand(0), wanted.operand(1), wanted.operand(2), wanted.result
    spatial = _spatial(source, x, w, y)
    outputs = number(known(dim(w, 0), dim(y, 1), dim(b, 0)))
    group, channels, outputs = _groups(source, number(dim(x, 1)), outputs, number(dim(w, 1)))
    axes = [draw_window(source, dim(x, 2 + i), dim(w, 2 + i), dim(y, 2 + i)) for i in range(spatial)]
    batch = known(dim(x, 0), dim(y, 0)) or draw_batch(source)
    kind = nn.Conv(**window_attributes(axes), group=group, activation=draw_activation(source))
    data = x or TensorType((batch, channels, *(a.size for a in axes)), wanted.elem)
    weight = w or TensorType((outputs, channels // group, *(a.kernel for a in axes)), wanted.elem)
    return Sample(kind, (data, weight, _bias(wanted, (outputs,))))


@sampler(nn.ConvTranspose)
def sample_conv_transpose(source: Source, wanted: Wanted) -> Sample:
    """Like convolution, with output padding."""
    return transposed_sample(source, wanted)


def transposed_sample(source: Source, wanted: Wanted, *, dilated: bool = True) -> Sample:
    """A transposed convolution, of dilation 1 unless ``dilated``."""
    x, w, b, y = wanted.operand(0), wanted.operand(1), wanted.operand(2), wanted.result
    spatial = _spatial(source, x, w, y)
    # The weight is [C, O/group, …]: groups divide as in a convolution with the roles exchanged.
    outputs = number(known(dim(y, 1), dim(b, 0)))
    group, outputs, channels = _groups(source, outputs, number(known(dim(x, 1), dim(w, 0))), number(dim(w, 1)))
    axes = [
        draw_window(source, dim(x, 2 + i), dim(w, 2 + i), dim(y, 2 + i), form="transpose", dilated=dilated)
        for i in range(spatial)
    ]
    batch = known(dim(x, 0), dim(y, 0)) or draw_batch(source)
    extra = tuple(a.extra for a in axes)
    kind = nn.ConvTranspose(
        **window_attributes(axes), group=group, output_padding=extra if any(extra) or source.flip() else (),
        activation=draw_activation(source),
    )  # fmt: skip
    data = x or TensorType((batch, channels, *(a.size for a in axes)), wanted.elem)
    weight = w or TensorType((channels, outputs // group, *(a.kernel for a in axes)), wanted.elem)
    return Sample(kind, (data, weight, _bias(wanted, (outputs,))))


@sampler(nn.Gemm)
def sample_gemm(source: Source, wanted: Wanted) -> Sample:
    """All transpositions, alpha and beta, and every shape of bias that broadcasts."""
    x, w, b, y = wanted.operand(0), wanted.operand(1), wanted.operand(2), wanted.result
    trans_a, trans_b = source.flip(0.2), source.flip(0.4)
    rows = known(dim(x, 1 if trans_a else 0), dim(y, 0)) or draw_batch(source)
    inner = known(dim(x, 0 if trans_a else 1), dim(w, 1 if trans_b else 0)) or draw_size(source)
    columns = known(dim(w, 0 if trans_b else 1), dim(y, 1)) or draw_size(source)
    plain = source.flip()
    alpha, beta = (1.0, 1.0) if plain else (source.choice(ALPHAS), source.choice(ALPHAS))
    shapes: list[Shape] = [(columns,), (1, columns), (rows, columns), (rows, 1), (1,), ()]
    bias = None if wanted.absent(2) else b or TensorType(source.choice([(columns,), *shapes]), wanted.elem)
    data = x or TensorType((inner, rows) if trans_a else (rows, inner), wanted.elem)
    weight = w or TensorType((columns, inner) if trans_b else (inner, columns), wanted.elem)
    return Sample(nn.Gemm(alpha, beta, trans_a, trans_b, draw_activation(source)), (data, weight, bias))


@sampler(nn.MatMul)
def sample_matmul(source: Source, wanted: Wanted) -> Sample:
    """Matrices, stacks of matrices on either side, vectors."""
    x, w, b, y = wanted.operand(0), wanted.operand(1), wanted.operand(2), wanted.result
    inner = known(dim(x, -1), None if w is None else dim(w, -2 if w.rank > 1 else 0)) or draw_size(source)
    biased = not wanted.absent(2)
    vector = w.rank == 1 if w else not biased and y is None and source.flip(0.1)
    columns = known(None if w is None or vector else dim(w, -1), dim(y, -1), dim(b, 0)) or draw_size(source)
    if x is None:
        x = TensorType((*_left(source, w, y, vector), inner), wanted.elem)
    if w is None:
        stacked = x.rank > 2 and source.flip()
        ones = source.choice((1.0, 0.3, 1.0))
        lead = tuple(1 if source.flip(ones) else d for d in x.dims[:-2]) if stacked else ()
        w = TensorType((inner,) if vector else (*lead, inner, columns), wanted.elem)
    return Sample(nn.MatMul(draw_activation(source)), (x, w, _bias(wanted, (columns,))))


def _left(source: Source, w: TensorType | None, y: TensorType | None, vector: bool) -> Shape:
    """Dimensions of the data before the inner one."""
    if y is not None:
        return y.dims if vector else y.dims[:-1]
    if w is not None and w.rank > 2:
        return (*w.dims[:-2], draw_size(source))
    lead: Shape = tuple(draw_size(source) for _ in range(source.choice((0, 1, 0, 2))))
    return (draw_batch(source), *lead)


@sampler(nn.BatchNorm)
def sample_batch_norm(source: Source, wanted: Wanted) -> Sample:
    """Any rank from 2; a small or large eps (a zero variance comes with the constants)."""
    x = wanted.operand(0) or wanted.result
    parameter = next((wanted.operand(i) for i in range(1, 5) if wanted.operand(i)), None)
    if x is None:
        tail = tuple(draw_size(source) for _ in range(source.choice((2, 1, 0, 3))))
        x = TensorType((draw_batch(source), number(dim(parameter, 0)) or draw_size(source), *tail), wanted.elem)
    channel = TensorType((dim(x, 1),), x.elem)
    parameters = tuple(wanted.operand(i) or channel for i in range(1, 5))
    return Sample(nn.BatchNorm(source.choice((1e-5, 1e-3, 1e-12, 0.25))), (x, *parameters), nonnegative=(4,))
