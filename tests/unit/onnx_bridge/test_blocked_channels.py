"""Outputs in any order: the same elements, none more and none less, whatever blocks the runtime works in."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from amctc.concurrency import open_executor
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.onnx_bridge import blocked_channels
from amctc.onnx_bridge.blocked_channels import _left_in_blocks
from amctc.onnx_bridge.runtime import FloatSession
from amctc.onnx_bridge.workers import shared_session
from amctc.ops import nn
from amctc.types import F32, TensorType

RNG = np.random.default_rng(5)
X = GraphInput("x", TensorType(("N", 3, 9, 7), F32))
FEEDS = {"x": RNG.standard_normal((2, 3, 9, 7)).astype(np.float32)}


def conv(x: Value, channels: tuple[int, int]) -> Value:
    weight = RNG.standard_normal((channels[1], channels[0], 3, 3)).astype(np.float32)
    # without a bias of 0 what fills a block would look like a value
    return apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), x, const(weight), const(np.full(channels[1], 5, np.float32)))


def exposed(*channels: int) -> Graph:
    """Convolutions of so many channels, each followed by a ReLU; every ReLU is an output."""
    values, before = [X], 3
    for count in channels:
        values.append(apply(nn.Relu(), conv(values[-1], (before, count))))
        before = count
    return Graph((X,), tuple(values[1:]), tuple(f"y{i}" for i in range(len(channels))))


def model_order(graph: Graph) -> dict[str, np.ndarray]:
    return FloatSession(graph).run(FEEDS)


def check_same_elements(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.sort(found[name], axis=None), np.sort(array, axis=None))


@pytest.mark.parametrize("channels", [(16, 32, 48), (24, 32), (5, 16, 8, 64), (16,)])
def test_elements_are_those_of_the_model(channels: tuple[int, ...]) -> None:
    graph = exposed(*channels)
    check_same_elements(FloatSession(graph, unordered=True).run(FEEDS), model_order(graph))


def test_elements_are_those_of_the_model_in_a_worker_process() -> None:
    graph = exposed(32, 24)
    with open_executor("processes", 1) as executor, shared_session(graph, executor, unordered=True) as run:
        check_same_elements(executor.submit(run, FEEDS).result(), model_order(graph))


def test_a_value_with_other_readers_stays_in_order() -> None:
    y = apply(nn.Relu(), conv(X, (3, 16)))
    flat = apply(nn.ReduceMean(axes=(1,), keepdims=False), y)  # over channels: the order of the model
    graph = Graph((X,), (y, flat), ("y", "flat"))
    found, expected = FloatSession(graph, unordered=True).run(FEEDS), model_order(graph)
    np.testing.assert_array_equal(found["flat"], expected["flat"])
    check_same_elements(found, expected)


def node(op_type: str, source: str, target: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op_type, [source], [target], domain="com.microsoft.nchwc", **attributes)


def outputs(*names: str) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 16, 4, 4]) for n in names]


def optimised(*channels: int, more: tuple[onnx.NodeProto, ...] = (), extra: tuple[str, ...] = ()) -> onnx.GraphProto:
    """A chain in blocks, every value of which is brought into order for an output."""
    nodes = []
    for i, count in enumerate(channels):
        nodes += [node("Conv", f"b{i - 1}", f"b{i}"), node("ReorderOutput", f"b{i}", f"y{i}", channels=count)]
    names = (*(f"y{i}" for i in range(len(channels))), *extra)
    return helper.make_graph([*nodes, *more], "g", outputs("b-1"), outputs(*names))


def listing(graph: onnx.GraphProto) -> list[str]:
    return [f"{n.output[0]} = {n.op_type}({n.input[0]})" for n in graph.node]


def test_full_blocks_become_the_output_under_its_name() -> None:
    graph = optimised(32, 24, 16)
    assert _left_in_blocks(graph) == {"y0": 32, "y2": 16}
    assert listing(graph) == ["y0 = Conv(b-1)", "b1 = Conv(y0)", "y1 = ReorderOutput(b1)", "y2 = Conv(b1)"]
    assert [o.name for o in graph.output] == ["y0", "y1", "y2"]
    assert [o.type.tensor_type.HasField("shape") for o in graph.output] == [False, True, False]


def test_what_others_read_in_order_stays() -> None:
    body = helper.make_graph([helper.make_node("Neg", ["y1"], ["n"])], "body", [], outputs("n"))
    branches = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    read = helper.make_node("Neg", ["y0"], ["w"])
    graph = optimised(16, 16, 16, more=(read, branches), extra=("w", "z"))
    assert _left_in_blocks(graph) == {"y2": 16}
    assert {"y0 = ReorderOutput(b0)", "y1 = ReorderOutput(b1)", "y2 = Conv(b1)"} <= set(listing(graph))


def test_one_value_under_two_names_is_copied_once() -> None:
    graph = optimised(16, more=(node("ReorderOutput", "b0", "again", channels=16, channels_last=1),), extra=("again",))
    assert _left_in_blocks(graph) == {"y0": 16}
    assert listing(graph) == ["y0 = Conv(b-1)", "again = ReorderOutput(y0)"]


def test_blocks_wider_than_known_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_channels, "_BLOCK", 1)  # the last block of 5 channels is not full
    graph = exposed(5, 7)
    expected = model_order(graph)
    for name, array in FloatSession(graph, unordered=True).run(FEEDS).items():
        np.testing.assert_array_equal(array, expected[name])


def test_where_it_cannot_be_done_the_order_is_the_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph = exposed(16, 32)
    expected = model_order(graph)
    start = onnxruntime.InferenceSession

    def refusing(model: bytes, options: onnxruntime.SessionOptions, **others: Any) -> onnxruntime.InferenceSession:
        if options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL:
            raise RuntimeError("no kernel for com.microsoft.nchwc")
        return start(model, options, **others)

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", refusing)
        sessions = [FloatSession(graph, unordered=True)]
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        sessions.append(FloatSession(graph, unordered=True))
    for session in sessions:
        for name, array in session.run(FEEDS).items():
            np.testing.assert_array_equal(array, expected[name])
