"""Samplers of normalisations by statistics of the data."""

from __future__ import annotations

from amctc.ops import nn
from amctc.testing.samplers import Sample, Wanted, dim, draw_batch, draw_size, number, sampler
from amctc.testing.source import Source
from amctc.types import TensorType

EPSILONS = (1e-5, 1e-3, 0.25)


@sampler(nn.LayerNorm)
def sample_layer_norm(source: Source, wanted: Wanted) -> Sample:
    """Over the last axis or more, counted from either end; parameters of the normalised shape or of one element."""
    x = wanted.operand(0) or wanted.result
    given = wanted.operand(1) or wanted.operand(2)
    if x is None:
        own = given.dims if given is not None and given.rank else (draw_size(source),)
        x = TensorType(
            (draw_batch(source), *(draw_size(source) for _ in range(source.integer(0, 2))), *own), wanted.elem
        )
    first = x.rank - given.rank if given is not None and given.rank else source.choice([x.rank - 1, *range(1, x.rank)])
    whole = tuple(d if isinstance(d, int) else 1 for d in x.dims[first:])
    parameter = TensorType(whole if source.flip(0.8) else (1,), x.elem)
    bias = None if wanted.absent(2) else wanted.operand(2) or parameter
    axis = first - x.rank if source.flip() else first
    return Sample(nn.LayerNorm(axis, source.choice(EPSILONS)), (x, wanted.operand(1) or parameter, bias))


def _channelled(source: Source, wanted: Wanted) -> tuple[TensorType, tuple[TensorType, ...]]:
    """Data with spatial axes, and two parameters per channel."""
    x = wanted.operand(0) or wanted.result
    parameter = wanted.operand(1) or wanted.operand(2)
    if x is None:
        channels = number(dim(parameter, 0)) or source.choice((4, 2, 3, 6))
        spatial = tuple(draw_size(source) for _ in range(source.choice((2, 1, 3))))
        x = TensorType((draw_batch(source), channels, *spatial), wanted.elem)
    per_channel = TensorType((dim(x, 1),), x.elem)
    return x, tuple(wanted.operand(i) or per_channel for i in (1, 2))


@sampler(nn.InstanceNorm)
def sample_instance_norm(source: Source, wanted: Wanted) -> Sample:
    """1 to 3 spatial axes."""
    x, parameters = _channelled(source, wanted)
    return Sample(nn.InstanceNorm(source.choice(EPSILONS)), (x, *parameters))


@sampler(nn.GroupNorm)
def sample_group_norm(source: Source, wanted: Wanted) -> Sample:
    """From one group of all channels to one per channel."""
    x, parameters = _channelled(source, wanted)
    channels = number(dim(x, 1)) or 1
    groups = source.choice([g for g in (2, 1, 3, channels) if channels % g == 0])
    return Sample(nn.GroupNorm(groups, source.choice(EPSILONS)), (x, *parameters))
