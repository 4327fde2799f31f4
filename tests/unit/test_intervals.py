"""Ranges that op kinds guarantee: hand-computed bounds, and drawn graphs whose values must lie inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.analysis import value_range
from amctc.interp import Plan
from amctc.intervals import RANGES, Interval
from amctc.ir import Graph, GraphInput, Value, apply, build, const
from amctc.kernels.tables import FLOAT
from amctc.ops import nn
from amctc.testing import Recipe, op_graphs
from amctc.testing.arrays import feed
from amctc.types import BOOL, F32, TensorType

INF = math.inf
X = GraphInput("x", TensorType(("N", 2, 4, 4), F32))
HOLDS = GraphInput("holds", TensorType((1,), BOOL))


def within(low: float, high: float) -> Value:
    return apply(nn.Clip(low, high), X)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (build(nn.Split(1, (1, 1)), within(-1, 2)).results[1], -1, 2),
        (apply(nn.Slice((0,), (2,), (2,), (1,)), within(-1, 2)), -1, 2),
        (apply(nn.Gather(2), within(-1, 2), const(np.int64(1))), -1, 2),
        (apply(nn.Unsqueeze((0,)), within(-1, 2)), -1, 2),
        (apply(nn.Expand((3, 1, 1, 1, 1)), within(-1, 2)), -1, 2),
        (apply(nn.Pad((0,) * 4 + (0, 0, 1, 1)), within(1, 2)), 0, 2),
        (apply(nn.Pad((0,) * 4 + (0, 0, -1, 0), value=9.0), within(1, 2)), 1, 2),  # it only crops
        (apply(nn.Pad((0,) * 4 + (0, 0, 1, 1), "edge"), within(1, 2)), 1, 2),
        (apply(nn.Resize((2,), (8,)), within(1, 2)), 1, 2),
        (apply(nn.Resize((2,), (8,), mode="linear"), within(1, 2)), 1 - 1 / 256, 2 + 2 / 256),
        (apply(nn.Where(), HOLDS, within(-1, 2), within(0, 5)), -1, 5),
        (apply(nn.Min(), within(-1, 2), within(0, 5)), -1, 2),
        (apply(nn.Max(), within(-1, 2), within(0, 5)), 0, 5),
        (apply(nn.Neg(), within(-1, 2)), -2, 1),
        (apply(nn.Abs(), within(-3, 2)), 0, 3),
        (apply(nn.Abs(), within(-3, -2)), 2, 3),
        (apply(nn.Pow(2.0), X), 0, INF),
        (apply(nn.Pow(3.0), X), -INF, INF),
        (apply(nn.Pow(0.5), within(1, 4)), 0, INF),
        (apply(nn.Exp(), X), 0, INF),
        (apply(nn.Softplus(), X), 0, INF),
        (apply(nn.Sqrt(), X), 0, INF),
        (apply(nn.Erf(), X), -1, 1),
        (apply(nn.HardSigmoid(), X), 0, 1),
        (apply(nn.LogSoftmax(), X), -INF, 0),
        (apply(nn.HardSwish(), within(-9, 5)), -0.38, 5),
        (apply(nn.Gelu(), within(2, 5)), 0, 5),
        (apply(nn.Silu(), within(-9, -2)), -0.29, 0),
        (apply(nn.Elu(2.0), within(-9, 5)), -2 - 2 / 256, 5),
        (apply(nn.Elu(-1.0), X), -INF, INF),
        (apply(nn.PRelu(), within(-1, 2), const(np.float32([0.5]))), -INF, 2),
        (apply(nn.PRelu(), within(1, 2), const(np.float32([-0.5]))), 1, 2),
        (apply(nn.PRelu(), within(-1, 2), const(np.float32([-0.5]))), -INF, INF),
        (apply(nn.ReduceMean((2, 3)), within(1, 2)), 1 - 1 / 256, 2 + 2 / 256),
        (apply(nn.ReduceSum((2, 3)), within(1, 2)), 0, INF),
        (apply(nn.ReduceMax((1,)), within(1, 2)), -INF, 2),  # a batch of none has no largest element
        (apply(nn.GlobalMaxPool(), within(1, 2)), 1, 2),
    ],
)
def test_what_a_producer_guarantees(value: Value, low: float, high: float) -> None:
    assert value_range(value) == Interval(low, high)


@given(st.sampled_from(sorted(RANGES, key=lambda k: k.op_name)).flatmap(op_graphs), st.integers(0, 99))
def test_values_lie_inside(graph: Graph, seed: int) -> None:
    for recipe in (Recipe(seed), Recipe(seed, special="edges"), Recipe(seed, 10.0)):
        arrays = Plan(graph, FLOAT, keep=graph.outputs).run_values(feed(graph.inputs, recipe))
        for value in graph.outputs:
            found, bounds = arrays[value], value_range(value)
            number = found[~np.isnan(found)]
            assert ((number >= bounds.low) & (number <= bounds.high)).all()
