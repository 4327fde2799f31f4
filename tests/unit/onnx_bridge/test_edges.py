"""What ONNX Runtime does not exchange with NumPy, and types that only the runtime knows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.errors import UnsupportedError
from amctc.interp import Plan
from amctc.ir import Graph
from amctc.onnx_bridge import FloatSession, export_model, import_model
from amctc.onnx_bridge.edge_casts import WIDER, EdgeCasts
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops.onnx import Node
from amctc.types import SCALAR_TYPES

NUMBERS = [[0.0, 1.0, -2.0], [0.5, 3.0, -4.0]]


def casting(code: int, to: int, *, both: bool = False) -> onnx.ModelProto:
    """``y`` is ``x`` in another type; with ``both`` the input is an output as well."""
    ends = [helper.make_tensor_value_info(n, c, [2, 3]) for n, c in (("x", code), ("y", to))]
    nodes = [helper.make_node("Cast", ["x"], ["y"], "cast", to=to)]
    if both:
        nodes.append(helper.make_node("Identity", ["x"], ["z"], "same"))
        ends.append(helper.make_tensor_value_info("z", code, [2, 3]))
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


NAMES = ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "INT4", "UINT4"]


def held(name: str) -> np.ndarray:
    """Values of a type, as a graph holds them."""
    integers = {"INT4": np.int8([[0, 1, -8], [7, -1, 2]]), "UINT4": np.uint8([[0, 1, 15], [8, 3, 2]])}
    dtype = {"BFLOAT16": "bfloat16"}.get(name, name.lower().replace("float8", "float8_"))
    return integers[name] if name in integers else np.asarray(NUMBERS).astype(getattr(ml_dtypes, dtype))


@pytest.mark.parametrize("name", NAMES)
def test_narrow_types_at_the_interface_keep_their_values(name: str) -> None:
    code, x = getattr(TensorProto, name), held(name)
    both = "INT" not in name  # the runtime passes no int4 on
    graph = import_model(casting(code, TensorProto.FLOAT, both=both))
    for run in (FloatSession(graph, optimise=False).run({"x": x}), Plan(graph, WHOLE_FLOAT).run({"x": x})):
        np.testing.assert_array_equal(run["y"], x.astype(np.float32))
        assert not both or run["z"].dtype == x.dtype
        assert not both or run["z"].tobytes() == x.tobytes()
    back = import_model(casting(TensorProto.FLOAT, code))
    y = FloatSession(back, optimise=False).run({"x": x.astype(np.float32)})["y"]
    assert y.dtype == x.dtype
    assert y.tobytes() == x.tobytes()


def test_models_of_plain_types_are_left_alone() -> None:
    graph = import_model(casting(TensorProto.FLOAT16, TensorProto.FLOAT))
    model = export_model(graph)
    before = model.SerializeToString()
    assert EdgeCasts(graph).add_to(model).SerializeToString() == before
    assert {"f16", "f32", "f64", "i8", "u8", "bool", "string"}.isdisjoint(WIDER)
    assert all(SCALAR_TYPES[n].bits < wider.bits for n, wider in WIDER.items())


def test_names_of_the_casts_are_free() -> None:
    model = casting(TensorProto.BFLOAT16, TensorProto.FLOAT)
    model.graph.node[0].input[0] = model.graph.input[0].name = "x/exchanged"
    model.graph.node[0].output[0] = model.graph.output[0].name = "x"
    session = FloatSession(import_model(model))
    np.testing.assert_array_equal(session.run({"x/exchanged": held("BFLOAT16")})["x"], NUMBERS)


def test_an_input_with_a_default_need_not_be_fed() -> None:
    model = casting(TensorProto.BFLOAT16, TensorProto.FLOAT)
    model.graph.initializer.append(numpy_helper.from_array(held("BFLOAT16"), "x"))
    np.testing.assert_array_equal(FloatSession(import_model(model)).run({})["y"], NUMBERS)


def microsoft(op_type: str, inputs: dict[str, np.ndarray], **attributes: Any) -> onnx.ModelProto:
    """One of the runtime's own ops between two Relus, nothing declared of what it gives."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "before"),
        helper.make_node(op_type, ["a", *inputs], ["b"], "own", domain="com.microsoft", **attributes),
        helper.make_node("Relu", ["b"], ["y"], "after"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy")
    tensors = [numpy_helper.from_array(a, n) for n, a in inputs.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "net", [x], [y], tensors), opset_imports=opsets, ir_version=8)


X = np.float32([[1, -2, 3, 4], [0, 5, -6, 7]])


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [("QuickGelu", {}, {"alpha": 1.702}), ("BiasGelu", {"bias": np.float32([1, 2, 3, 4])}, {}),
     ("FusedMatMul", {"w": np.eye(4, dtype=np.float32)}, {"alpha": 2.0})],
)  # fmt: skip
def test_types_of_the_runtimes_own_ops_come_from_the_runtime(op_type: str, inputs: Any, attributes: Any) -> None:
    model = microsoft(op_type, inputs, **attributes)
    graph = import_model(model)
    (own,) = (op for op in graph.ops if isinstance(op.kind, Node))
    assert str(own.result.type) == 'tensor<"N"x4xf32>'
    exported = export_model(graph)
    assert [n.op_type for n in exported.graph.node] == ["Relu", op_type, "Relu"]
    np.testing.assert_array_equal(FloatSession(graph).run({"x": X})["y"], run_plain(model))


def run_plain(model: onnx.ModelProto) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": X})
    return np.asarray(y)


def test_an_op_that_nobody_knows_needs_a_declared_type() -> None:
    model = microsoft("NoSuchOp", {})
    with pytest.raises(UnsupportedError, match=r"'own'.*type of 'b'.*value_info"):
        import_model(model)
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 4]))
    graph: Graph = import_model(model)
    assert sum(isinstance(op.kind, Node) for op in graph.ops) == 1
