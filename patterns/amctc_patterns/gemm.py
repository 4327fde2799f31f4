"""Gemm brought to the form the target computes: no factors, a bias per output."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np

from amctc.contract import Rounding
from amctc.data import deferred
from amctc.ir import Value, apply, const
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, op, weight
from amctc.rewrite import rewrite
from amctc.types import Array

x, w, b = any_value(name="x"), weight(name="w"), weight(optional=True, name="b")
gemm = op(nn.Gemm, x, w, b, fused=True)


@rewrite(gemm, effect=Rounding(units=2))
def fold_gemm_factors(m: Match) -> Value:
    """alpha·x·w + beta·b is a gemm with scaled weight and bias, the bias spread to one per output."""
    kind, bias = m[gemm], m[b]
    columns = m.value(w).type.dims[0 if kind.trans_b else 1]
    spread = bias is not None and bias.shape != (columns,)
    if kind.alpha == 1.0 and kind.beta == 1.0 and not spread:
        raise NoMatch("no factors, and the bias is one per output")
    if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        raise NoMatch(f"a bias of shape {list(bias.shape)} differs between rows")
    new_weight = m.value(w) if kind.alpha == 1.0 else _scaled_weight(m, kind.alpha)
    return apply(replace(kind, alpha=1.0, beta=1.0), m[x], new_weight, _bias(bias, kind.beta, columns))


def _scaled_weight(m: Match, alpha: float) -> Value:
    data = m.data(w)

    def scaled(array: Array) -> Array:
        with np.errstate(all="ignore"):
            return (array.astype(np.float64) * alpha).astype(array.dtype)

    before, after = data.read(), scaled(data.read())
    smallest_normal = float(ml_dtypes.finfo(data.dtype).tiny)  # type: ignore[no-untyped-call]
    if not np.isfinite(after).all() or (np.abs(after)[before != 0] < smallest_normal).any():
        raise NoMatch("the scaled weight overflows or underflows")
    return const(deferred("times alpha", scaled, data, shape=data.shape, dtype=data.dtype), m.value(w).type.elem)


def _bias(bias: Array | None, beta: float, columns: object) -> Value | None:
    if bias is None:
        return None
    assert isinstance(columns, int)
    with np.errstate(all="ignore"):
        spread = np.broadcast_to(bias.reshape(-1).astype(np.float64) * beta, (columns,)).astype(bias.dtype)
    if not np.isfinite(spread).all():
        raise NoMatch("the scaled bias overflows")
    return const(spread)
