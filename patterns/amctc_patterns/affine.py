"""Sums, differences, products and quotients with constants, folded into the layer before them or after them."""

from __future__ import annotations

import numpy as np

from amctc.contract import Rounding
from amctc.ir import Value
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, OpPattern, any_value, either, op, weight
from amctc.rewrite import rewrite
from amctc.types import Array
from amctc_patterns.layers import (
    LAYERS,
    input_channel_axis,
    input_channels,
    output_channels,
    with_affine_input,
    with_affine_result,
)

AFFINE: tuple[type[nn.Add | nn.Sub | nn.Mul | nn.Div], ...] = (nn.Add, nn.Sub, nn.Mul, nn.Div)

x, w, b = any_value(name="x"), weight(name="w"), weight(optional=True, name="b")
constant = weight(name="constant")


def scale_and_shift(kind: object, constant: Array) -> tuple[Array | None, Array]:
    """(s, t) such that the op on v and the constant is v·s + t; ``None`` for a scale of 1."""
    zero = np.zeros_like(constant)
    if isinstance(kind, nn.Add | nn.Sub):
        return None, constant if isinstance(kind, nn.Add) else -constant
    if isinstance(kind, nn.Mul):
        return constant, zero
    if not constant.all():
        raise NoMatch("a division by zero")
    return 1.0 / constant, zero


def per_channel(constant: Array, rank: int, axis: int, channels: int) -> Array:
    """A constant that broadcasts to a value, as float64 [channels]; declines one that varies along another axis."""
    aligned = (1,) * (rank - constant.ndim) + constant.shape
    if any(d != 1 for i, d in enumerate(aligned) if i != axis):
        raise NoMatch(f"a constant of shape {list(constant.shape)} is not per channel")
    values = np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))
    if not np.isfinite(values).all():
        raise NoMatch("the constant is not finite")
    return values


layer = op(LAYERS, x, w, b, uses=1)
after = op(AFFINE, layer, constant)
taken_from = op(nn.Sub, constant, layer)


def _result_constant(m: Match, root: OpPattern[nn.Add | nn.Sub | nn.Mul | nn.Div] | OpPattern[nn.Sub]) -> Array:
    """The constant beside a layer's result, float64 [O]."""
    kind, result = m[layer], m.value(layer).type
    if m.value(root).type != result:
        raise NoMatch("the constant broadcasts the layer's result")
    if m.value(w).type.rank < 2:
        raise NoMatch("a product with a vector has no output channels")
    axis = nn.result_channel_axis(kind, result.rank)
    return per_channel(m[constant], result.rank, axis, output_channels(kind, m.value(w).type))


@rewrite(after, effect=Rounding(units=2, algebraic=True))
def fold_affine_after(m: Match) -> Value:
    """layer(x, w, b) plus, minus, times or over a constant per output channel is another layer."""
    scale, shift = scale_and_shift(m[after], _result_constant(m, after))
    return with_affine_result(m[layer], m[x], m.value(w), m.optional(b), scale, shift)


@rewrite(taken_from, effect=Rounding(units=2, algebraic=True))
def fold_subtraction_after(m: Match) -> Value:
    """a constant per output channel minus layer(x, w, b) is a layer with negated weights."""
    shift = _result_constant(m, taken_from)
    return with_affine_result(m[layer], m[x], m.value(w), m.optional(b), np.full_like(shift, -1.0), shift)


any_bias = any_value(optional=True, name="b")
before, negated = op(AFFINE, x, constant, uses=1), op(nn.Sub, constant, x, uses=1)
following = op(LAYERS, either(before, negated), w, any_bias, fused=True)


@rewrite(following, effect=Rounding(units=2, algebraic=True))
def fold_affine_before(m: Match) -> Value:
    """layer(x plus, minus, times or over a constant per input channel) is a layer, unless padding sees a shift."""
    kind, data = m[following], m[x].type
    inner = before if before in m else negated
    if m.value(inner).type != data:
        raise NoMatch("the constant broadcasts the layer's input")
    channels = input_channels(kind, m.value(w).type)
    values = per_channel(m[constant], data.rank, input_channel_axis(kind, data.rank), channels)
    scale, shift = scale_and_shift(m[before], values) if before in m else (np.full_like(values, -1.0), values)
    return with_affine_input(kind, m[x], m.value(w), m.optional(any_bias), scale, shift)
