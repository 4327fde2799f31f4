"""Chains of 100 000 ops (20 000 where each costs more): nothing may recurse or walk the graph once per op."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from amctc.analysis import Interval, uses, value_range
from amctc.data import ArrayData, Data, DeferredData
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply
from amctc.ops import nn
from amctc.parser import parse_graph
from amctc.pattern import Match, any_value, op
from amctc.rewrite import apply_rewrites, rewrite
from amctc.substitute import substitute
from amctc.text import excerpt, print_graph
from amctc.types import F32, TensorType
from amctc.verify import verify

LENGTH = 100_000


def chain(length: int = LENGTH) -> Graph:
    x = GraphInput("x", TensorType((2,), F32))
    value: Value = x
    for _ in range(length):
        value = apply(nn.Relu(), value)
    return Graph((x,), (value,), ("y",))


@pytest.fixture(scope="module")
def deep() -> Graph:
    return chain()


@pytest.fixture(scope="module")
def long() -> Graph:
    return chain(20_000)


def test_ops_are_ordered_operands_first(deep: Graph) -> None:
    ops = deep.ops
    assert len(ops) == LENGTH
    assert ops[0].operands == deep.inputs
    assert ops[-1].result is deep.outputs[0]


def test_uses(deep: Graph) -> None:
    found = uses(deep)
    assert len(found) == LENGTH + 1  # the input and every result
    assert found[deep.inputs[0]][0].op is deep.ops[0]


def test_range_of_the_last_value(deep: Graph) -> None:
    assert value_range(deep.outputs[0]) == Interval(0.0, float("inf"))


def test_verify(deep: Graph) -> None:
    verify(deep, deep=True)


def test_print_and_parse(long: Graph) -> None:
    text = print_graph(long)
    assert text.count("\n") == 20_000 + 2
    assert len(parse_graph(text).ops) == 20_000


def test_excerpt_in_the_middle(deep: Graph) -> None:
    shown = excerpt(deep, deep.ops[50_000], context=1).splitlines()
    assert shown[1] == "> %50000 = nn.relu(%49999) : tensor<2xf32>"


def test_substitute_at_the_far_end_rebuilds_everything(deep: Graph) -> None:
    x = deep.inputs[0]
    after = substitute(deep, {x: apply(nn.Tanh(), x)})
    assert len(after.ops) == LENGTH + 1
    assert isinstance(after.ops[0].kind, nn.Tanh)


def test_rewrites_that_all_fire_in_one_sweep(long: Graph) -> None:
    x = any_value()

    @rewrite(op(nn.Relu, x))
    def relu_to_tanh(m: Match) -> Value:
        return apply(nn.Tanh(), m[x])

    after = apply_rewrites(long, [relu_to_tanh])
    assert {type(o.kind) for o in after.ops} == {nn.Tanh}
    assert len(after.ops) == 20_000


def test_evaluation_of_the_chain(deep: Graph) -> None:
    result = evaluate(deep, {"x": np.array([-1, 2], np.float32)}, {nn.Relu: lambda op, constants: lambda a: a + 1})
    assert result["y"].tolist() == [99_999.0, 100_002.0]


def test_a_deep_graph_is_let_go() -> None:
    graph = chain()
    last = weakref.ref(graph.outputs[0])
    assert len(graph.ops) == LENGTH
    del graph
    gc.collect()
    assert last() is None


def test_deferred_recipes_are_read_and_let_go() -> None:
    data: Data = ArrayData(np.zeros(1, np.int64))
    for _ in range(LENGTH):
        data = DeferredData("add one", lambda a: a + 1, (data,), (1,), np.dtype(np.int64))
    assert data.read().tolist() == [LENGTH]
    del data
    gc.collect()
