"""Layer normalisation (Ba et al. 2016) written out, as before opset 17, made one op with its scale and bias."""

from __future__ import annotations

import numpy as np

from amctc.contract import Rounding
from amctc.ir import Value, apply, const
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, OpPattern, Weight, any_value, either, number, op, weight
from amctc.rewrite import rewrite
from amctc.types import F16, F32, Array, TensorType
from amctc_patterns.layers import rounded

x, eps = any_value(name="x"), number(name="eps")

mean = op(nn.ReduceMean, x, where=lambda k: k.keepdims, wanted="kept axes")
centred = op(nn.Sub, x, mean)
square = either(
    op(nn.Pow, centred, uses=1, where=lambda k: k.exponent == 2.0, wanted="a square"),
    op(nn.Mul, centred, centred, uses=1),
)
variance = op(nn.ReduceMean, square, uses=1, where=lambda k: k.keepdims, wanted="kept axes")
raised = op(nn.Add, variance, eps, uses=1)
deviation = either(
    op(nn.Sqrt, raised, uses=1),
    op(nn.Pow, raised, uses=1, where=lambda k: k.exponent == 0.5, wanted="a square root"),
)
inverse = either(
    op(nn.Reciprocal, deviation, uses=1),
    op(nn.Div, number(1.0), deviation, uses=1),
    op(nn.Pow, raised, uses=1, where=lambda k: k.exponent == -0.5, wanted="a reciprocal square root"),
)


def _normalised(m: Match) -> tuple[nn.LayerNorm, tuple[int, ...]]:
    """The layer normalisation without scale and bias, and the shape of the normalised axes."""
    data = m[x].type
    axes = {tuple(sorted(a % data.rank for a in m[p].axes)) for p in (mean, variance)}
    first = min(min(a) for a in axes)
    if axes != {tuple(range(first, data.rank))}:
        raise NoMatch(f"the means are over axes {sorted(axes)}, not over the last ones")
    if data.elem not in (F32, F16):
        raise NoMatch(f"statistics of {data.elem} data")
    if not m[eps] > 0:
        raise NoMatch(f"an epsilon of {m[eps]:g}")
    if m.value(raised).type != m.value(variance).type:
        raise NoMatch("epsilon broadcasts the variance")
    shape = tuple(d for d in data.dims[first:] if isinstance(d, int))
    if len(shape) != data.rank - first or 0 in shape:
        raise NoMatch(f"the normalised axes of {data} are not known")
    return nn.LayerNorm(first - data.rank, m[eps]), shape


def _ones(shape: tuple[int, ...], like: TensorType) -> Value:
    return const(np.ones(shape, like.elem.dtype))


divided = op(nn.Div, centred, deviation)
multiplied = op(nn.Mul, centred, inverse)


@rewrite(divided, effect=Rounding(units=2))
def recompose_layer_norm(m: Match) -> Value:
    """(x - mean(x)) / √(mean((x - mean(x))²) + ε) is layer_norm(x); PyTorch writes it so."""
    kind, shape = _normalised(m)
    return apply(kind, m[x], _ones(shape, m[x].type))


@rewrite(multiplied, effect=Rounding(units=2))
def recompose_layer_norm_product(m: Match) -> Value:
    """(x - mean(x)) · 1/√(mean((x - mean(x))²) + ε) is layer_norm(x)."""
    if m.value(multiplied).type != m[x].type:
        raise NoMatch("a constant broadcasts x")
    kind, shape = _normalised(m)
    return apply(kind, m[x], _ones(shape, m[x].type))


gamma, beta = weight(name="gamma"), weight(name="beta")
factor = op(nn.Mul, inverse, gamma)
moved_mean = op(nn.Mul, mean, factor, uses=1)
expanded = op(nn.Add, op(nn.Mul, x, factor, uses=1), op(nn.Sub, beta, moved_mean, uses=1))


@rewrite(expanded, effect=Rounding(units=2))
def recompose_layer_norm_expanded(m: Match) -> Value:
    """x·g + (β - mean(x)·g) with g = γ/√(variance + ε) is layer_norm(x, γ, β); TensorFlow writes it so."""
    if m.value(expanded).type != m[x].type:
        raise NoMatch("a constant broadcasts x")
    kind, shape = _normalised(m)
    scale, bias = (_along_normalised(m[p], m[x].type.rank, shape) for p in (gamma, beta))
    return apply(kind, m[x], const(scale), const(bias))


def _along_normalised(constant: Array, rank: int, shape: tuple[int, ...]) -> Array:
    """A constant that broadcasts to a value, spread over its last axes; declines one that varies along others."""
    aligned = (1,) * (rank - constant.ndim) + constant.shape
    if any(d != 1 for d in aligned[: rank - len(shape)]):
        raise NoMatch(f"a constant of shape {list(constant.shape)} is not over the normalised axes")
    return np.broadcast_to(constant.reshape(aligned[rank - len(shape) :]), shape)


scale, bias = weight(name="scale"), weight(optional=True, name="bias")
norm = op(nn.LayerNorm, x, scale, bias, uses=1)
rescaled, shifted = op(nn.Mul, norm, gamma), op(nn.Add, norm, beta)


def _beside(m: Match, root: OpPattern[nn.Mul] | OpPattern[nn.Add], constant: Weight[Array]) -> Array:
    """The constant beside a layer normalisation, float64 over the normalised axes."""
    data = m[x].type
    if m.value(root).type != data:
        raise NoMatch("the constant broadcasts x")
    axis = m[norm].axis % data.rank
    shape = tuple(d for d in data.dims[axis:] if isinstance(d, int))
    if len(shape) != data.rank - axis:
        raise NoMatch(f"the normalised axes of {data} are not known")
    return _along_normalised(m[constant].astype(np.float64), data.rank, shape)


@rewrite(rescaled, effect=Rounding(units=2))
def fold_layer_norm_scale(m: Match) -> Value:
    """layer_norm(x)·γ is a layer_norm with another scale and bias."""
    factor, old, like = _beside(m, rescaled, gamma), m[bias], m[x].type
    shift = None if old is None else const(rounded(old * factor, like))
    return apply(m[norm], m[x], const(rounded(m[scale] * factor, like)), shift)


@rewrite(shifted, effect=Rounding(units=2))
def fold_layer_norm_bias(m: Match) -> Value:
    """layer_norm(x) + β is a layer_norm with another bias."""
    addend, old = _beside(m, shifted, beta), m[bias]
    total = addend if old is None else old + addend
    return apply(m[norm], m[x], m.value(scale), const(rounded(total, m[x].type)))
