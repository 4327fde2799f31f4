"""The formulas of GELU (Hendrycks and Gimpel 2016) as exporters before opset 20 write them, made one op."""

from __future__ import annotations

import math

from amctc.contract import Rounding
from amctc.ir import Value, apply
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, OpPattern, any_value, either, number, op
from amctc.rewrite import rewrite

x = any_value(name="x")

# 1 + erf(x / √2)
quotient = op(nn.Div, x, number(math.sqrt(2)), uses=1)
product = op(nn.Mul, x, number(math.sqrt(0.5)), uses=1)
erf = op(nn.Erf, either(quotient, product), uses=1)

# 1 + tanh(√(2/π) · (x + 0.044715·x³)), and with x outside the brackets as "fast" implementations compute it
cube = either(
    op(nn.Pow, x, uses=1, where=lambda k: k.exponent == 3.0, wanted="a cube"),
    op(nn.Mul, op(nn.Mul, x, x, uses=1), x, uses=1),
)
polynomial = op(nn.Add, x, op(nn.Mul, cube, number(0.044715), uses=1), uses=1)
scaled = op(nn.Mul, polynomial, number(math.sqrt(2 / math.pi)), uses=1)
correction = op(nn.Mul, op(nn.Mul, x, number(0.044715), uses=1), x, uses=1)
factored = op(
    nn.Mul, op(nn.Mul, x, number(math.sqrt(2 / math.pi)), uses=1), op(nn.Add, correction, number(1.0), uses=1), uses=1
)
tanh = op(nn.Tanh, either(scaled, factored), uses=1)

gate = op(nn.Add, either(erf, tanh), number(1.0), uses=1)
half = number(0.5)

halved_last = op(nn.Mul, op(nn.Mul, x, gate, uses=1), half)
halved_x = op(nn.Mul, either(op(nn.Mul, x, half, uses=1), op(nn.Div, x, number(2.0), uses=1)), gate)
halved_gate = op(nn.Mul, x, op(nn.Mul, gate, half, uses=1))


def _gelu(m: Match, root: OpPattern[nn.Mul]) -> Value:
    if m.value(root).type != m[x].type:
        raise NoMatch("a constant broadcasts x")
    return apply(nn.Gelu(approximate=tanh in m), m[x])


@rewrite(halved_last, effect=Rounding(units=2))
def recompose_gelu_halved_last(m: Match) -> Value:
    """x·(1 + erf(x/√2))·½ and its approximation by tanh are gelu(x); PyTorch writes it so."""
    return _gelu(m, halved_last)


@rewrite(halved_x, effect=Rounding(units=2))
def recompose_gelu_halved_x(m: Match) -> Value:
    """½x·(1 + erf(x/√2)) and its approximation by tanh are gelu(x)."""
    return _gelu(m, halved_x)


@rewrite(halved_gate, effect=Rounding(units=2))
def recompose_gelu_halved_gate(m: Match) -> Value:
    """x·(½·(1 + erf(x/√2))) and its approximation by tanh are gelu(x)."""
    return _gelu(m, halved_gate)
