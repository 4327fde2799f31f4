"""canonicalize-clips: min, max, relu and clip as one clip or relu."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.tables import ORACLE
from amctc.ops import nn
from amctc.types import F32, TensorType

X = GraphInput("x", TensorType((1, 12), F32))
POINTS = np.float32([[-math.inf, -7, -1, -0.5, 0, 0.5, 1, 2, 5.9, 6, 7, math.nan]])


def graph_of(*kinds: object, bounds: float = 6.0, first: bool = False) -> Graph:
    """``kinds`` one after the other; min and max get the constant ``bounds``."""
    y: Value = X
    for kind in kinds:
        binary = isinstance(kind, nn.Min | nn.Max)
        c = const(np.full((1,), bounds if isinstance(kind, nn.Min) else 0.0, np.float32))
        y = apply(kind, *((c, y) if first else (y, c))) if binary else apply(kind, y)
    return Graph((X,), (y,), ("y",))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((nn.Max(),), [nn.Relu()]),
        ((nn.Min(),), [nn.Clip(high=6.0)]),
        ((nn.Max(), nn.Min()), [nn.Clip(0.0, 6.0)]),
        ((nn.Min(), nn.Max()), [nn.Clip(0.0, 6.0)]),
        ((nn.Relu(), nn.Clip(high=6.0)), [nn.Clip(0.0, 6.0)]),
        ((nn.Clip(-1.0, 6.0), nn.Relu()), [nn.Clip(0.0, 6.0)]),
        ((nn.Relu(), nn.Relu()), [nn.Relu()]),
        ((nn.Clip(low=0.0),), [nn.Relu()]),
        ((nn.Clip(-2.0, -1.0), nn.Relu()), [nn.Clip(0.0, 0.0)]),
        ((nn.Clip(1.0, -1.0), nn.Clip(0.0, 6.0)), [nn.Clip(0.0, 0.0)]),  # crossed bounds give the upper one
        ((nn.Clip(0.0, 6.0), nn.Clip(1.0, -1.0)), [nn.Clip(-1.0, -1.0)]),
        ((nn.Clip(0.0, 6.0),), [nn.Clip(0.0, 6.0)]),
        ((nn.Clip(1.0),), [nn.Clip(1.0)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [False, True])
def test_what_is_left(kinds: tuple[object, ...], expected: list[object], first: bool, run) -> None:
    graph = graph_of(*kinds, first=first)
    result = run("canonicalize-clips", graph).graph
    assert [op.kind for op in result.ops if op.kind.op_name != "const"] == expected
    with np.errstate(invalid="ignore"):
        old, new = (evaluate(g, {"x": POINTS}, ORACLE)["y"] for g in (graph, result))
    np.testing.assert_array_equal(old, new)


def test_a_bound_per_channel_stays(run) -> None:
    graph = Graph((X,), (apply(nn.Max(), X, const(np.arange(12, dtype=np.float32))),), ("y",))
    assert run("canonicalize-clips", graph).graph is graph


def test_one_bound_spread_over_a_shape_is_a_number(run) -> None:
    graph = Graph((X,), (apply(nn.Max(), X, const(np.zeros((1, 12), np.float32))),), ("y",))
    assert [op.kind for op in run("canonicalize-clips", graph).graph.ops] == [nn.Relu()]


def test_a_bound_that_broadcasts_or_is_nan_stays(run) -> None:
    for bound in (np.zeros((3, 1), np.float32), np.float32([math.nan])):
        graph = Graph((X,), (apply(nn.Max(), X, const(bound)),), ("y",))
        assert run("canonicalize-clips", graph).graph is graph


def test_a_bound_that_is_an_input_stays(run) -> None:
    """Dynamic bounds, with a default or not, are no constants."""
    bound = GraphInput("bound", TensorType((1,), F32), const(np.float32([0])).producer.kind.data)
    graph = Graph((X, bound), (apply(nn.Max(), X, bound),), ("y",))
    assert run("canonicalize-clips", graph).graph is graph


def test_another_reader_between_stays(run) -> None:
    inner = apply(nn.Relu(), X)
    graph = Graph((X,), (apply(nn.Clip(high=6.0), inner), inner), ("y", "inner"))
    assert run("canonicalize-clips", graph).graph is graph
