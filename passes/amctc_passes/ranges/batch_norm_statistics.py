"""What batch normalisations say of the values behind them: their channels are Gaussian, of known mean and deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from amctc.analysis import forward, is_identity
from amctc.ir import Op, Value, constant_data
from amctc.numerics.clipped_gaussian import ClippedGaussians
from amctc.ops import nn
from amctc.schema import OpKind

Known = tuple[ClippedGaussians | None, ...]
Rule = Callable[[Op, Known], ClippedGaussians | None]


@forward
def channel_statistics(value: Value, operands: Known) -> ClippedGaussians | None:
    """The channels (axis 1) of ``value`` over the training data, as far as batch normalisations say.

    A normalisation gives mean β and deviation |γ| (Nagel et al. 2019, section 4.2.1). Activations cut that, pools and
    reshapes to a matrix let it pass, sums add means and variances as if independent; anything else says nothing.
    """
    op = value.producer
    if op is None:
        return None
    rule = _RULES.get(type(op.kind))
    if rule is not None:
        return rule(op, operands)
    return operands[0] if is_identity(op) and operands else None


def _batch_norm(op: Op, operands: Known) -> ClippedGaussians | None:
    gamma, beta = (constant_data(op.operands[i]) for i in (1, 2))
    if gamma is None or beta is None:
        return None
    mean, deviation = (d.read().astype(np.float64).reshape(-1) for d in (beta, gamma))
    return ClippedGaussians(mean, np.abs(deviation)) if np.isfinite([mean, deviation]).all() else None


def _relu(op: Op, operands: Known) -> ClippedGaussians | None:
    return None if operands[0] is None else operands[0].clipped(0.0, math.inf)


def _clip(op: Op, operands: Known) -> ClippedGaussians | None:
    kind = op.kind
    assert isinstance(kind, nn.Clip)
    return None if operands[0] is None else operands[0].clipped(kind.low, kind.high)


def _same(op: Op, operands: Known) -> ClippedGaussians | None:
    return operands[0]


def _matrix(op: Op, operands: Known) -> ClippedGaussians | None:
    """A reshape from [N, C, 1, …] to [N, C]."""
    source = op.operands[0]
    assert source is not None
    old, new = source.type.dims, op.result.type.dims
    plain = len(new) == 2 and len(old) >= 2 and old[:2] == new and all(d == 1 for d in old[2:])
    return operands[0] if plain else None


def _sum(op: Op, operands: Known) -> ClippedGaussians | None:
    a, b = (operands[0], operands[1]) if len(operands) == 2 else (None, None)
    same = {o.type.shape for o in op.operands if o is not None} == {op.result.type.shape}
    if a is None or b is None or not same:
        return None
    (mean_a, variance_a), (mean_b, variance_b) = a.moments(), b.moments()
    return ClippedGaussians(mean_a + mean_b, np.sqrt(variance_a + variance_b), a.low + b.low, a.high + b.high)


_RULES: Mapping[type[OpKind], Rule] = {
    nn.BatchNorm: _batch_norm, nn.Relu: _relu, nn.Clip: _clip, nn.Add: _sum, nn.Flatten: _matrix, nn.Reshape: _matrix,
    nn.MaxPool: _same, nn.AveragePool: _same, nn.GlobalAveragePool: _same, nn.GlobalMaxPool: _same,
}  # fmt: skip
