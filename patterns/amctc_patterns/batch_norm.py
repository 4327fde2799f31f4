"""Batch normalisation and constant additions folded into the layer before them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from amctc.contract import Rounding
from amctc.data import Data, deferred
from amctc.ir import Value, apply, const
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, Weight, any_value, op, weight
from amctc.rewrite import rewrite
from amctc.types import Array, TensorType

LAYERS: tuple[type[nn.Layer], ...] = (nn.Conv, nn.ConvTranspose, nn.Gemm, nn.MatMul)

x, w, b = any_value(name="x"), weight(name="w"), weight(optional=True, name="b")
layer = op(LAYERS, x, w, b, uses=1)
gamma, beta, mean, var = weight(name="gamma"), weight(name="beta"), weight(name="mean"), weight(name="var")
norm = op(nn.BatchNorm, layer, gamma, beta, mean, var)


@rewrite(norm, effect=Rounding(units=2))
def fold_batch_norm(m: Match) -> Value:
    """batch_norm(layer(x, w, b)) is a layer with scaled weights and another bias (Krishnamoorthi 2018, 3.2.2)."""
    kind, result = m[layer], m.value(layer).type
    if nn.result_channel_axis(kind, result.rank) != 1 or m.value(w).type.rank < 2:
        raise NoMatch("the layer's output channels are not the axis that is normalised")
    with np.errstate(all="ignore"):
        scale = m[gamma].astype(np.float64) / np.sqrt(m[var].astype(np.float64) + m[norm].eps)
        shift = m[beta].astype(np.float64) - m[mean].astype(np.float64) * scale
        old = _channel_bias(kind, m[b], scale.size)
        bias = (old * scale + shift).astype(m[w].dtype)
    if not np.isfinite(scale).all():
        raise NoMatch("a variance is so small that the scale overflows")
    if not np.isfinite(bias).all():
        raise NoMatch(f"the folded bias overflows {bias.dtype}")
    scaled = scaled_weight(m, kind, w, scale, bias)
    return apply(_unit_beta(kind), m[x], const(scaled, m.value(w).type.elem), const(bias))


HARMLESS = 2.0**12
"""Weights that underflow are lost next to a weight or bias of their channel so many times the smallest normal float."""


def scaled_weight(m: Match, kind: nn.Layer, pattern: Weight[Array], scale: Array, bias: Array) -> Data:
    """The weight of a layer with each output channel times ``scale`` [O], as a deferred constant.

    Declines where a weight loses bits that count: an underflow beside larger weights or the new ``bias`` [O] does not
    (dead channels of trained networks hold denormal weights).
    """
    type_, data = m.value(pattern).type, m.data(pattern)
    factors = per_output_channel(kind, type_, scale)

    def scaled(array: Array) -> Array:
        with np.errstate(all="ignore"):
            return (array.astype(np.float64) * factors).astype(array.dtype)

    before, after = data.read(), scaled(data.read())
    if not np.isfinite(after).all():
        raise NoMatch(f"the scaled weight overflows {data.dtype}")
    smallest = _smallest_normal(data.dtype)
    underflows = (before != 0) & (factors != 0) & (np.abs(after) < smallest)
    if underflows.any():
        within = tuple(i for i, d in enumerate(factors.shape) if d == 1)
        beside = np.maximum(
            np.abs(after).max(axis=within, keepdims=True), np.abs(per_output_channel(kind, type_, bias))
        )
        if (underflows & (beside < HARMLESS * smallest)).any():
            raise NoMatch(f"a scaled weight underflows {data.dtype}")
    return deferred("scale output channels", scaled, data, shape=data.shape, dtype=data.dtype)


def _smallest_normal(dtype: np.dtype[Any]) -> float:
    """Below it a float loses bits, and a relative error bound no longer holds."""
    return float(ml_dtypes.finfo(dtype).tiny)  # type: ignore[no-untyped-call]


def per_output_channel(kind: nn.Layer, weight_type: TensorType, values: Array) -> Array:
    """``values`` [O] reshaped to multiply a layer's weight."""
    rank = weight_type.rank
    if isinstance(kind, nn.ConvTranspose):  # weight [C, O/group, …]: the group is hidden in the first axis
        channels, per_group = weight_type.dims[0], weight_type.dims[1]
        assert isinstance(channels, int)
        assert isinstance(per_group, int)
        grouped = np.repeat(values.reshape(kind.group, 1, per_group), channels // kind.group, axis=1)
        return grouped.reshape(channels, per_group, *(1,) * (rank - 2))
    shape = [1] * rank
    shape[nn.weight_channel_axis(kind, weight_type)] = -1
    return values.reshape(shape)


def _channel_bias(kind: nn.Layer, bias: Array | None, channels: int) -> Array:
    """What the layer adds to each output channel, float64 [O]; declines a Gemm bias that differs between rows."""
    if bias is None:
        return np.zeros(channels)
    if bias.ndim > 1 and any(d != 1 for d in bias.shape[:-1]):
        raise NoMatch(f"the bias of shape {list(bias.shape)} is not per output channel")
    beta_factor = kind.beta if isinstance(kind, nn.Gemm) else 1.0
    return np.broadcast_to(bias.reshape(-1).astype(np.float64) * beta_factor, (channels,))


def _unit_beta(kind: nn.Layer) -> Any:
    return replace(kind, beta=1.0) if isinstance(kind, nn.Gemm) else kind


addend = weight(name="addend")
added = op(nn.Add, layer, addend)


@rewrite(added, effect=Rounding(units=2))
def fold_bias_add(m: Match) -> Value:
    """layer(x, w, b) + a constant per output channel is the layer with another bias."""
    kind, result, constant = m[layer], m.value(layer).type, m[addend]
    if m.value(added).type != result:
        raise NoMatch("the addition broadcasts the layer's result")
    if isinstance(kind, nn.MatMul) and m.value(w).type.rank < 2:
        raise NoMatch("a product with a vector has no output channels")
    axis = nn.result_channel_axis(kind, result.rank)
    channels = _output_channels(kind, m.value(w).type)
    aligned = (1,) * (result.rank - constant.ndim) + constant.shape
    if any(d != 1 for i, d in enumerate(aligned) if i != axis) or aligned[axis] not in (1, channels):
        raise NoMatch(f"a constant of shape {list(constant.shape)} is not per output channel")
    with np.errstate(all="ignore"):
        total = _channel_bias(kind, m[b], channels) + np.broadcast_to(constant.reshape(-1).astype(np.float64), channels)
        bias = total.astype(constant.dtype)
    if not np.isfinite(bias).all():
        raise NoMatch(f"the sum of the biases overflows {bias.dtype}")
    return apply(_unit_beta(kind), m[x], m.value(w), const(bias))


def _output_channels(kind: nn.Layer, weight_type: TensorType) -> int:
    channels = weight_type.dims[nn.weight_channel_axis(kind, weight_type)]
    assert isinstance(channels, int)
    return channels * kind.group if isinstance(kind, nn.ConvTranspose) else channels
