"""Sessions of ONNX Runtime: what it may refuse, and what is done about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from amctc.errors import UnsupportedError
from amctc.ir import Graph, GraphInput, apply
from amctc.onnx_bridge.runtime import FloatSession
from amctc.ops import nn
from amctc.types import F32, TensorType

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
