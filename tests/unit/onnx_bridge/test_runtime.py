"""Sessions of ONNX Runtime: what it may refuse, and what is done about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from amctc.errors import UnsupportedError
from amctc.ir import Graph, GraphInput, apply, const
from amctc.onnx_bridge import runtime
from amctc.onnx_bridge.runtime import FloatSession
from amctc.ops import nn, quant
from amctc.types import F32, I8, QuantizedType, TensorType

X = GraphInput("x", TensorType((2,), F32))
GRAPH = Graph((X,), (apply(nn.Relu(), X),), ("y",))


def failing(monkeypatch: pytest.MonkeyPatch, *, always: bool) -> None:
    """As ONNX Runtime fails where one of its fusions takes away a node whose result is an output."""
    start = onnxruntime.InferenceSession

    def session(model: bytes, options: onnxruntime.SessionOptions, **others: Any) -> onnxruntime.InferenceSession:
        off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if always or options.graph_optimization_level != off:
            raise RuntimeError("Failed to find node output or a constant initializer producing output: watched/0")
        return start(model, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_a_model_that_cannot_be_optimised_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, always=False)
    outputs = FloatSession(GRAPH, optimise=True).run({"x": np.array([-1, 2], np.float32)})
    assert outputs["y"].tolist() == [0, 2]


def test_a_model_that_it_refuses_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, always=True)
    with pytest.raises(UnsupportedError, match="ONNX Runtime refuses the model: Failed to find node output"):
        FloatSession(GRAPH)


def own_bytes() -> int:
    """Memory of this process that belongs to no file."""
    return int(Path("/proc/self/status").read_text("ascii").split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_weights_of_a_large_model_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, width = np.random.default_rng(0), 2048
    x = value = GraphInput("x", TensorType((1, width), F32))
    matrices = [rng.standard_normal((width, width), np.float32) for _ in range(2)]
    for matrix in matrices:
        value = apply(nn.MatMul(), value, const(matrix))
    graph, feeds = Graph((x,), (value,), ("y",)), {"x": rng.standard_normal((1, width), np.float32)}
    grown, outputs = [], []
    for limit in (runtime.IN_MEMORY, 1 << 20):
        monkeypatch.setattr(runtime, "IN_MEMORY", limit)
        before = own_bytes()
        session = FloatSession(graph)
        outputs.append(session.run(feeds)["y"])
        grown.append(own_bytes() - before)
        del session
    weights = 2 * 4 * width * width
    assert grown[0] > weights * 3 // 4
    assert grown[1] < weights // 4
    magnitude = np.abs(feeds["x"])
    for matrix in matrices:
        magnitude = magnitude @ np.abs(matrix)
    # Either order of two sums of K products rounds at most 2 · K times by half an eps.
    assert (np.abs(outputs[1] - outputs[0]) <= 2 * width * np.finfo(np.float32).eps * magnitude).all()


def test_what_is_not_optimised_dequantizes_weights_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the file; by default all that reads no input comes first, and every weight is there in float."""
    monkeypatch.chdir(tmp_path)
    start = onnxruntime.InferenceSession

    def profiled(model: bytes, options: onnxruntime.SessionOptions, **others: Any) -> onnxruntime.InferenceSession:
        options.enable_profiling = True
        sessions.append(start(model, options, **others))
        return sessions[-1]

    sessions: list[onnxruntime.InferenceSession] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", profiled)
    elem = QuantizedType.per_tensor(0.5, 0, I8)
    x = value = GraphInput("x", TensorType((1, 4), F32))
    for _ in range(3):
        weight = apply(quant.Dequantize(), const(np.eye(4, dtype=np.int8), elem))
        value = apply(nn.MatMul(), value, weight)
    FloatSession(Graph((x,), (value,), ("y",)), optimise=False).run({"x": np.ones((1, 4), np.float32)})
    events = json.loads(Path(sessions[-1].end_profiling()).read_text("utf-8"))
    ran = [e["args"]["op_name"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    assert ran == ["DequantizeLinear", "MatMul"] * 3
