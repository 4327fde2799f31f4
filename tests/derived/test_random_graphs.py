"""A short random campaign, and proof that its judge sees what it is there for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from amctc.contract import Exact, Rounding
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.runtime import CARRIED
from amctc.ops import nn
from amctc.pattern import Match, any_value, op
from amctc.pipeline import Context, Contract, Pass, Pipeline
from amctc.rewrite import apply_rewrites, rewrite
from amctc.testing import Recipe, SeededSource
from amctc.testing.arrays import feed
from amctc.types import F32, TensorType
from tools.random_graphs import __main__ as random_graphs
from tools.random_graphs.__main__ import Finding, Tally, campaign, compare_with_reference, examine
from tools.random_graphs.cases import Case, drawn_case
from tools.random_graphs.reference import by_reference

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


quotient = op(nn.Div, any_value(name="x"), op(nn.Sigmoid, any_value(name="y")))


@rewrite(quotient, effect=Rounding())
def multiply_instead(m: Match) -> Value:
    """x / sigmoid(y) is no x * sigmoid(y)."""
    numerator, denominator = m.value(quotient).producer.operands
    return apply(nn.Mul(), numerator, denominator)


class Multiplying(Pass):
    """A wrong pass about an op with a pole, near which much is allowed."""

    name = "multiplying"
    contract = Contract(effect=Rounding())

    def run(self, graph: Graph, context: Context) -> Graph:
        """Multiply."""
        return apply_rewrites(graph, (multiply_instead,), context.log)


def by_sigmoid() -> Case:
    x, y = (GraphInput(name, TensorType((3,), F32)) for name in "xy")
    graph = Graph((x, y), (apply(nn.Div(), x, apply(nn.Sigmoid(), y)),), ("z",))
    feeds = {"x": np.float32([3, 3, 3]), "y": np.float32([2, 0, -6])}
    return Case("quotient", graph, export_model(graph), feeds, SeededSource(0))


def relu_of_tanh() -> Case:
    x = GraphInput("x", TensorType(("N", 3), F32))
    graph = Graph((x,), (apply(nn.Relu(), apply(nn.Tanh(), x)),), ("y",))
    return Case("relu", graph, export_model(graph), {"x": np.float32([[-1, 0, 2]])}, SeededSource(0))


@pytest.mark.parametrize(
    ("item", "case", "finding"),
    [
        (Forgetful(), relu_of_tanh, "miscompile: ONNX Runtime, after: y"),
        (Multiplying(), by_sigmoid, r"miscompile: ONNX Runtime, after: z\[0\] .* 3 of 3 elements are wrong"),
        (Restless(), relu_of_tanh, "break: a second run changes the result"),
    ],
    ids=["forgetful", "multiplying", "restless"],
)
def test_wrong_passes_are_seen(item: Pass, case: Callable[[], Case], finding: str) -> None:
    with pytest.raises(Finding, match=finding):
        examine(case(), Pipeline((item,)), Tally())


HEAD = '<ir_version: 8, opset_import: ["" : 17]> '
DEFECTS = {
    "Loop without a condition never runs": """g (float[2] x) => (float[2] y) <int64 n = {2}> {
        y = Loop (n, "", x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t) {
            on = Identity (go)
            t = Add (s, s)
        }>
    }""",
    "ConvTranspose takes the wrong weight or bias for a group": """g (float[1,2,2] x) => (float[1,2,2] y)
    <float[2,1,1] w = {1, 2}, float[2] b = {1, 2}> { y = ConvTranspose <group = 2> (x, w, b) }""",
    "MaxPool of stride 1 takes its pads in another order": """g (float[1,1,2,1] x) => (float[1,1,2,2] y) {
        y = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 1]> (x)
    }""",
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_mended_defect_is_one(defect: str) -> None:
    """Of the evaluator that is installed: one that it has no more has to go from the list. ONNX Runtime is with us."""
    model = onnx.parser.parse_model(HEAD + DEFECTS[defect])
    graph = import_model(model)
    feeds = feed(graph.inputs, Recipe(1))
    right = evaluate(graph, feeds, {**ORACLE, **CARRIED})["y"]
    given, _ = by_reference(model, ["y"], feeds, mended=False)
    assert given["y"].shape != right.shape or not np.allclose(given["y"], right, rtol=0, atol=0.1)
    tally, case = Tally(), Case("defect", graph, model, feeds, SeededSource(0))
    compare_with_reference(case, feeds, {"y": right}, {"y": 2.0**-20 * np.abs(right)}, tally)
    assert tally.oracle == {f"reference evaluator agreed, once mended: {defect}": 1}


def test_what_no_defect_explains_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_graphs, "by_reference", lambda *given, mended: ({"y": np.zeros((1, 3), np.float32)}, []))
    case = relu_of_tanh()
    right = {"y": np.float32([[0, 0, 1]])}
    with pytest.raises(Finding, match="disagreement: miscompile: reference evaluator: y"):
        compare_with_reference(case, case.feeds, right, {"y": np.zeros(())}, Tally())
