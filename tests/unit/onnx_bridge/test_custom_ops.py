"""Libraries of custom operators: loading, and what is said where one is missing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.api import compress
from amctc.calibrate.samples import from_iterable
from amctc.concurrency import open_executor
from amctc.errors import InputError, UnsupportedError
from amctc.onnx_bridge import custom_ops, import_model
from amctc.onnx_bridge.custom_ops import register_custom_ops, unknown_op
from amctc.onnx_bridge.runtime import FloatSession
from amctc.session import input_specs

RNG = np.random.default_rng(2)


def model(op_type: str, domain: str) -> onnx.ModelProto:
    """x [N, 3] → product → custom op → product."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("x", "y", "c")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="first"),
        helper.make_node(op_type, ["p"], ["c"], name="mine", domain=domain),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="last"),
    ]
    weight = numpy_helper.from_array(RNG.standard_normal((3, 3)).astype(np.float32), "w")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:2], [weight], value_info=ends[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)])


def test_the_node_is_named_and_the_remedy_too() -> None:
    with pytest.raises(UnsupportedError) as caught:
        FloatSession(import_model(model("Foo", "my.ops")))
    assert caught.value.where == "node 'mine'"
    assert "my.ops:Foo" in caught.value.what
    assert "--custom-ops" in (caught.value.remedy or "")


def test_nodes_in_bodies_are_found_and_counted() -> None:
    inner = helper.make_node("Foo", ["x"], ["a"], name="inside", domain="d")
    value = helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])
    body = helper.make_graph([inner], "body", [], [value])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    proto = helper.make_model(helper.make_graph([branch], "g", [], [value]))
    error = unknown_op("Fatal error: d:Foo(-1) is not a registered function/op", proto.SerializeToString())
    assert error is not None
    assert error.where == "node 'inside' (and 1 more)"
    assert unknown_op("some other failure", proto) is None
    other = unknown_op("Fatal error: d:Bar(-1) is not a registered function/op", proto)
    assert other is not None
    assert other.where is None


def test_libraries_that_do_not_load(tmp_path) -> None:
    with pytest.raises(InputError, match="no such library"):
        register_custom_ops(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("hello")
    with pytest.raises(InputError, match="cannot load this library"):
        register_custom_ops(tmp_path / "text.so")
    assert str(tmp_path / "text.so") not in custom_ops.custom_op_libraries()


def test_a_real_library_end_to_end(monkeypatch) -> None:
    """Inverse of ONNX Runtime Extensions, in calibration in processes, in comparison and in the interpreter."""
    library = pytest.importorskip("onnxruntime_extensions").get_library_path()
    monkeypatch.setattr(custom_ops, "_libraries", [])
    register_custom_ops(library)
    register_custom_ops(library)
    assert len(custom_ops.custom_op_libraries()) == 1
    graph = import_model(model("Inverse", "ai.onnx.contrib"))
    matrices = [np.eye(3, dtype=np.float32) + RNG.standard_normal((3, 3)).astype(np.float32) / 9 for _ in range(4)]
    samples = from_iterable({"x": np.concatenate(matrices)}, input_specs(graph), batch_size=3)
    with open_executor("processes", 2) as executor:
        result = compress(graph, samples, executor=executor)
    assert {layer.action for layer in result.report.layers} == {"int8"}
