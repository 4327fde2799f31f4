"""Exact evaluation of the piecewise affine part of the ``nn`` dialect: arrays of :class:`fractions.Fraction`.

Nothing rounds here, so two graphs that are equal in algebra give equal arrays. It is a second implementation on
purpose: only ops that move elements share their code with the kernels.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from amctc.errors import UnsupportedError
from amctc.ir import Constant, Graph, Op, Value, layer_name
from amctc.kernels.tables import FLOAT
from amctc.kernels.windows import trailing
from amctc.ops import nn
from amctc.schema import OpKind
from amctc.types import Array


def exact(values: Array) -> Array:
    """Numbers as fractions; :class:`UnsupportedError` for infinities and NaN."""
    try:
        made: Array = np.asarray(_fraction(np.asarray(values).astype(object)), object)
    except (OverflowError, ValueError):
        raise UnsupportedError("an infinity or NaN is no rational number") from None
    return made


_fraction: Callable[[Array], Any] = np.frompyfunc(Fraction, 1, 1)


def evaluate_exactly(graph: Graph, feeds: Mapping[Value, Array]) -> tuple[Array, ...]:
    """The outputs of ``graph`` as arrays of fractions, from such arrays of its inputs.

    Integer constants (indices) stay integers. Raises :class:`UnsupportedError` for an op that is not piecewise affine
    with rational coefficients: a division by zero, an irrational root, an op kind without a formula here.
    """
    values: dict[Any, Any] = {None: None, **feeds}
    for op in graph.ops:
        if isinstance(op.kind, Constant):
            data = op.kind.data.read()
            values[op.result] = exact(data) if data.dtype.kind == "f" else data
            continue
        try:
            results = _formula(op)(op, *(values[o] for o in op.operands))
        except ZeroDivisionError:
            raise UnsupportedError("a division by zero", where=layer_name(op)) from None
        values.update(zip(op.results, results if isinstance(results, tuple) else (results,), strict=True))
    return tuple(np.asarray(values[v], object) for v in graph.outputs)


def _formula(op: Op) -> Callable[..., Any]:
    formula = FORMULAS.get(type(op.kind))
    if formula is None:
        raise UnsupportedError(f"{op.kind.op_name} has no formula in exact rationals", where=layer_name(op))
    return formula


# ---------------------------------------------------------------------------------------------------------- products


def _numerators(values: Array) -> tuple[Array, int]:
    """Integers and their common denominator: products of integers cost a tenth of products of fractions."""
    common = math.lcm(*(v.denominator for v in values.flat))
    return np.asarray(_numerator(values * common), object), common


_numerator: Callable[[Any], Any] = np.frompyfunc(lambda fraction: fraction.numerator, 1, 1)


def _scaled(sums: Any, denominator: int) -> Array:
    return np.asarray(exact(sums) / denominator, object)


def _product(a: Array, b: Array) -> Array:
    (left, p), (right, q) = _numerators(a), _numerators(b)
    return _scaled(np.matmul(left, right), p * q)


def _tap(weight: Array, tap: tuple[int, ...]) -> Array:
    """The weights of one kernel position, [O, C] or [C, O]."""
    return weight.reshape(*weight.shape[:2], -1)[..., np.ravel_multi_index(tap, weight.shape[2:])]


def _conv(op: Op, x: Array, w: Array, b: Array | None = None) -> Array:
    k = op.kind
    assert isinstance(k, nn.Conv)
    rank, (xs, p), (ws, q) = x.ndim - 2, _numerators(x), _numerators(w)
    padded = np.zeros((*x.shape[:2], *map(sum, zip(x.shape[2:], k.pads, k.pads[rank:], strict=False))), object)
    padded[trailing(slice(b, b + n) for b, n in zip(k.pads, x.shape[2:], strict=False))] = xs
    reaches = [d * (n - 1) + 1 for n, d in zip(w.shape[2:], k.dilations, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reaches, k.strides, strict=True)]
    sums = np.zeros((k.group, len(x), w.shape[0] // k.group, math.prod(out)), object)
    grouped = padded.reshape(len(x), k.group, w.shape[1], *padded.shape[2:]).swapaxes(0, 1)
    for tap in itertools.product(*map(range, w.shape[2:])):
        runs = zip(tap, k.dilations, k.strides, out, strict=True)
        met = grouped[trailing(slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in runs)]
        taps = _tap(ws, tap).reshape(k.group, 1, -1, w.shape[1])
        sums += np.matmul(taps, met.reshape(*met.shape[:3], -1))
    y = _scaled(sums.swapaxes(0, 1).reshape(len(x), -1, *out), p * q)
    return _activated(k.activation, y if b is None else y + b.reshape(-1, *(1,) * rank))


def _conv_transpose(op: Op, x: Array, w: Array, b: Array | None = None) -> Array:
    k = op.kind
    assert isinstance(k, nn.ConvTranspose)
    rank, (xs, p), (ws, q) = x.ndim - 2, _numerators(x), _numerators(w)
    extra = k.output_padding or (0,) * rank
    axes = zip(x.shape[2:], w.shape[2:], k.strides, k.dilations, extra, strict=True)
    full = [s * (n - 1) + d * (t - 1) + 1 + e for n, t, s, d, e in axes]
    sums = np.zeros((k.group, len(x), w.shape[1], *full), object)
    grouped = xs.reshape(len(x), k.group, -1, math.prod(x.shape[2:])).swapaxes(0, 1)
    for tap in itertools.product(*map(range, w.shape[2:])):
        taps = _tap(ws, tap).reshape(k.group, 1, -1, w.shape[1]).swapaxes(2, 3)
        runs = zip(tap, k.dilations, k.strides, x.shape[2:], strict=True)
        target = trailing(slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in runs)
        sums[target] += np.matmul(taps, grouped).reshape(*sums.shape[:3], *x.shape[2:])
    kept = trailing(slice(a, n - e) for a, e, n in zip(k.pads[:rank], k.pads[rank:], full, strict=True))
    y = _scaled(sums[kept], p * q).swapaxes(0, 1)
    y = y.reshape(len(x), -1, *y.shape[3:])
    return _activated(k.activation, y if b is None else y + b.reshape(-1, *(1,) * rank))


def _gemm(op: Op, x: Array, w: Array, b: Array | None = None) -> Array:
    k = op.kind
    assert isinstance(k, nn.Gemm)
    y = _product(x.T if k.trans_a else x, w.T if k.trans_b else w) * Fraction(float(k.alpha))
    return _activated(k.activation, y if b is None else y + b * Fraction(float(k.beta)))


def _matmul(op: Op, x: Array, w: Array, b: Array | None = None) -> Array:
    k = op.kind
    assert isinstance(k, nn.MatMul)
    y = _product(x, w)
    return _activated(k.activation, y if b is None else y + b)


# ------------------------------------------------------------------------------------------ element by element, sums


def _batch_norm(op: Op, x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
    k = op.kind
    assert isinstance(k, nn.BatchNorm)
    deviation = np.array([_root(v + Fraction(float(k.eps)), op) for v in var.flat], object)
    scale, around = gamma / deviation, (-1, *(1,) * (x.ndim - 2))
    return np.asarray((x - mean.reshape(around)) * scale.reshape(around) + beta.reshape(around))


def _root(value: Fraction, op: Op) -> Fraction:
    if value > 0:
        root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
        if root * root == value:
            return root
    raise UnsupportedError(f"√{value} is irrational", where=layer_name(op))


def _activated(activation: nn.Activation | None, x: Array) -> Array:
    if activation is None:
        return x
    if isinstance(activation, nn.LeakyRelu):
        return np.where(x >= 0, x, x * Fraction(float(activation.alpha)))
    low, high = (0.0, math.inf) if isinstance(activation, nn.Relu) else (activation.low, activation.high)
    x = x if math.isinf(low) else np.maximum(x, exact(np.asarray(low)))
    return x if math.isinf(high) else np.minimum(x, exact(np.asarray(high)))


def _activation(op: Op, x: Array) -> Array:
    assert isinstance(op.kind, nn.Relu | nn.LeakyRelu | nn.Clip)
    return _activated(op.kind, x)


def _reduced(op: Op, x: Array) -> Array:
    k = op.kind
    assert isinstance(k, nn.ReduceSum | nn.ReduceMean)
    total = np.asarray(x.sum(axis=tuple(k.axes), keepdims=k.keepdims), object)
    return total / (math.prod(x.shape[a] for a in k.axes) if isinstance(k, nn.ReduceMean) else 1)


def _global_average(op: Op, x: Array) -> Array:
    return np.asarray(x.sum(axis=tuple(range(2, x.ndim)), keepdims=True)) / math.prod(x.shape[2:])


def _moved(op: Op, *operands: Array) -> Array | tuple[Array, ...]:
    """Ops that choose elements: as their kernel does, in objects; what a Pad fills in becomes a fraction."""
    moved = FLOAT[type(op.kind)](op, [None] * len(operands))(*operands)
    return tuple(map(exact, moved)) if isinstance(moved, tuple) else exact(moved)


def _pointwise(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda op, *operands: np.asarray(function(*operands), object)


_MOVES: tuple[type[OpKind], ...] = (
    nn.Concat, nn.Expand, nn.Flatten, nn.Gather, nn.Identity, nn.Pad, nn.Reshape, nn.Slice, nn.Split, nn.Squeeze,
    nn.Transpose, nn.Unsqueeze,
)  # fmt: skip

FORMULAS: dict[type[OpKind], Callable[..., Any]] = {
    nn.Conv: _conv, nn.ConvTranspose: _conv_transpose, nn.Gemm: _gemm, nn.MatMul: _matmul, nn.BatchNorm: _batch_norm,
    nn.Add: _pointwise(np.add), nn.Sub: _pointwise(np.subtract), nn.Mul: _pointwise(np.multiply),
    nn.Div: _pointwise(np.divide), nn.Neg: _pointwise(np.negative), nn.Abs: _pointwise(np.abs),
    nn.Min: _pointwise(lambda *xs: functools.reduce(np.minimum, xs)),
    nn.Max: _pointwise(lambda *xs: functools.reduce(np.maximum, xs)),
    nn.Relu: _activation, nn.LeakyRelu: _activation, nn.Clip: _activation,
    nn.ReduceSum: _reduced, nn.ReduceMean: _reduced, nn.GlobalAveragePool: _global_average,
    **dict.fromkeys(_MOVES, _moved),
}  # fmt: skip
"""How each op kind is computed: called with the op and its operands, fractions but for indices."""
