"""Facts about values and graphs: uses, intervals, memory of both kinds."""

from __future__ import annotations

import gc
import math

import ml_dtypes
import numpy as np
import pytest

from amctc.analysis import EVERYTHING, Interval, Use, backward, forward, is_identity, uses, value_range
from amctc.data import ArrayData
from amctc.ir import Graph, GraphInput, Result, Value, apply, build, const
from amctc.ops import nn, onnx, quant
from amctc.types import BF16, F32, I8, Elem, TensorType

INF = math.inf
X = GraphInput("x", TensorType((1, 2, 4, 4), F32))
OBSERVE = quant.Observe(ArrayData(np.zeros(4, np.int64)), 0, 0.0, 1.0, 1)


def constant(*values: float) -> Result:
    return const(np.array(values, np.float32))


def within(low: float, high: float) -> Value:
    return apply(nn.Clip(low, high), X)


# ---------------------------------------------------------------------------------------------------- uses


def test_every_use_of_every_value() -> None:
    a = apply(nn.Relu(), X)
    s = apply(nn.Add(), a, a)
    t = apply(nn.Sub(), s, X)
    graph = Graph((X,), (t, a, t), ("p", "q", "r"))
    found = uses(graph)
    assert found[a] == (Use(s.op, 0), Use(s.op, 1), Use(None, 1))
    assert found[X] == (Use(a.op, 0), Use(t.op, 1))
    assert found[t] == (Use(None, 0), Use(None, 2))
    assert set(found) == {X, a, s, t}


def test_an_absent_operand_and_a_dead_result_have_no_uses() -> None:
    t = TensorType((1,), F32)
    x = GraphInput("x", t)
    op = build(onnx.Node("Custom", "my", 1, b"", (t, None, t), (t, t)), x, None, x)
    found = uses(Graph((x,), (op.results[0],), ("y",)))
    assert found == {x: (Use(op, 0), Use(op, 2)), op.results[0]: (Use(None, 0),)}


def test_a_fact_of_a_graph_is_computed_once_per_graph() -> None:
    calls: list[Graph] = []

    @backward
    def size(graph: Graph) -> int:
        """Number of ops."""
        calls.append(graph)
        return len(graph.ops)

    graph = Graph((X,), (apply(nn.Relu(), X),), ("y",))
    other = graph.with_metadata(key="value")  # a fact may be about the metadata
    assert [size(graph), size(graph), size(other)] == [1, 1, 1]
    assert calls == [graph, other]
    assert size.__doc__ == "Number of ops."


def test_a_fact_of_a_value_is_computed_once_and_let_go_with_it() -> None:
    seen: list[str | None] = []

    @forward
    def depth(value: Value, operands: tuple[int, ...]) -> int:
        seen.append(value.name)
        return 1 + max(operands, default=-1)

    a = apply(nn.Relu(), X, name="a")
    b = apply(nn.Add(), a, X, name="b")
    assert (depth(b), depth(a), depth(b)) == (2, 1, 2)
    assert seen == ["x", "a", "b"]
    del a, b
    gc.collect()
    assert (depth(apply(nn.Relu(), X, name="c")), seen[-1]) == (1, "c")


# ---------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (X, -INF, INF),
        (apply(nn.Relu(), X), 0, INF),
        (apply(nn.Relu(), within(-3, -1)), 0, 0),
        (within(-1, 2), -1, 2),
        (apply(nn.Clip(0, 6), within(3, 9)), 3, 6),
        (apply(nn.Clip(5, 1), X), 1, 1),  # low > high gives high
        (apply(nn.LeakyRelu(0.5), within(-4, 2)), -2, 2),
        (apply(nn.LeakyRelu(0.0), X), 0, INF),
        (apply(nn.LeakyRelu(2.0), within(-4, -1)), -8, -2),
        (apply(nn.LeakyRelu(-1.0), within(-4, 2)), -INF, INF),
        (apply(nn.Sigmoid(), X), 0, 1),
        (apply(nn.Softmax(), X), 0, 1),
        (apply(nn.Tanh(), X), -1, 1),
        (apply(nn.Add(), within(-1, 2), within(3, 4)), 2 - 2 / 256, 6 + 6 / 256),  # sums round
        (apply(nn.Add(), apply(nn.Relu(), X), within(-1, 1)), -1 - 1 / 256, INF),
        (apply(nn.Add(), X, constant(INF)), -INF, INF),  # inf - inf has no bound
        (apply(nn.Mul(), within(0, 1), within(0, 1)), -INF, INF),
        (apply(nn.Concat(1), within(-1, 2), within(0, 5)), -1, 5),
        (apply(nn.Flatten(), within(-1, 2)), -1, 2),
        (apply(nn.Identity(), within(-1, 2)), -1, 2),
        (apply(OBSERVE, within(-1, 2)), -1, 2),
        (apply(nn.MaxPool((1, 1), (0, 0, 0, 0), (1, 1), (2, 2)), within(1, 2)), 1, 2),
        (apply(nn.MaxPool((1, 1), (1, 1, 1, 1), (2, 2), (2, 2)), within(1, 2)), -INF, 2),  # a window in the padding
        (apply(nn.AveragePool((1, 1), (1, 1, 1, 1), (1, 1), (2, 2)), within(1, 2)), 0, 2 + 2 / 256),  # padding: 0
        (apply(nn.GlobalAveragePool(), within(1, 2)), 1 - 1 / 256, 2 + 2 / 256),
        (apply(nn.Conv((1, 1), (0,) * 4, (1, 1), activation=nn.Relu()), X, const(np.ones((1, 2, 1, 1), np.float32))),
         0, INF),
        (apply(nn.Conv((1, 1), (0,) * 4, (1, 1)), X, const(np.ones((1, 2, 1, 1), np.float32))), -INF, INF),
    ],
)  # fmt: skip
def test_what_a_producer_guarantees(value: Value, low: float, high: float) -> None:
    assert value_range(value) == Interval(low, high)


@pytest.mark.parametrize(
    ("array", "elem", "expected"),
    [
        (np.array([-1.5, 2], np.float32), None, Interval(-1.5, 2.0)),
        (np.array([1, 3], ml_dtypes.bfloat16), BF16, Interval(1.0, 3.0)),
        (np.array([1, np.nan], np.float32), None, EVERYTHING),
        (np.array([1, np.nan], ml_dtypes.bfloat16), None, EVERYTHING),
        (np.array([1, np.inf], np.float32), None, Interval(1.0, INF)),
        (np.array([1, 2], np.int8), I8, EVERYTHING),
        (np.zeros(0, np.float32), None, EVERYTHING),
        (np.zeros((1 << 18) + 1, np.float32), None, EVERYTHING),  # too large to read for this
        (np.array(["a"], object), None, EVERYTHING),
    ],
    ids=lambda p: str(getattr(p, "shape", p)),
)
def test_range_of_a_constant(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], elem: Elem | None,
                             expected: Interval) -> None:  # fmt: skip
    assert value_range(const(array, elem)) == expected


# ---------------------------------------------------------------------------------------------------- identities


def test_identities() -> None:
    assert is_identity(apply(OBSERVE, X).op)
    assert is_identity(apply(nn.Identity(), X).op)
    assert not is_identity(apply(nn.Relu(), X).op)
