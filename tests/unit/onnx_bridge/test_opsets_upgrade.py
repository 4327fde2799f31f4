"""Opset 7 to the newest: nodes of older versions are rewritten by ONNX's converter and must compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.errors import UnsupportedError
from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.opsets import OPSET, since_version, upgraded
from tests.unit.onnx_bridge.round_trips import round_trip, run_model

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype(np.float32)
NEWEST = onnx.defs.onnx_opset_version()


def node_model(
    op_type: str, x: np.ndarray, opset: int, *constants: np.ndarray | None, results: int = 1, wanted: int | None = None,
    between: bool = True, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """``op_type`` on the graph input ``x`` and initializers, optionally between two other nodes."""
    names = ["" if c is None else f"c{k}" for k, c in enumerate(constants)]
    first = "a" if between else "x"
    nodes = [helper.make_node("Identity", ["x"], ["a"])] if between else []
    nodes.append(helper.make_node(op_type, [first, *names], [f"y{k}" for k in range(results)], "node", **attributes))
    tensors = [numpy_helper.from_array(c, n) for n, c in zip(names, constants, strict=True) if c is not None]
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    outputs = [onnx.ValueInfoProto(name=f"y{k}") for k in range(wanted or results)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    return onnx.shape_inference.infer_shapes(model)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def half(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


CASES: list[tuple[str, list[int], np.ndarray, tuple[np.ndarray | None, ...], dict[str, Any]]] = [
    ("Squeeze", [7, 11, 12], X[:, :1], (), {"axes": [1]}),
    ("Squeeze", [11], X[:, :1], (), {"axes": [-2]}),
    ("Squeeze", [7, 11], X[:1, :, :1], (), {}),
    ("Unsqueeze", [7, 11, 12], X, (), {"axes": [0, 3]}),
    ("Unsqueeze", [11], X, (), {"axes": [-1]}),
    ("ReduceSum", [7, 11, 12], X, (), {"axes": [1], "keepdims": 0}),
    ("ReduceSum", [11], X, (), {"axes": [-1, 0]}),
    ("ReduceSum", [7, 12], X, (), {"keepdims": 0}),
    ("ReduceMean", [7, 11, 13, 17], X, (), {"axes": [2]}),
    ("ReduceMax", [7, 11, 12, 13], X, (), {"axes": [0], "keepdims": 0}),
    ("ReduceL2", [7, 11, 13], X, (), {"axes": [1]}),
    ("Softmax", [7, 11, 12], X, (), {"axis": 1}),
    ("Softmax", [7, 11], X, (), {"axis": 0}),
    ("Softmax", [7, 11], X, (), {}),
    ("Softmax", [11], X, (), {"axis": -1}),
    ("Softmax", [11], X, (), {"axis": -2}),
    ("LogSoftmax", [7, 11], X, (), {"axis": 1}),
    ("Hardmax", [13], X, (), {"axis": 1}),
    ("Dropout", [7, 10], X, (), {"ratio": 0.5}),
    ("Pad", [7, 10], X, (), {"pads": [0, 1, 0, 2, 0, 1], "value": 1.5}),
    ("Pad", [7], X, (), {"pads": [0, 1, 0, 0, 1, 0], "mode": "reflect"}),
    ("Pad", [7], X, (), {"pads": [0, 1, 2, 0, 1, 0], "mode": "edge"}),
    ("Pad", [11, 13], X, (ints(0, 1, 0, 2, 0, 1), half(1.5).reshape(())), {}),
    ("Pad", [18, 19, 21], X, (ints(1, 2), half(1.5).reshape(()), ints(2)), {}),
    ("Slice", [7, 9], X, (), {"starts": [0, 1], "ends": [2, 1000], "axes": [0, 2]}),
    ("Slice", [9], X, (), {"starts": [-1], "ends": [9223372036854775807]}),
    ("Slice", [10, 11, 13], X, (ints(3), ints(0), ints(2), ints(-2)), {}),
    ("Clip", [7, 10], X, (), {"min": -0.5, "max": 0.25}),
    ("Clip", [7], X, (), {"max": 0.25}),
    ("Clip", [11, 12, 13], X, (half(-0.5).reshape(()), None), {}),
    ("Upsample", [7], IMAGE, (), {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    ("Upsample", [9], IMAGE, (half(1, 1, 2, 3),), {"mode": "nearest"}),
    ("Resize", [10], IMAGE, (half(1, 1, 2, 3),), {"mode": "nearest"}),
    ("Resize", [11, 13], IMAGE, (half(), half(1, 1, 2, 3)),
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", [11, 13, 18], IMAGE, (half(), half(1, 1, 2, 3)), {"mode": "linear"}),
    ("TopK", [7], X, (), {"k": 2, "axis": 1}),
    ("Split", [7, 11], X, (), {"axis": 2, "split": [4]}),
    ("BatchNormalization", [7, 9, 14], X, (half(1, 2, 3), half(0, 1, 2), half(-1, 0, 1), half(1, 4, 9)),
     {"epsilon": 0.125}),
    ("AveragePool", [7, 10, 11], IMAGE, (), {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}),
    ("MaxPool", [7, 8, 10, 11, 12], IMAGE, (), {"kernel_shape": [2, 2], "strides": [1, 2]}),
    ("Flatten", [7, 9, 11, 13, 21], X, (), {"axis": 2}),
    ("Reshape", [7, 13, 14, 19, 21], X, (ints(0, -1),), {}),
    ("Cast", [7, 9, 13, 19], X, (), {"to": TensorProto.INT32}),
    ("Gather", [7, 11, 13], X, (ints(1, 0),), {"axis": 1}),
    ("ArgMax", [7, 11, 12, 13], X, (), {"axis": 1}),
    ("Transpose", [7, 13, 21], X, (), {"perm": [2, 0, 1]}),
    ("Concat", [7, 11, 13], X, (X,), {"axis": -1}),
    ("Gemm", [7, 9, 11, 13], X[0], (X[1], half(1, 2, 3)), {"transB": 1}),
    ("PRelu", [7, 9, 16], X, (half(0.1, 0.2, 0.3, 0.4),), {}),
    ("Sum", [7, 8, 13], X, (X,), {}),
    ("Greater", [7, 9, 13], X, (half(0),), {}),
    ("HardSigmoid", [7, 20], X, (), {"alpha": 0.25}),
    ("InstanceNormalization", [7, 21], IMAGE, (half(1, 2), half(0, 1)), {}),
]  # fmt: skip
PARAMETERS = [(op, o, x, c, a) for op, opsets, x, c, a in CASES for o in opsets if o <= NEWEST]


@pytest.mark.parametrize(
    ("op_type", "opset", "x", "constants", "attributes"), PARAMETERS,
    ids=[f"{op}-{opset}-{','.join(a)}" for op, opset, _, _, a in PARAMETERS],
)  # fmt: skip
def test_an_upgraded_node_computes_the_same(
    op_type: str, opset: int, x: np.ndarray, constants: tuple[np.ndarray | None, ...], attributes: dict[str, Any]
) -> None:
    results = 2 if op_type == "TopK" else 1
    for between in (True, False):
        model = node_model(op_type, x, opset, *constants, results=results, between=between, **attributes)
        _, exported, _ = round_trip(model, {"x": x})
        version = exported.opset_import[0].version
        assert version >= OPSET
        assert all(since_version(n.op_type, "", version) for n in exported.graph.node)


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset_goes_through(opset: int) -> None:
    """One small network, ours and carried, in every version there is."""
    weight = np.random.default_rng(3).normal(size=(3, 2, 2, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[2, 2]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Erf" if opset >= 9 else "Elu", ["b"], ["c"]), helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Tile", ["c", "r"], ["t"]), helper.make_node("Transpose", ["t"], ["u"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["u"], ["y"]),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 3, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 36]),
               helper.make_tensor_value_info("s", TensorProto.INT64, [4])]  # fmt: skip
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(ints(1, 1, 2, 1), "r")]
    graph = helper.make_graph(nodes, "net", ends, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 4 if opset <= 17 else helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    runs = opset <= 26  # of onnxruntime 1.31
    _, exported, _ = round_trip(model, *[{"x": IMAGE}] * runs)
    assert OPSET <= exported.opset_import[0].version <= max(OPSET, opset)
    assert exported.ir_version >= 8


def test_names_made_by_the_upgrade_are_unique_and_carry_the_result() -> None:
    model = node_model("Squeeze", X[:, :1], 11, axes=[1])
    nodes = [helper.make_node("Squeeze", ["x"], [f"s{k}"], axes=[1]) for k in range(3)]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, helper.make_node("Sum", ["s0", "s1", "s2"], ["y0"])])
    _, exported, _ = round_trip(model, {"x": X[:, :1]})
    names = [t.name for t in exported.graph.initializer] + [o for n in exported.graph.node for o in n.output]
    assert len(set(names)) == len(names)
    assert {t.name.split("/")[0] for t in exported.graph.initializer} <= {"s0", "s1", "s2"}


def test_a_node_of_the_same_meaning_is_left_alone() -> None:
    node = helper.make_node("Erf", ["x"], ["y"])
    assert upgraded(helper.make_node("HardSigmoid", ["x"], ["y"]), 7, {}, {}) is not None
    assert upgraded(node, OPSET, {}, {}) == [node]


@pytest.mark.parametrize("opset", [7, 11, 12])
def test_a_hardmax_over_several_axes_is_refused(opset: int) -> None:
    """Before opset 13 it took all axes from ``axis`` on together, which ONNX's converter forgets."""
    graph = import_model(node_model("Hardmax", X, opset, axis=1))
    with pytest.raises(UnsupportedError, match=f"Hardmax of opset {opset} means something else at 17"):
        export_model(graph)


def test_newer_carried_nodes_raise_the_opset_of_the_export() -> None:
    model = node_model("Gelu", X, 20)
    _, exported, _ = round_trip(model, {"x": X})
    assert exported.opset_import[0].version in (OPSET, 20)
    assert run_model(exported, {"x": X})["y0"].shape == X.shape


def test_a_model_keeps_one_opset_for_all_its_nodes() -> None:
    model = node_model("ReduceMean", X, 18, ints(1))
    model.graph.node.append(helper.make_node("Mish", ["y0"], ["z"]))
    model.graph.output[0].name = "z"
    _, exported, _ = round_trip(model, {"x": X})
    assert [o.version for o in exported.opset_import] == [max(OPSET, exported.opset_import[0].version)]
    assert export_model(import_model(exported)).opset_import == exported.opset_import
