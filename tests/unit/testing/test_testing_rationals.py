"""The exact evaluator: fractions by hand, and the float64 kernels where those round nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from amctc.errors import UnsupportedError
from amctc.interp import Plan
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.tables import FLOAT
from amctc.ops import nn
from amctc.schema import OpKind
from amctc.testing import op_graphs
from amctc.testing.algebra import miniature
from amctc.testing.rationals import FORMULAS, evaluate_exactly, exact
from amctc.types import F32, Array, TensorType

MEANS = (nn.ReduceMean, nn.GlobalAveragePool)
"""What divides by a count, which float64 rounds."""


def run(kind: OpKind, *arrays: Array, inputs: int = 1) -> Array:
    """The op on ``inputs`` fed arrays and constants."""
    fed = [GraphInput(f"x{i}", TensorType(a.shape, F32)) for i, a in enumerate(arrays[:inputs])]
    values: list[Value] = [*fed, *(const(a.astype(np.float32)) for a in arrays[inputs:])]
    graph = Graph(tuple(fed), (apply(kind, *values),), ("y",))
    return evaluate_exactly(graph, {v: exact(a) for v, a in zip(fed, arrays, strict=False)})[0]


@pytest.mark.parametrize("kind", sorted(FORMULAS, key=lambda k: k.op_name), ids=lambda k: k.op_name)
@settings(max_examples=12)
@given(st.data())
def test_float64_agrees_where_it_is_exact(kind: type[OpKind], data: st.DataObject) -> None:
    graph = miniature(data.draw(op_graphs(kind)))
    if not all(v.type.is_float for v in graph.inputs):
        reject()
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    feeds = {v.name: rng.integers(-9, 10, v.type.dims) / np.float32(4) for v in graph.inputs}
    try:
        found = evaluate_exactly(graph, {v: exact(feeds[v.name]) for v in graph.inputs})
    except UnsupportedError as error:
        assert any(why in error.what for why in ("division by zero", "irrational", "no rational"))  # noqa: PT017
        reject()
    with np.errstate(all="ignore"):
        expected = Plan(graph, FLOAT, float_type=np.float64).run(
            {n: np.asarray(a, np.float64) for n, a in feeds.items()}
        )  # fmt: skip
    for name, fractions in zip(graph.output_names, found, strict=True):
        values = fractions.astype(np.float64)
        assert values.shape == expected[name].shape
        slack = 2.0**-50 * np.abs(values) if kind in (*MEANS, nn.Div, nn.LeakyRelu) else 0.0
        assert (np.abs(values - expected[name]) <= slack).all()


def test_what_floats_would_round_away_is_kept() -> None:
    x, w = np.float32([[2.0**60, 1.0, -(2.0**60)]]), np.float32([[1], [2.0**-60], [1]])
    assert run(nn.MatMul(), x, w)[0, 0] == Fraction(1, 2**60)
    padded = nn.Conv((1,), (1, 1), (1,))  # sums far beyond 64 bits, next to padding
    y = run(padded, np.float32([[[2.0**90, 1.0]]]), np.float32([[[1.0, 2.0**90, 1.0]]]))
    assert [int(v) for v in y.reshape(-1)] == [2**180 + 1, 2**91]
    assert all(type(v.numerator) is int for v in y.reshape(-1))


def test_a_root_that_is_a_fraction_and_one_that_is_not() -> None:
    x, one, zero = np.float32([[3, 3]]), np.ones(2), np.zeros(2)
    y = run(nn.BatchNorm(0.25), x, one, zero, one, np.float32([2, 3.75]))
    assert list(y[0]) == [Fraction(4, 3), 1]
    with pytest.raises(UnsupportedError, match="irrational"):
        run(nn.BatchNorm(0.0), x, one, zero, one, np.float32([2, 4]))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_no_fraction_is_infinite(bad: float) -> None:
    with pytest.raises(UnsupportedError, match="no rational"):
        exact(np.array([1.0, bad]))


def test_other_ops_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="sigmoid has no formula"):
        run(nn.Sigmoid(), np.ones((1, 2)))
    with pytest.raises(UnsupportedError, match="division by zero"):
        run(nn.Div(), np.ones((1, 2)), np.zeros((1, 2)))
