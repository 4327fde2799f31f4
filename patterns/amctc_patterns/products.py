"""Gemm and MatMul brought to the form the target computes: data by a constant matrix, a bias per output, no factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amctc.contract import Exact, Rounding
from amctc.data import deferred
from amctc.ir import Value, apply, const, constant_data
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, op, weight
from amctc.rewrite import rewrite
from amctc_patterns.layers import channel_bias, output_channels, rounded, scaled_weight

x, w, b = any_value(name="x"), weight(name="w"), weight(optional=True, name="b")
gemm = op(nn.Gemm, x, w, b, fused=True)


@rewrite(gemm, effect=Rounding(units=2, algebraic=True))
def fold_gemm_factors(m: Match) -> Value:
    """alpha·x·w + beta·b is a gemm with scaled weight and bias, the bias spread to one per output."""
    kind, bias = m[gemm], m[b]
    columns = output_channels(kind, m.value(w).type)
    spread = bias is not None and bias.shape != (columns,)
    if kind.alpha == 1.0 and kind.beta == 1.0 and not spread:
        raise NoMatch("no factors, and the bias is one per output")
    matrix = m.value(w) if kind.alpha == 1.0 else scaled_weight(kind, m.value(w), np.asarray(kind.alpha))
    added = None if bias is None else const(rounded(channel_bias(kind, matrix.type, m.value(b)), matrix.type))
    return apply(replace(kind, alpha=1.0, beta=1.0), m[x], matrix, added)


transposed = op(nn.Gemm, x, w, any_value(optional=True, name="b"), fused=True, where=lambda k: k.trans_a,
                wanted="a transposed first operand")  # fmt: skip


@rewrite(transposed, effect=Exact())
def transpose_gemm_input(m: Match) -> Value:
    """A gemm of transposed data is a transpose and a gemm: the target transposes weights only."""
    root = m.value(transposed).producer
    assert root is not None
    return apply(replace(m[transposed], trans_a=False), apply(nn.Transpose((1, 0)), m[x]), *root.operands[1:])


addend = any_value(name="b")
biased = op(nn.Gemm, x, w, addend, fused=True)


@rewrite(biased, effect=Rounding(units=2, algebraic=True))
def split_gemm_bias(m: Match) -> Value:
    """A gemm with a bias that is computed or differs between rows is a gemm and an addition."""
    kind, bias, data = m[biased], m[addend], constant_data(m[addend])
    if data is not None:
        if len(data.shape) < 2 or data.shape[0] == 1:
            raise NoMatch("the bias is one per output")
        bias = const(rounded(data.read().astype(np.float64) * kind.beta, bias.type))
    elif kind.beta != 1.0:
        bias = apply(nn.Mul(), bias, const(np.asarray(kind.beta, bias.type.elem.dtype)))
    product = apply(replace(kind, beta=1.0, activation=None), m[x], m.value(w))
    total = apply(nn.Add(), product, bias)
    return total if kind.activation is None else apply(kind.activation, total)


stacked = op(nn.MatMul, x, w, any_value(optional=True, name="b"), fused=True)


@rewrite(stacked, effect=Exact())
def flatten_matmul_weight(m: Match) -> Value:
    """A product with a constant stack of one matrix is a product with that matrix."""
    shape = m.data(w).shape
    if len(shape) <= 2 or any(d != 1 for d in shape[:-2]):
        raise NoMatch(f"a weight of shape {list(shape)} is no stack of one matrix")
    if m[x].type.rank < len(shape):
        raise NoMatch("the stack gives the result its rank")
    root, matrix = m.value(stacked).producer, shape[-2:]
    assert root is not None
    data = deferred("stack of one", lambda a: a.reshape(matrix), m.data(w), shape=matrix, dtype=m.data(w).dtype)
    return apply(m[stacked], m[x], const(data, m.value(w).type.elem), *root.operands[2:])
