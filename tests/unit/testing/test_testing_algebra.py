"""Proofs on exact rationals: right folds hold, wrong ones are refused where a tolerance would hide them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from amctc.contract import Rounding
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.kernels.tables import ORACLE
from amctc.magnitude import MAGNITUDE
from amctc.matcher import Matcher
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, op, weight
from amctc.rewrite import Application, Rewrite, rewrite
from amctc.testing import check_rewrite
from amctc.testing.algebra import check_algebra, is_algebraic
from amctc.testing.comparisons import Tables, check_application
from amctc.testing.violations import Violation
from amctc.types import F16, F32, Array, ScalarType, TensorType
from amctc_patterns import batch_norm, products

RNG = np.random.default_rng(0)
TABLES = Tables(ORACLE, MAGNITUDE)

x, w, b = any_value(), weight(), weight(optional=True)
gamma, beta, mean, var = weight(), weight(), weight(), weight()
conv = op(nn.Conv, x, w, b, uses=1)
norm = op(nn.BatchNorm, conv, gamma, beta, mean, var)


def fold(
    scale: Callable[[Match], Array] = lambda m: m[gamma] / np.sqrt(m[var].astype(np.float64) + m[norm].eps),
    shift: Callable[[Match, Array], Array] = lambda m, s: m[beta] - m[mean] * s,
    axis: int = 0,
) -> Rewrite:
    """A fold of batch normalisation, right unless told otherwise, whose claimed bound hides every error."""

    def function(m: Match) -> Value:
        """batch_norm(conv(x)) is a conv."""
        s = scale(m)
        shape = [-1 if i == axis else 1 for i in range(m[w].ndim)]
        bias = (0.0 if m[b] is None else m[b] * s) + shift(m, s)
        return apply(m[conv], m[x], const((m[w] * s.reshape(shape)).astype(np.float32)), const(bias.astype(np.float32)))

    return rewrite(norm, effect=Rounding(units=2.0**40, algebraic=True))(function)


WRONG = {
    "sign of the shift": fold(shift=lambda m, s: m[beta] + m[mean] * s),
    "beta twice": fold(shift=lambda m, s: 2 * m[beta] - m[mean] * s),
    "beta forgotten": fold(shift=lambda m, s: -m[mean] * s),
    "mean before the scale": fold(shift=lambda m, s: m[beta] - m[mean]),
    "epsilon forgotten": fold(scale=lambda m: m[gamma] / np.sqrt(m[var].astype(np.float64))),
    "no root": fold(scale=lambda m: m[gamma] / (m[var].astype(np.float64) + m[norm].eps)),
    "the other axis": fold(axis=1),
}


def network(channels: int = 3, *, elem: ScalarType = F32, size: int = 4, tiny: float = 1.0) -> Graph:
    """conv and batch_norm with as many input as output channels; ``tiny`` scales what is shifted by."""

    def constant(*shape: int, by: float = 1.0) -> Value:
        return const((RNG.uniform(0.5, 2, shape) * by).astype(elem.dtype), elem)

    data = GraphInput("x", TensorType(("N", channels, size, size), elem))
    layer = nn.Conv((1, 1), (1, 0, 1, 1), (1, 1))
    origins = (Origin("conv1", "Conv"),)
    y: Value = apply(layer, data, constant(channels, channels, 3, 3), constant(channels), origins=origins)
    y = apply(
        nn.BatchNorm(), y, constant(channels), *(constant(channels, by=tiny) for _ in range(2)), constant(channels)
    )
    return Graph((data,), (y,), ("y",))


def application(rule: Rewrite, graph: Graph) -> Application:
    """One application at the output, of a rule that may match its own result."""
    match = Matcher(graph).match(rule.pattern, graph.outputs[0])
    assert match is not None
    return Application(rule, match, rule(match))


@pytest.mark.parametrize("elem", [F32, F16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_right_fold_is_proved(channels: int, elem: ScalarType) -> None:
    assert check_algebra(application(batch_norm.fold_batch_norm, network(channels, elem=elem))) is None


def test_the_right_fold_of_these_tests_is_proved() -> None:
    assert check_algebra(application(fold(), network())) is None


@pytest.mark.parametrize("error", WRONG)
def test_a_wrong_fold_is_refused_though_its_bound_allows_it(error: str) -> None:
    graph = network()
    found = application(WRONG[error], graph)
    check_application(graph, found, TABLES)  # the tolerance that it claims hides the error
    with pytest.raises(Violation, match="on powers of two element") as caught:
        check_algebra(found)
    assert caught.value.property == "equal in exact arithmetic"
    assert caught.value.evidence is not None


def test_an_error_below_the_tolerance_of_real_constants_is_refused() -> None:
    """Shifts of 10^-12 beside data of 1: no honest tolerance sees beta, and a proof does."""
    graph = network(tiny=1e-12)
    wrong = replace(WRONG["beta twice"], effect=Rounding(units=2, algebraic=True))
    found = application(wrong, graph)
    assert check_application(graph, found, TABLES) is None
    with pytest.raises(Violation):
        check_algebra(found)


@pytest.mark.parametrize("channels", [64, 96])
def test_large_layers_are_made_smaller(channels: int) -> None:
    found = application(batch_norm.fold_batch_norm, network(channels, size=56))
    assert check_algebra(found) is None
    with pytest.raises(Violation) as caught:
        check_algebra(application(WRONG["the other axis"], network(channels, size=56)))
    assert caught.value.evidence is not None
    assert max(caught.value.evidence.before.inputs[0].type.dims[1:]) <= 9  # type: ignore[type-var]


def test_groups_and_depthwise_layers_are_made_smaller() -> None:
    for group, outputs in ((64, 64), (32, 128), (1, 7)):
        data = GraphInput("x", TensorType((1, 64, 28, 28), F32))
        layer = nn.Conv((2, 2), (1, 1, 1, 1), (1, 1), group)
        y = apply(layer, data, const(np.ones((outputs, 64 // group, 3, 3), np.float32)))
        statistics = (const(np.ones(outputs, np.float32)) for _ in range(4))
        graph = Graph((data,), (apply(nn.BatchNorm(), y, *statistics),), ("y",))
        assert check_algebra(application(batch_norm.fold_batch_norm, graph)) is None


factor = weight()
product = op(nn.Mul, x, factor)


@rewrite(product, effect=Rounding(units=4, algebraic=True))
def in_thirds(m: Match) -> Value:
    """x · c is (x · c/3) · 3, if there were a third in binary."""
    return apply(nn.Mul(), apply(nn.Mul(), m[x], const(m[factor] / np.float32(3))), const(np.float32(3)))


@rewrite(product, effect=Rounding(units=4, algebraic=True))
def through_a_root(m: Match) -> Value:
    """x · c is (√x)² · c, at most."""
    root = apply(nn.Sqrt(), m[x])
    return apply(nn.Mul(), apply(nn.Mul(), root, root), m.value(factor))


@rewrite(product, effect=Rounding(units=4, algebraic=True))
def ones_only(m: Match) -> Value:
    """x · 1 is x."""
    if (m[factor] != 1).any():
        raise NoMatch("not 1")
    return apply(nn.Identity(), m[x])


@pytest.mark.parametrize(
    ("rule", "reason"), [(in_thirds, "are rounded"), (through_a_root, "nn.sqrt has no formula"), (ones_only, "not 1")]
)
def test_what_is_not_proved_says_why(rule: Rewrite, reason: str) -> None:
    data = GraphInput("x", TensorType((2,), F32))
    graph = Graph((data,), (apply(nn.Mul(), data, const(np.float32([1, 1]))),), ("y",))
    assert reason in (check_algebra(application(rule, graph)) or "proved")


def test_a_report_counts_its_proofs() -> None:
    report = check_rewrite(products.fold_gemm_factors, examples=30, minimum_firings=5)
    assert report.proved >= 5
    assert f"proved on exact rationals: {report.proved} instances" in str(report)
    assert is_algebraic(products.fold_gemm_factors)


def test_check_rewrite_refuses_what_its_bound_would_allow() -> None:
    with pytest.raises(AssertionError, match="property 'equal in exact arithmetic' fails") as caught:
        check_rewrite(WRONG["beta twice"], examples=60, minimum_firings=1)
    assert "repeat with: check_rewrite" in str(caught.value)
