"""Magnitudes of ops with a pole, by hand and against errors put into their operands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amctc.ir import Graph, GraphInput, Value, apply
from amctc.magnitude import EPSILON, MAGNITUDE, MagnitudePlan, Singular
from amctc.ops import nn
from amctc.schema import OpKind
from amctc.types import F32, TensorType

X, Y, Z = (GraphInput(name, TensorType((1,), F32)) for name in "xyz")


def magnitude(result: Value, **feeds: float) -> float:
    inputs = tuple(i for i in (X, Y, Z) if i.name in feeds)
    plan = MagnitudePlan(Graph(inputs, (result,), ("r",)))
    with np.errstate(all="ignore"):
        return plan.run({name: np.array([value]) for name, value in feeds.items()})["r"].item()


def test_a_quotient_by_a_small_sigmoid() -> None:
    """sigmoid(-6) = 1/(1 + e^6) is computed through numbers of size 1.2 · 6 + 1, in magnitudes."""
    b = 1 / (1 + math.exp(6))
    found = magnitude(apply(nn.Div(), X, apply(nn.Sigmoid(), Y)), x=3.0, y=-6.0)
    assert found == pytest.approx(3 / b + 3 * 8.2 / b**2, rel=1e-12)


def test_a_quotient_by_a_sum_that_cancels() -> None:
    """x/(y + z): the sum is 0.25, its magnitude 15.75; and one that cancels to nothing determines nothing."""
    quotient = apply(nn.Div(), X, apply(nn.Add(), Y, Z))
    assert magnitude(quotient, x=-2.0, y=8.0, z=-7.75) == 2 / 0.25 + 2 * 15.75 / 0.25**2
    assert magnitude(quotient, x=-2.0, y=8.0, z=-8.0) == math.inf
    assert magnitude(quotient, x=-2.0, y=1.0, z=EPSILON - 1.0) == math.inf


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (nn.Reciprocal(), 1 / 0.25 + 15.75 / 0.25**2),
        (nn.Pow(-1.0), 1 / 0.25 + 15.75 / 0.25**2),
        (nn.Sqrt(), 0.5 + 0.5 * 15.75 / 0.5),
        (nn.Pow(-2.0), 16 + 2 * 15.75 * 64),
        (nn.Pow(2.0), 2 * 15.75**2),
        (nn.Pow(0.0), 1.0),
    ],
    ids=str,
)
def test_powers_of_a_sum_that_cancels(kind: OpKind, expected: float) -> None:
    assert magnitude(apply(kind, apply(nn.Add(), X, Y)), x=8.0, y=-7.75) == expected


def test_roots_of_nothing() -> None:
    """Of an exact zero there is no error; of a sum that cancels to zero nobody knows."""
    assert magnitude(apply(nn.Sqrt(), X), x=0.0) == 0.0
    assert magnitude(apply(nn.Sqrt(), apply(nn.Add(), X, Y)), x=1.0, y=-1.0) == math.inf


def test_a_plan_without_values_takes_operands_to_be_no_sums() -> None:
    kernel = MAGNITUDE[nn.Div](apply(nn.Div(), X, Y).producer, (None, None))
    assert kernel(np.array([-3.0]), np.array([2.0])).item() == 3 / 2 + 3 * 2 / 4


def rule(kind: type[OpKind]) -> Callable[..., Any]:
    entry = MAGNITUDE[kind]
    assert isinstance(entry, Singular)
    return entry.rule


amounts = st.floats(-1.0, 1.0)
numbers = st.floats(-100.0, 100.0).filter(lambda v: abs(v) > 1e-3)
factors = st.floats(1.0, 1e4)
PRECISE = 1 + 2.0**-40
"""The proofs are of real numbers, this computes in float64."""


@given(numbers, numbers, factors, factors, amounts, amounts, st.floats(2.0**-20, 2.0**-6))
def test_the_bound_of_a_quotient_holds(
    a: float, b: float, larger_a: float, larger_b: float, alpha: float, beta: float, eta: float
) -> None:
    """Errors of η times the magnitudes move a/b by at most 2·η times its magnitude, while b keeps half of itself."""
    size_a, size_b = abs(a) * larger_a, abs(b) * larger_b
    alpha, beta = alpha * eta * size_a, beta * eta * size_b
    assume(abs(beta) <= abs(b) / 2)
    moved = abs((a + alpha) / (b + beta) - a / b)
    size = rule(nn.Div)(nn.Div(), np.abs([[a], [b]]), np.array([[size_a], [size_b]])).item()
    assert moved <= 2 * eta * size * PRECISE + 2.0**-50 * abs(a / b)


@given(numbers, factors, amounts, st.floats(2.0**-20, 2.0**-6), st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0]))
def test_the_bound_of_a_power_holds(x: float, larger: float, xi: float, eta: float, exponent: float) -> None:
    """Where half of |x| is left, slopes are at most 2^(1 - p) times those at x; above p = 1, (3/2)^(p - 1) times."""
    x, size = abs(x), abs(x) * larger
    xi = xi * eta * size
    assume(abs(xi) <= x / 2)
    moved = abs((x + xi) ** exponent - x**exponent)
    found = rule(nn.Pow)(nn.Pow(exponent), [np.array(x)], [np.array(size)])
    steeper = 2 ** (1 - exponent) if exponent < 1 else 1.5 ** (exponent - 1)
    assert moved <= steeper * eta * found * PRECISE + 2.0**-50 * x**exponent
