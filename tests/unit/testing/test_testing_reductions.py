"""Delta debugging: what is left of a graph is what a predicate needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from amctc.api import load, save
from amctc.ir import Constant, Graph, GraphInput, Value, apply, const
from amctc.ops import nn
from amctc.testing import graphs
from amctc.testing.reductions import reduced
from amctc.text import print_graph
from amctc.types import F32, TensorType
from amctc.verify import verify

ROOT = Path(__file__).resolve().parents[3]


def network() -> Graph:
    """Six convolutions of eight channels, a leaky relu in the middle, two outputs."""
    rng = np.random.default_rng(0)
    x = GraphInput("x", TensorType((2, 8, 9, 9), F32))
    y: Value = x
    for i in range(6):
        w = const(rng.standard_normal((8, 8, 3, 3)).astype(np.float32))
        y = apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), y, w, name=f"c{i}")
        y = apply(nn.LeakyRelu(0.25) if i == 3 else nn.Relu(), y, name=f"r{i}")
    return Graph((x,), (y, apply(nn.Sigmoid(), y)), ("a", "b"))


def kinds(graph: Graph) -> list[str]:
    return [op.kind.op_name for op in graph.ops if not isinstance(op.kind, Constant)]


def test_one_op_is_left_where_one_is_wanted() -> None:
    small = reduced(network(), lambda g: "nn.leaky_relu" in kinds(g))
    assert kinds(small) == ["nn.leaky_relu"]
    assert [i.type.dims for i in small.inputs] == [(1, 1, 1, 1)]
    assert len(small.ops) == 1
    assert len(small.outputs) == 1


def test_a_pair_keeps_its_order() -> None:
    def interesting(graph: Graph) -> bool:
        return any(
            isinstance(op.kind, nn.LeakyRelu) and op.operands[0] is not None and op.operands[0].producer is not None
            and isinstance(op.operands[0].producer.kind, nn.Conv) for op in graph.ops
        )  # fmt: skip

    small = reduced(network(), interesting)
    assert kinds(small) == ["nn.conv", "nn.leaky_relu"]
    weight = next(op for op in small.ops if isinstance(op.kind, Constant))
    assert not weight.kind.data.read().any()  # the contents do not matter, so they are zeros


def test_what_matters_stays() -> None:
    small = reduced(network(), lambda g: any(getattr(op.kind, "alpha", None) == 0.25 for op in g.ops))
    assert "alpha = 0.25" in print_graph(small)


def test_stop_is_obeyed() -> None:
    graph, asked = network(), []

    def interesting(candidate: Graph) -> bool:
        asked.append(candidate)
        return True

    reduced(graph, interesting, stop=lambda: len(asked) >= 3)
    assert len(asked) == 3


@given(graphs(max_ops=5))
def test_every_candidate_is_a_valid_graph(graph: Graph) -> None:
    def interesting(candidate: Graph) -> bool:
        verify(candidate, deep=True)
        return len(kinds(candidate)) >= 2

    if interesting(graph):
        assert len(kinds(reduced(graph, interesting))) == 2


PREDICATE = """
import sys, onnx
model = onnx.load(sys.argv[1])
sys.exit(not any(n.op_type == "LeakyRelu" for n in model.graph.node))
"""


@pytest.mark.parametrize(("command", "status"), [(PREDICATE, 0), ("import sys; sys.exit(1)", 1)])
def test_the_tool_shrinks_a_model(tmp_path: Path, command: str, status: int) -> None:
    save(network(), tmp_path / "model.onnx")
    words = [sys.executable, "-m", "tools.reduce", tmp_path / "model.onnx", "-o", tmp_path / "small.onnx"]
    words += ["--seconds", "60", "--", sys.executable, "-c", command, "{}"]
    done = subprocess.run([str(w) for w in words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    if status == 0:
        assert kinds(load(tmp_path / "small.onnx")) == ["nn.leaky_relu"]
        assert "ops became 1" in done.stdout
    else:
        assert "not interesting" in done.stderr
        assert not (tmp_path / "small.onnx").exists()


def test_the_tool_wants_a_place_for_the_file(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tools.reduce", "model.onnx", "--", "true"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "{}" in done.stderr
