"""Interval arithmetic over op kinds: what a result's range must be when the operands' ranges are known.

:func:`amctc.analysis.value_range` evaluates it. Bounds hold in every floating-point type down to bfloat16, NaN aside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from amctc.ir import Op
from amctc.ops import nn
from amctc.schema import OpKind


class Interval(NamedTuple):
    """Bounds that every element of a value lies in (NaN aside); infinite where nothing is known."""

    low: float
    high: float


EVERYTHING = Interval(-math.inf, math.inf)

Rule = Callable[[Op, tuple[Interval, ...]], Interval]
"""The range of an op's results, from the op and the ranges of its present operands."""

SLACK = 2.0**-8
"""Covers the rounding of sums and means down to bfloat16; a bound of zero needs none, signs survive rounding."""


def _rounded_outwards(low: float, high: float) -> Interval:
    return Interval(low - SLACK * abs(low), high + SLACK * abs(high))


def activated(kind: nn.Activation, x: Interval) -> Interval:
    """The range of an activation that a layer can carry."""
    if isinstance(kind, nn.Relu):
        return Interval(max(x.low, 0.0), max(x.high, 0.0))
    if isinstance(kind, nn.Clip):
        return Interval(min(max(x.low, kind.low), kind.high), min(max(x.high, kind.low), kind.high))
    if kind.alpha < 0:
        return EVERYTHING
    low, high = (end if end >= 0 else kind.alpha and kind.alpha * end for end in x)  # 0 times -inf is 0 here
    return Interval(low, high)


def _activation(op: Op, operands: tuple[Interval, ...]) -> Interval:
    assert isinstance(op.kind, nn.Relu | nn.LeakyRelu | nn.Clip)
    return activated(op.kind, operands[0])


def _hull(*several: Interval) -> Interval:
    return Interval(min(i.low for i in several), max(i.high for i in several))


def _first(op: Op, operands: tuple[Interval, ...]) -> Interval:
    """The result's elements are elements of the first operand."""
    return operands[0]


def _max_pool(op: Op, operands: tuple[Interval, ...]) -> Interval:
    assert isinstance(op.kind, nn.MaxPool)
    if any(d != 1 for d in op.kind.dilations) and any(op.kind.pads):
        return Interval(-math.inf, operands[0].high)  # a dilated window can fall between the elements into padding
    return operands[0]


def _reduce_max(op: Op, operands: tuple[Interval, ...]) -> Interval:
    x = op.operands[0]
    some = x is not None and all(isinstance(d, int) and d > 0 for d in x.type.dims)
    return operands[0] if some else Interval(-math.inf, operands[0].high)  # the largest of no elements is -inf


def _mean(op: Op, operands: tuple[Interval, ...]) -> Interval:
    return _rounded_outwards(*operands[0])


def _average_pool(op: Op, operands: tuple[Interval, ...]) -> Interval:
    return _rounded_outwards(min(operands[0].low, 0.0), max(operands[0].high, 0.0))


def _reduce_sum(op: Op, operands: tuple[Interval, ...]) -> Interval:
    """How many are added is not asked: only the sign is known."""
    x = operands[0]
    return Interval(0.0 if x.low >= 0 else -math.inf, 0.0 if x.high <= 0 else math.inf)


def _resize(op: Op, operands: tuple[Interval, ...]) -> Interval:
    assert isinstance(op.kind, nn.Resize)
    return operands[0] if op.kind.mode == "nearest" else _rounded_outwards(*operands[0])


def _pad(op: Op, operands: tuple[Interval, ...]) -> Interval:
    kind = op.kind
    assert isinstance(kind, nn.Pad)
    if kind.mode != "constant" or not any(p > 0 for p in kind.pads):
        return operands[0]
    return _hull(operands[0], _rounded_outwards(kind.value, kind.value))


def _add(op: Op, operands: tuple[Interval, ...]) -> Interval:
    return _rounded_outwards(operands[0].low + operands[1].low, operands[0].high + operands[1].high)


def _power(op: Op, operands: tuple[Interval, ...]) -> Interval:
    assert isinstance(op.kind, nn.Pow)
    return Interval(0.0, math.inf) if op.kind.exponent % 2 == 0 or operands[0].low >= 0 else EVERYTHING


def _absolute(op: Op, operands: tuple[Interval, ...]) -> Interval:
    x = operands[0]
    return Interval(max(x.low, -x.high, 0.0), max(-x.low, x.high))


def _elu(op: Op, operands: tuple[Interval, ...]) -> Interval:
    assert isinstance(op.kind, nn.Elu)
    x, alpha = operands[0], op.kind.alpha
    if alpha < 0:
        return EVERYTHING
    return Interval(x.low if x.low >= 0 else _rounded_outwards(-alpha, 0.0).low, max(x.high, 0.0))


def _prelu(op: Op, operands: tuple[Interval, ...]) -> Interval:
    x, slope = operands
    if x.low >= 0:
        return x
    return Interval(-math.inf, max(x.high, 0.0)) if slope.low >= 0 else EVERYTHING


def _gated(least: float) -> Rule:
    """x times a gate in [0, 1] that is never below ``least``."""
    return lambda op, operands: Interval(min(0.0, least) if operands[0].low < 0 else 0.0, max(operands[0].high, 0.0))


def _within(low: float, high: float) -> Rule:
    """Whatever the operands are."""
    return lambda op, operands: Interval(low, high)


RANGES: dict[type[OpKind], Rule] = {
    nn.Relu: _activation, nn.LeakyRelu: _activation, nn.Clip: _activation, nn.MaxPool: _max_pool,
    **dict.fromkeys((nn.Flatten, nn.Reshape, nn.Transpose, nn.Squeeze, nn.Unsqueeze, nn.Expand, nn.Split, nn.Slice,
                     nn.Gather, nn.GlobalMaxPool), _first),
    nn.Pad: _pad, nn.Resize: _resize, nn.Where: lambda op, operands: _hull(*operands[1:]),
    nn.Concat: lambda op, operands: _hull(*operands), nn.GlobalAveragePool: _mean, nn.AveragePool: _average_pool,
    nn.ReduceMean: _mean, nn.ReduceSum: _reduce_sum, nn.ReduceMax: _reduce_max,
    nn.Min: lambda op, operands: Interval(min(o.low for o in operands), min(o.high for o in operands)),
    nn.Max: lambda op, operands: Interval(max(o.low for o in operands), max(o.high for o in operands)),
    nn.Add: _add, nn.Neg: lambda op, operands: Interval(-operands[0].high, -operands[0].low), nn.Abs: _absolute,
    nn.Sigmoid: _within(0.0, 1.0), nn.Softmax: _within(0.0, 1.0), nn.HardSigmoid: _within(0.0, 1.0),
    nn.Tanh: _within(-1.0, 1.0), nn.Erf: _within(-1.0, 1.0), nn.LogSoftmax: _within(-math.inf, 0.0),
    nn.Softplus: _within(0.0, math.inf),
    nn.Exp: _within(0.0, math.inf), nn.Sqrt: _within(0.0, math.inf), nn.Pow: _power, nn.Elu: _elu, nn.PRelu: _prelu,
    # Minima to two digits, rounded down: -0.3750 at -1.5; -0.1700 (tanh: -0.1701); -0.2785; -0.3088.
    nn.HardSwish: _gated(-0.38), nn.Gelu: _gated(-0.18), nn.Silu: _gated(-0.29), nn.Mish: _gated(-0.32),
}  # fmt: skip
"""The op kinds that say something about their range. Layers are left out: their weights may be far away."""
