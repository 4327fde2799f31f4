"""Arithmetic on the constants of a layer: what scales and shifts its result or its input goes into weight and bias.

All sums are in float64, rounded once. A fold declines where the new constants would overflow or lose bits that count.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from amctc.data import EAGER_BYTES, deferred
from amctc.ir import Value, apply, const, constant_data
from amctc.ops import nn
from amctc.pattern import NoMatch
from amctc.types import Array, TensorType

LAYERS: tuple[type[nn.Layer], ...] = (nn.Conv, nn.ConvTranspose, nn.Gemm, nn.MatMul)

HARMLESS = 2.0**12
"""Weights that underflow are lost next to a weight or bias of their channel so many times the smallest normal float."""


# ------------------------------------------------------------------------------------------------- folding, both sides


def with_affine_result(kind: nn.Layer, x: Value, w: Value, b: Value | None, scale: Array | None, shift: Array) -> Value:
    """layer(x, w, b) · ``scale`` + ``shift``, both [O], as one layer; no ``scale`` leaves the weight alone."""
    old = channel_bias(kind, w.type, b)
    with np.errstate(all="ignore"):
        bias = rounded(shift + (old if scale is None else old * scale), w.type)
    if scale is None:
        return apply(_unit_beta(kind), x, w, const(bias))
    keeps_none = b is None and not shift.any()
    weight = scaled_weight(kind, w, per_output_channel(kind, w.type, scale), bias)
    return apply(_unit_beta(kind), x, weight, None if keeps_none else const(bias))


def with_affine_input(kind: nn.Layer, x: Value, w: Value, b: Value | None, scale: Array | None, shift: Array) -> Value:
    """layer(x · ``scale`` + ``shift``, w, b), both [C], as one layer.

    The shift goes into the bias, which declines where padding would see it: padding is 0 after it, not before.
    """
    scaled = w if scale is None else scaled_weight(kind, w, per_input_channel(kind, w.type, scale))
    if not shift.any():
        return apply(kind, x, scaled, b)
    if (reason := _variation(kind, w.type)) is not None:
        raise NoMatch(f"the shift is not the same everywhere in the result: {reason}")
    data = constant_data(w)
    assert data is not None
    factor = kind.alpha if isinstance(kind, nn.Gemm) else 1.0
    with np.errstate(all="ignore"):
        shifted = data.read().astype(np.float64) * per_input_channel(kind, w.type, shift)
        bias = rounded(channel_bias(kind, w.type, b) + factor * by_output(kind, w.type, shifted).sum(axis=1), w.type)
    return apply(_unit_beta(kind), x, scaled, const(bias))


def _variation(kind: nn.Layer, weight: TensorType) -> str | None:
    """Why a constant input would not give a constant per output channel; ``None`` where it does."""
    if isinstance(kind, nn.Gemm):
        return None
    if isinstance(kind, nn.MatMul):
        if weight.rank < 2:
            return "a product with a vector has no bias"
        return "the stacked weights differ" if any(d != 1 for d in weight.dims[:-2]) else None
    if any(kind.pads):
        return f"pads {list(kind.pads)}"
    if isinstance(kind, nn.ConvTranspose):
        plain = all(d == 1 for d in (*weight.dims[2:], *kind.strides)) and not any(kind.output_padding)
        return None if plain else "a transposed convolution adds up fewer terms here and there"
    return None


# ------------------------------------------------------------------------------------------------------------- channels


def output_channels(kind: nn.Layer, weight: TensorType) -> int:
    """O, from the type of a constant weight."""
    channels = _number(weight.dims[nn.weight_channel_axis(kind, weight)])
    return channels * kind.group if isinstance(kind, nn.ConvTranspose) else channels


def input_channels(kind: nn.Layer, weight: TensorType) -> int:
    """C, from the type of a constant weight: of a Gemm or MatMul, what is summed over."""
    channels = _number(weight.dims[nn.weight_input_axis(kind, weight)])
    return channels * kind.group if isinstance(kind, nn.Conv) else channels


def input_channel_axis(kind: nn.Layer, rank: int) -> int:
    """Axis of the data that runs over input channels."""
    if isinstance(kind, nn.Conv | nn.ConvTranspose):
        return 1
    return 0 if isinstance(kind, nn.Gemm) and kind.trans_a else rank - 1


def per_output_channel(kind: nn.Layer, weight: TensorType, values: Array) -> Array:
    """``values`` [O] reshaped to multiply a layer's weight."""
    if isinstance(kind, nn.ConvTranspose):  # weight [C, O/group, …]: the group is hidden in the first axis
        channels, per_group = _number(weight.dims[0]), _number(weight.dims[1])
        grouped = np.repeat(values.reshape(kind.group, 1, per_group), channels // kind.group, axis=1)
        return grouped.reshape(channels, per_group, *(1,) * (weight.rank - 2))
    return _along(nn.weight_channel_axis(kind, weight), weight.rank, values)


def per_input_channel(kind: nn.Layer, weight: TensorType, values: Array) -> Array:
    """``values`` [C] reshaped to multiply a layer's weight."""
    if isinstance(kind, nn.Conv):  # weight [O, C/group, …]: the group is hidden in the first axis
        out, per_group = _number(weight.dims[0]), _number(weight.dims[1])
        grouped = np.repeat(values.reshape(kind.group, 1, per_group), out // kind.group, axis=1)
        return grouped.reshape(out, per_group, *(1,) * (weight.rank - 2))
    return _along(nn.weight_input_axis(kind, weight), weight.rank, values)


def by_output(kind: nn.Layer, weight: TensorType, values: Array) -> Array:
    """``values`` of a weight's shape as a matrix [O, terms]: a row holds what one output channel sums up."""
    if isinstance(kind, nn.ConvTranspose):  # [C, O/group, …] to [C/group, O, …]
        channels, per_group, *kernel = values.shape
        grouped = values.reshape(kind.group, channels // kind.group, per_group, *kernel).swapaxes(0, 1)
        values = grouped.reshape(channels // kind.group, kind.group * per_group, *kernel)
    rows = np.moveaxis(values, nn.weight_channel_axis(kind, weight), 0) if values.ndim > 1 else values[np.newaxis]
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


def _along(axis: int, rank: int, values: Array) -> Array:
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _number(dim: object) -> int:
    assert isinstance(dim, int)  # weights are constants
    return dim


# ------------------------------------------------------------------------------------------------------------ constants


def channel_bias(kind: nn.Layer, weight: TensorType, bias: Value | None) -> Array:
    """What the layer adds to each output channel, float64 [O]; declines a computed bias, and one per row."""
    channels = output_channels(kind, weight)
    if bias is None:
        return np.zeros(channels)
    data = constant_data(bias)
    if data is None:
        raise NoMatch("the bias is computed")
    if any(d != 1 for d in data.shape[:-1]):
        raise NoMatch(f"the bias of shape {list(data.shape)} is not per output channel")
    per_channel = data.read().astype(np.float64).reshape(-1)
    if isinstance(kind, nn.Gemm):
        per_channel = per_channel * kind.beta
    return per_channel if len(per_channel) == channels else np.broadcast_to(per_channel, (channels,))


def rounded(bias: Array, like: TensorType) -> Array:
    """A new bias in the element type of ``like``; declines one that overflows."""
    dtype = like.elem.dtype
    with np.errstate(all="ignore"):
        result = bias.astype(dtype)
    if not np.isfinite(result).all():
        raise NoMatch(f"a folded constant overflows {dtype}")
    return result


def scaled_weight(kind: nn.Layer, weight: Value, factors: Array, bias: Array | None = None) -> Value:
    """``weight`` · ``factors``, which broadcast to it, as a deferred constant.

    Declines where a weight overflows, as by a factor that is not finite, or loses bits that count. An underflow beside
    larger weights of its output channel does not, nor beside its new ``bias`` [O] (dead channels of trained networks
    hold denormal weights).
    """
    data = constant_data(weight)
    assert data is not None

    def scaled(array: Array) -> Array:
        with np.errstate(all="ignore"):
            return (array.astype(np.float64) * factors).astype(array.dtype)

    before = data.read()
    after = scaled(before)
    _check_range(kind, weight.type, before, after, factors, np.zeros(1) if bias is None else bias)
    if data.nbytes <= EAGER_BYTES:
        return const(after, weight.type.elem)
    return const(deferred("scale channels", scaled, data, shape=data.shape, dtype=data.dtype), weight.type.elem)


def _check_range(kind: nn.Layer, type_: TensorType, before: Array, after: Array, factors: Array, bias: Array) -> None:
    smallest, sizes = smallest_normal(after.dtype), np.abs(after)
    if smallest <= sizes.min(initial=np.inf) and sizes.max(initial=0) < np.inf:
        return  # as of most weights, and false of NaN
    if not np.isfinite(after).all():
        raise NoMatch(f"the scaled weight overflows {after.dtype}")
    lost = (before != 0) & (factors != 0) & (sizes < smallest)
    if lost.any():
        largest = np.abs(by_output(kind, type_, after)).max(axis=1, initial=0)
        beside = np.maximum(largest.astype(np.float64), np.abs(bias.astype(np.float64)))
        if (by_output(kind, type_, lost).any(axis=1) & (beside < HARMLESS * smallest)).any():
            raise NoMatch(f"a scaled weight underflows {after.dtype}")


def smallest_normal(dtype: np.dtype[Any]) -> float:
    """Below it a float loses bits, and a relative error bound no longer holds."""
    return float(ml_dtypes.finfo(dtype).tiny)  # type: ignore[no-untyped-call]


def _unit_beta(kind: nn.Layer) -> nn.Layer:
    return replace(kind, beta=1.0) if isinstance(kind, nn.Gemm) else kind
