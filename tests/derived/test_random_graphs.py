"""A short random campaign, and proof that its judge sees what it is there for."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.contract import Exact
from amctc.ir import Graph, GraphInput, Value, apply
from amctc.onnx_bridge import export_model
from amctc.ops import nn
from amctc.pattern import Match, any_value, op
from amctc.pipeline import Context, Contract, Pass, Pipeline
from amctc.rewrite import apply_rewrites, rewrite
from amctc.testing import SeededSource
from amctc.types import F32, TensorType
from tools.random_cases import Case, drawn_case
from tools.random_graphs import Finding, Tally, campaign, examine

COUNT = 600
"""Models; the nightly campaign draws 40 000."""


def test_no_miscompile_and_no_break() -> None:
    tally = campaign(2026, range(COUNT))
    assert not tally.findings
    assert tally.compared > 0.9 * COUNT, tally.not_run
    assert len(tally.fired) > 25, "most rewrites fire on some models of a few hundred"


def test_a_number_draws_one_model() -> None:
    first, second = (drawn_case(7, 3) for _ in range(2))
    assert first.model == second.model
    assert all(np.array_equal(first.feeds[n], second.feeds[n], equal_nan=True) for n in first.feeds)


tanh = op(nn.Tanh, any_value())


@rewrite(op(nn.Relu, tanh), effect=Exact())
def forget_relu(m: Match) -> Value:
    """relu(tanh(x)) is no tanh(x)."""
    return m.value(tanh)


class Forgetful(Pass):
    """A wrong pass: it is not registered."""

    name = "forgetful"
    contract = Contract(effect=Exact())

    def run(self, graph: Graph, context: Context) -> Graph:
        """Forget a relu."""
        return apply_rewrites(graph, (forget_relu,), context.log)


class Restless(Pass):
    """A pass that changes its own result."""

    name = "restless"
    contract = Contract(effect=Exact())

    def run(self, graph: Graph, context: Context) -> Graph:
        """Add an identity."""
        return graph.with_outputs(tuple(apply(nn.Identity(), v) for v in graph.outputs))


def relu_of_tanh() -> Case:
    x = GraphInput("x", TensorType(("N", 3), F32))
    graph = Graph((x,), (apply(nn.Relu(), apply(nn.Tanh(), x)),), ("y",))
    return Case("relu", graph, export_model(graph), {"x": np.float32([[-1, 0, 2]])}, SeededSource(0))


@pytest.mark.parametrize(
    ("item", "finding"),
    [(Forgetful(), "miscompile: ONNX Runtime, after: y"), (Restless(), "break: a second run changes the result")],
    ids=["forgetful", "restless"],
)
def test_wrong_passes_are_seen(item: Pass, finding: str) -> None:
    with pytest.raises(Finding, match=finding):
        examine(relu_of_tanh(), Pipeline((item,)), Tally())
