"""ONNX Runtime, optimisations off, as the oracle: a model must compute the same before and after import and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from amctc.ir import Graph
from amctc.onnx_bridge import export_model, import_model
from amctc.text import print_graph
from amctc.verify import verify

Feeds = Mapping[str, Any]


def run_model(model: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs by name."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_same_bits(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> None:
    """Equal names in one order, types, shapes and contents."""
    assert list(old) == list(new)
    for name, before in old.items():
        after = new[name]
        assert (before.dtype, before.shape) == (after.dtype, after.shape), name
        if before.dtype == object:
            assert before.tolist() == after.tolist(), name
        else:
            assert before.tobytes() == after.tobytes(), (name, before, after)


def round_trip(model: onnx.ModelProto, *feeds: Feeds) -> tuple[Graph, onnx.ModelProto, dict[str, np.ndarray]]:
    """The graph, the exported model and its outputs for the last feeds.

    Checks what holds of every model: a valid graph, the same text each time, a valid export with unique names and the
    same bytes each time, outputs equal bit for bit for each of ``feeds``, and a second round trip that changes nothing.
    """
    before = model.SerializeToString(deterministic=True)
    graph = import_model(model)
    verify(graph, deep=True)
    assert print_graph(import_model(model)) == print_graph(graph)
    assert model.SerializeToString(deterministic=True) == before
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert export_model(graph).SerializeToString() == exported.SerializeToString()
    names = [n.name for n in exported.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    again = export_model(import_model(exported))
    outputs: dict[str, np.ndarray] = {}
    for feed in feeds:
        outputs = run_model(exported, feed)
        assert_same_bits(run_model(model, feed), outputs)
        assert_same_bits(outputs, run_model(again, feed))
    return graph, exported, outputs
