"""Activations that exporters wrote out, most of them x times a gate: made one op each."""

from __future__ import annotations

from amctc.contract import Exact, Rounding
from amctc.ir import Value, apply
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, OpPattern, any_value, number, op
from amctc.rewrite import rewrite

x = any_value(name="x")

sigmoid = op(nn.Sigmoid, x, uses=1)
silu = op(nn.Mul, x, sigmoid)


@rewrite(silu, effect=Rounding(units=2))
def recompose_silu(m: Match) -> Value:
    """x·sigmoid(x) is silu(x) (Elfwing et al. 2018), also called swish."""
    return apply(nn.Silu(), m[x])


softplus = op(nn.Softplus, x, uses=1)
mish = op(nn.Mul, x, op(nn.Tanh, softplus, uses=1))


@rewrite(mish, effect=Rounding(units=2))
def recompose_mish(m: Match) -> Value:
    """x·tanh(softplus(x)) is mish(x) (Misra 2019)."""
    return apply(nn.Mish(), m[x])


three, six, sixth = number(3.0), number(6.0), number(1 / 6)
shifted = op(nn.Add, x, three, uses=1)
relu6 = op(nn.Clip, shifted, uses=1, where=lambda k: (k.low, k.high) == (0.0, 6.0), wanted="relu6")
over_six = op(nn.Div, relu6, six)
times_sixth = op(nn.Mul, relu6, sixth)
SIXTH = 1 / 6


def _unbroadcast(m: Match, root: OpPattern[nn.Mul] | OpPattern[nn.Div] | OpPattern[nn.Max]) -> Value:
    """x, where no constant beside it broadcasts it."""
    if m.value(root).type != m[x].type:
        raise NoMatch("a constant broadcasts x")
    return m[x]


@rewrite(over_six, effect=Rounding(units=2))
def recompose_hard_sigmoid(m: Match) -> Value:
    """relu6(x + 3)/6 is hard_sigmoid(x) (Howard et al. 2019)."""
    return apply(nn.HardSigmoid(SIXTH, 0.5), _unbroadcast(m, over_six))


@rewrite(times_sixth, effect=Rounding(units=2))
def recompose_hard_sigmoid_product(m: Match) -> Value:
    """relu6(x + 3)·⅙ is hard_sigmoid(x)."""
    return apply(nn.HardSigmoid(SIXTH, 0.5), _unbroadcast(m, times_sixth))


def _of_hard_swish(kind: nn.HardSigmoid) -> bool:
    return kind.beta == 0.5 and abs(kind.alpha - SIXTH) <= 2.0**-23 * SIXTH


hard_sigmoid = op(nn.HardSigmoid, x, uses=1, where=_of_hard_swish, wanted="a slope of 1/6")
gated = op(nn.Mul, x, hard_sigmoid)


@rewrite(gated, effect=Rounding(units=2))
def recompose_hard_swish(m: Match) -> Value:
    """x·hard_sigmoid(x) of slope 1/6 is hard_swish(x)."""
    return apply(nn.HardSwish(), m[x])


ungated = op(nn.Mul, x, relu6, uses=1)
product_over_six = op(nn.Div, ungated, six)
product_times_sixth = op(nn.Mul, ungated, sixth)


@rewrite(product_over_six, effect=Rounding(units=2))
def recompose_hard_swish_quotient(m: Match) -> Value:
    """x·relu6(x + 3)/6 is hard_swish(x)."""
    return apply(nn.HardSwish(), _unbroadcast(m, product_over_six))


@rewrite(product_times_sixth, effect=Rounding(units=2))
def recompose_hard_swish_product(m: Match) -> Value:
    """x·relu6(x + 3)·⅙ is hard_swish(x)."""
    return apply(nn.HardSwish(), _unbroadcast(m, product_times_sixth))


slope = number(name="slope")
leak = op(nn.Mul, x, slope, uses=1)
larger = op(nn.Max, x, leak)


@rewrite(larger, effect=Exact())
def recompose_leaky_relu(m: Match) -> Value:
    """max(x, α·x) is leaky_relu(x) for a slope α above 0 and at most 1."""
    if not 0 < m[slope] <= 1:  # with a slope of 0 an infinite x would be NaN
        raise NoMatch(f"a slope of {m[slope]:g}")
    return apply(nn.LeakyRelu(m[slope]), _unbroadcast(m, larger))
