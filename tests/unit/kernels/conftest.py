"""ONNX Runtime as an oracle: one node, CPU, graph optimisations off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnx.defs import onnx_opset_version

RunNode = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def run_node() -> RunNode:
    """``run_node(op, *inputs, opset=17, **attributes)`` -> the first output; an input that is None is left out."""

    def run(op: str, *inputs: np.ndarray | None, opset: int = 17, **attributes: Any) -> np.ndarray:
        assert opset <= onnx_opset_version()
        names = ["" if a is None else f"i{k}" for k, a in enumerate(inputs)]
        given = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
        node = helper.make_node(op, names, ["y"], **attributes)
        declared = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in given.items()
        ]
        result = onnx.ValueInfoProto(name="y")
        graph = helper.make_graph([node], "one", declared, [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        model = onnx.shape_inference.infer_shapes(model)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {n: np.ascontiguousarray(a) for n, a in given.items()})[0]

    return run
