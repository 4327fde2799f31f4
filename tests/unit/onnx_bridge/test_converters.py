"""Single nodes at many opsets: what ONNX Runtime computes, the imported graph computes, and so does its export."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.interp import evaluate
from amctc.ir import constant_data
from amctc.onnx_bridge.converters import CONVERTERS
from amctc.onnx_bridge.exporter import export_model
from amctc.onnx_bridge.importer import import_model
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.onnx_bridge.sessions import open_session
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.types import Array
from amctc.verify import verify

RNG = np.random.default_rng(20)
NEWEST = min(onnx.defs.onnx_opset_version(), 23)
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, NEWEST)


def f32(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass
class Case:
    """One node. ``feeds`` and ``constants`` are its operands in order (a constant may come first)."""

    op_type: str
    feeds: dict[str, Array]
    constants: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    first: int = 7
    last: int = NEWEST
    kind: type | None = None
    """The op kind it must become."""
    carried: bool = False
    order: tuple[str, ...] | None = None
    outputs: int = 1

    def node(self) -> onnx.NodeProto:
        names = [*self.feeds, *self.constants] if self.order is None else self.order
        outputs = [f"y{i}" if i else "y" for i in range(self.outputs)]
        return helper.make_node(self.op_type, names, outputs, name="node", **self.attributes)

    def model(self, opset: int) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in self.feeds.items()
        ]
        node = self.node()
        tensors = [numpy_helper.from_array(a, n) for n, a in self.constants.items()]
        graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=n) for n in node.output], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


X = {"x": f32(2, 3, 7, 6)}
W = {"w": f32(4, 3, 3, 2)}
BN = {"s": f32(3), "b": f32(3), "m": f32(3), "v": np.abs(f32(3)) + 1}
M, N = f32(2, 3), f32(3, 4)


def norm(x: Array, **attributes: Any) -> Case:
    return Case("BatchNormalization", {"x": x}, BN, attributes, kind=nn.BatchNorm)


CASES: dict[str, Case] = {
    "conv": Case("Conv", X, W, kind=nn.Conv),
    "conv all attributes": Case(
        "Conv",
        X,
        W | {"b": f32(4)},
        {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2], "kernel_shape": [3, 2]},
        kind=nn.Conv,
    ),
    "conv grouped": Case("Conv", {"x": f32(1, 4, 5, 5)}, {"w": f32(6, 2, 3, 3)}, {"group": 2}, kind=nn.Conv),
    "conv 1-d": Case("Conv", {"x": f32(1, 2, 9)}, {"w": f32(3, 2, 3)}, {"pads": [2, 1]}, kind=nn.Conv),
    "conv 3-d": Case("Conv", {"x": f32(1, 2, 4, 4, 4)}, {"w": f32(3, 2, 3, 2, 2)}, kind=nn.Conv),
    "conv same upper": Case("Conv", X, W, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, kind=nn.Conv),
    "conv same lower": Case("Conv", X, W, {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, kind=nn.Conv),
    "conv valid": Case("Conv", X, W, {"auto_pad": "VALID"}, kind=nn.Conv),
    "conv of a fed weight": Case("Conv", X | W, kind=nn.Conv),
    "transpose": Case("ConvTranspose", X, {"w": f32(3, 4, 3, 3)}, kind=nn.ConvTranspose),
    "transpose all attributes": Case(
        "ConvTranspose",
        X,
        {"w": f32(3, 4, 3, 3), "b": f32(4)},
        {"strides": [2, 3], "pads": [1, 0, 0, 1], "dilations": [1, 2], "output_padding": [1, 2]},
        kind=nn.ConvTranspose,
    ),
    "transpose grouped": Case(
        "ConvTranspose",
        {"x": f32(1, 4, 3, 3)},
        {"w": f32(4, 3, 2, 2)},
        {"group": 2, "strides": [2, 2]},
        kind=nn.ConvTranspose,
    ),
    "transpose same": Case("ConvTranspose", X, {"w": f32(3, 4, 3, 3)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "transpose output shape": Case(
        "ConvTranspose",
        X,
        {"w": f32(3, 4, 3, 3)},
        {"output_shape": [14, 12], "strides": [2, 2]},
    ),
    "gemm": Case("Gemm", {"x": M}, {"w": N, "c": f32(4)}, kind=nn.Gemm),
    "gemm all attributes": Case(
        "Gemm",
        {"x": M.T.copy()},
        {"w": N.T.copy(), "c": f32(2, 1)},
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
        kind=nn.Gemm,
    ),
    "gemm without bias": Case("Gemm", {"x": M}, {"w": N}, first=11, kind=nn.Gemm),
    "gemm scalar bias": Case("Gemm", {"x": M}, {"w": N, "c": np.float32(3)}, kind=nn.Gemm),
    "matmul": Case("MatMul", {"x": f32(2, 5, 3)}, {"w": N}, kind=nn.MatMul),
    "matmul stacked": Case("MatMul", {"x": f32(2, 1, 5, 3)}, {"w": f32(4, 3, 2)}, kind=nn.MatMul),
    "matmul vector": Case("MatMul", {"x": f32(3)}, {"w": N}, kind=nn.MatMul),
    "matmul by a vector": Case("MatMul", {"x": M}, {"w": f32(3)}, kind=nn.MatMul),
    "matmul constant first": Case("MatMul", {"x": N}, {"w": M}, order=("w", "x"), kind=nn.MatMul),
    "matmul integers": Case(
        "MatMul", {"x": np.arange(6, dtype=np.int32).reshape(2, 3)}, {"w": np.ones((3, 2), np.int32)}, first=9
    ),
    "batch norm": norm(X["x"]),
    "batch norm eps": norm(X["x"], epsilon=0.5, momentum=0.5),
    "batch norm 2-d": norm(f32(4, 3)),
    "relu": Case("Relu", X, kind=nn.Relu),
    "relu integers": Case("Relu", {"x": np.int32([-1, 2])}, first=14),
    "leaky relu": Case("LeakyRelu", X, kind=nn.LeakyRelu),
    "leaky relu alpha": Case("LeakyRelu", X, attributes={"alpha": 0.3}, kind=nn.LeakyRelu),
    "sigmoid": Case("Sigmoid", X, kind=nn.Sigmoid),
    "tanh": Case("Tanh", X, kind=nn.Tanh),
    "clip attributes": Case("Clip", X, attributes={"min": -0.5, "max": 0.25}, last=10, kind=nn.Clip),
    "clip lower attribute": Case("Clip", X, attributes={"min": 0.0}, last=10, kind=nn.Clip),
    "clip operands": Case("Clip", X, {"lo": np.float32(-0.5), "hi": np.float32(0.25)}, first=11, kind=nn.Clip),
    "clip upper": Case("Clip", X, {"hi": np.float32(0.25)}, order=("x", "", "hi"), first=11, kind=nn.Clip),
    "clip nothing": Case("Clip", X, first=11, kind=nn.Clip),
    "clip crossed": Case("Clip", X, {"lo": np.float32(0.5), "hi": np.float32(-0.5)}, first=11, kind=nn.Clip),
    "clip fed bound": Case("Clip", X | {"lo": np.asarray(0.1, np.float32)}, first=11),
    "clip integers": Case("Clip", {"x": np.int64([-3, 5])}, {"lo": np.asarray(0)}, first=12),
    "softmax last axis": Case("Softmax", X, attributes={"axis": 3}, kind=nn.Softmax),
    "softmax negative axis": Case("Softmax", X, attributes={"axis": -1}, first=11, kind=nn.Softmax),
    "softmax inner axis": Case("Softmax", X, attributes={"axis": 1}, first=13, kind=nn.Softmax),
    "softmax inner axis of old": Case("Softmax", X, attributes={"axis": 1}, last=12),
    "softmax default": Case("Softmax", {"x": M}, kind=nn.Softmax),
    "add": Case("Add", {"x": M, "z": f32(3)}, kind=nn.Add),
    "add constant": Case("Add", X, {"c": f32(3, 1, 1)}, kind=nn.Add),
    "add integers": Case("Add", {"x": np.int64([1, 2]), "z": np.int64([3, 4])}),
    "sub": Case("Sub", {"x": M, "z": f32(2, 1)}, kind=nn.Sub),
    "mul": Case("Mul", {"x": M, "z": f32(1)}, kind=nn.Mul),
    "div": Case("Div", {"x": M, "z": np.abs(f32(2, 3)) + 1}, kind=nn.Div),
    "max pool": Case(
        "MaxPool", X, attributes={"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]}, kind=nn.MaxPool
    ),
    "max pool ceil": Case(
        "MaxPool", X, attributes={"kernel_shape": [2, 4], "strides": [2, 4], "ceil_mode": 1}, first=10, kind=nn.MaxPool
    ),
    "max pool dilated": Case(
        "MaxPool", X, attributes={"kernel_shape": [2, 2], "dilations": [2, 3]}, first=10, kind=nn.MaxPool
    ),
    "max pool same lower": Case(
        "MaxPool", X, attributes={"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]}, kind=nn.MaxPool
    ),
    "max pool indices": Case("MaxPool", X, attributes={"kernel_shape": [2, 2]}, first=8, outputs=2),
    "max pool integers": Case(
        "MaxPool",
        {"x": np.arange(16, dtype=np.int8).reshape(1, 1, 4, 4)},
        attributes={"kernel_shape": [2, 2]},
        first=12,
    ),
    "average pool": Case(
        "AveragePool",
        X,
        attributes={"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]},
        kind=nn.AveragePool,
    ),
    "average pool counts pads": Case(
        "AveragePool",
        X,
        attributes={"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        kind=nn.AveragePool,
    ),
    "average pool ceil": Case(
        "AveragePool",
        X,
        attributes={"kernel_shape": [3, 4], "strides": [2, 4], "ceil_mode": 1},
        first=10,
        kind=nn.AveragePool,
    ),
    "average pool ceil and pads": Case(
        "AveragePool",
        X,
        attributes={
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "ceil_mode": 1,
            "pads": [1, 1, 1, 1],
            "count_include_pad": 1,
        },
        first=19,
        kind=nn.AveragePool,
    ),
    "average pool same": Case(
        "AveragePool",
        X,
        attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        kind=nn.AveragePool,
    ),
    "average pool dilated": Case("AveragePool", X, attributes={"kernel_shape": [2, 2], "dilations": [2, 2]}, first=19),
    "global average pool": Case("GlobalAveragePool", X, kind=nn.GlobalAveragePool),
    "reshape": Case("Reshape", X, {"t": np.int64([0, -1, 6])}, kind=nn.Reshape),
    "reshape fed target": Case("Reshape", X | {"t": np.int64([6, 42])}),
    "reshape zero": Case(
        "Reshape", {"x": f32(0, 3)}, {"t": np.int64([3, 0])}, {"allowzero": 1}, first=14, kind=nn.Reshape
    ),
    "reshape integers": Case("Reshape", {"x": np.int64([[1, 2]])}, {"t": np.int64([2])}, kind=nn.Reshape),
    "flatten": Case("Flatten", X, kind=nn.Flatten),
    "flatten all": Case("Flatten", X, attributes={"axis": 0}, kind=nn.Flatten),
    "flatten negative": Case("Flatten", X, attributes={"axis": -2}, first=11, kind=nn.Flatten),
    "transpose axes": Case("Transpose", X, attributes={"perm": [0, 2, 3, 1]}, kind=nn.Transpose),
    "transpose default": Case("Transpose", X, kind=nn.Transpose),
    "transpose of a scalar": Case("Transpose", {"x": np.asarray(1, np.float32)}, kind=nn.Transpose),
    "concat": Case("Concat", {"x": M, "z": f32(2, 1)}, attributes={"axis": 1}, kind=nn.Concat),
    "concat negative": Case("Concat", {"x": M, "z": f32(4, 3)}, attributes={"axis": -2}, first=11, kind=nn.Concat),
    "cast": Case("Cast", {"x": M}, attributes={"to": TensorProto.INT64}, kind=nn.Cast),
    "cast to half": Case("Cast", {"x": M}, attributes={"to": TensorProto.FLOAT16}, kind=nn.Cast),
    "identity": Case("Identity", X, kind=nn.Identity),
    "dropout": Case("Dropout", X, last=11, attributes={"ratio": 0.5}, kind=nn.Identity),
    "dropout ratio": Case("Dropout", X, {"r": np.float32(0.5)}, first=12, kind=nn.Identity),
    "dropout not training": Case(
        "Dropout", X, {"r": np.float32(0.5), "t": np.asarray(False)}, first=12, kind=nn.Identity
    ),
    "dropout mask": Case("Dropout", X, first=12, outputs=2),
    "sqrt": Case("Sqrt", {"x": np.abs(f32(2, 3))}),
    "exp": Case("Exp", X),
    "abs": Case("Abs", X),
    "neg": Case("Neg", X),
    "reciprocal": Case("Reciprocal", {"x": np.abs(f32(2, 3)) + 1}),
    "erf": Case("Erf", X, first=9),
    "elu": Case("Elu", X, attributes={"alpha": 0.7}),
    "hard sigmoid": Case("HardSigmoid", X, attributes={"alpha": 0.3, "beta": 0.4}),
    "hard swish": Case("HardSwish", X, first=14),
    "mish": Case("Mish", X, first=18),
    "softplus": Case("Softplus", X),
    "gelu": Case("Gelu", X, first=20),
    "gelu tanh": Case("Gelu", X, attributes={"approximate": "tanh"}, first=20),
    "prelu": Case("PRelu", X, {"a": f32(3, 1, 1)}),
    "log softmax": Case("LogSoftmax", X, attributes={"axis": 3}),
    "log softmax inner": Case("LogSoftmax", X, attributes={"axis": 1}),
    "pow": Case("Pow", {"x": np.abs(f32(2, 3))}, {"e": np.float32(1.5)}),
    "pow integer exponent": Case("Pow", {"x": M}, {"e": np.int64(2)}, first=12),
    "min": Case("Min", {"x": M, "z": f32(3)}, first=8),
    "min of three": Case("Min", {"x": M, "z": f32(3), "u": f32(1)}, first=8),
    "max of one": Case("Max", {"x": M}, first=8),
    "where": Case("Where", {"c": M > 0, "x": M, "z": f32(3)}, first=9),
    "global max pool": Case("GlobalMaxPool", X),
    "instance norm": Case("InstanceNormalization", X, {"s": f32(3), "b": f32(3)}, {"epsilon": 0.1}),
    "layer norm": Case("LayerNormalization", X, {"s": f32(6), "b": f32(6)}, first=17),
    "layer norm inner axes": Case("LayerNormalization", X, {"s": f32(7, 6)}, {"axis": 2, "epsilon": 0.1}, first=17),
    "group norm": Case(
        "GroupNormalization", {"x": f32(2, 4, 3)}, {"s": f32(4), "b": f32(4)}, {"num_groups": 2}, first=21
    ),
    "group norm of 18": Case(
        "GroupNormalization", {"x": f32(2, 4, 3)}, {"s": f32(2), "b": f32(2)}, {"num_groups": 2}, first=18, last=20
    ),
    "reduce mean": Case("ReduceMean", X, attributes={"axes": [2, 3], "keepdims": 0}, last=17),
    "reduce mean all": Case("ReduceMean", X),
    "reduce mean of 18": Case("ReduceMean", X, {"a": np.int64([-1])}, first=18),
    "reduce mean noop": Case("ReduceMean", X, attributes={"noop_with_empty_axes": 1}, first=18),
    "reduce sum": Case("ReduceSum", X, attributes={"axes": [1]}, last=12),
    "reduce sum of 13": Case("ReduceSum", X, {"a": np.int64([1, -1])}, {"keepdims": 0}, first=13),
    "reduce max": Case("ReduceMax", X, attributes={"axes": [1]}, last=17),
    "squeeze": Case("Squeeze", {"x": f32(2, 1, 3, 1)}, attributes={"axes": [1]}, last=12),
    "squeeze all": Case("Squeeze", {"x": f32(2, 1, 3, 1)}),
    "squeeze of 13": Case("Squeeze", {"x": f32(2, 1, 3, 1)}, {"a": np.int64([-1])}, first=13),
    "unsqueeze": Case("Unsqueeze", {"x": M}, attributes={"axes": [0, 3]}, last=12),
    "unsqueeze of 13": Case("Unsqueeze", {"x": M}, {"a": np.int64([-1, 0])}, first=13),
    "slice": Case("Slice", X, attributes={"starts": [1, -3], "ends": [3, 100], "axes": [1, 2]}, last=9),
    "slice of 10": Case(
        "Slice", X, {"s": np.int64([5]), "e": np.int64([-100]), "a": np.int64([2]), "t": np.int64([-2])}, first=10
    ),
    "split": Case("Split", X, attributes={"axis": 2, "split": [3, 4]}, last=12, outputs=2),
    "split even": Case("Split", {"x": f32(4, 3)}, last=17, outputs=2),
    "split of 13": Case("Split", X, {"s": np.int64([3, 4])}, {"axis": -2}, first=13, outputs=2),
    "split of 18": Case("Split", {"x": f32(5, 3)}, attributes={"num_outputs": 2}, first=18, outputs=2),
    "gather": Case("Gather", X, {"i": np.int64([[0, -1], [2, 1]])}, {"axis": 1}),
    "gather a scalar": Case("Gather", X, {"i": np.int64(1)}, {"axis": 1}),
    "expand": Case("Expand", {"x": f32(3, 1)}, {"s": np.int64([2, 1, 4])}, first=8),
    "pad": Case("Pad", X, attributes={"pads": [0, 0, 1, 2, 0, 0, 2, 1], "value": 0.5}, last=10),
    "pad of 11": Case("Pad", X, {"p": np.int64([0, 0, 1, 2, 0, 0, 2, 1]), "v": np.float32(0.5)}, first=11),
    "pad reflect": Case("Pad", X, {"p": np.int64([0, 0, 1, 2, 0, 0, 2, 1])}, {"mode": "reflect"}, first=11),
    "pad negative": Case("Pad", X, {"p": np.int64([0, 0, -1, 2, 0, 0, 2, -1])}, first=11),
    "upsample of 9": Case("Upsample", X, {"s": np.float32([1, 1, 2, 3])}, first=9, last=9),
    "resize nearest": Case("Resize", X, {"r": f32(0), "s": np.float32([1, 1, 2, 3])}, {"mode": "nearest"}, first=11),
    "resize linear": Case("Resize", X, {"r": f32(0), "s": np.float32([1, 1, 2, 1.5])}, {"mode": "linear"}, first=11),
    "resize sizes": Case(
        "Resize",
        X,
        {"z": np.int64([2, 3, 10, 4])},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        order=("x", "", "", "z"),
        first=13,
    ),
    "swish": Case("Swish", X, first=24),
    "gemm in double": Case(
        "Gemm", {"x": M.astype(np.float64)}, {"w": N.astype(np.float64), "c": np.zeros(4)}, kind=nn.Gemm
    ),
}


def versions() -> list[Any]:
    """Every case at the first and last opset it is for and at those where meanings changed."""
    found = []
    for name, case in CASES.items():
        chosen = sorted(
            {v for v in OPSETS if case.first <= v <= case.last} & {case.first, case.last, 7, 9, 11, 13, 17, 21}
        )
        found += [pytest.param(name, v, id=f"{name}-{v}") for v in chosen]
    return found


@pytest.mark.parametrize(("name", "opset"), versions())
def test_node(name: str, opset: int) -> None:
    case = CASES[name]
    model = case.model(opset)
    expected = ort(model, case.feeds)
    graph = import_model(model)
    verify(graph, deep=True)
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    # A newer kernel of the runtime may sum in another order than the one of the opset we write.
    compare(expected, ort(exported, case.feeds), exact=exported.opset_import[0].version == opset)
    compare(expected, evaluate(graph, case.feeds, WHOLE_FLOAT), exact=False)
    again = export_model(import_model(exported))
    assert sorted(n.op_type for n in again.graph.node) == sorted(n.op_type for n in exported.graph.node), (
        "fixpoint (P7)"
    )
    kinds = {type(op.kind) for op in graph.ops if op.operands}
    if case.kind is not None:
        assert kinds == {case.kind}
    elif case.carried:
        assert Node in kinds


def ort(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """The outputs by name; optimisations off."""
    session = open_session(model.SerializeToString(), optimise=False)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def compare(expected: dict[str, Array], found: dict[str, Array], *, exact: bool) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        tolerance = 0.0 if exact else {"float16": 2e-3, "float32": 2e-5, "float64": 1e-12}.get(array.dtype.name, 0.0)
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance)


def test_there_are_cases_for_every_converter() -> None:
    quantizers = {"QuantizeLinear", "DequantizeLinear"}  # test_quantizers.py
    standard = {op_type for domain, op_type in CONVERTERS if not domain and not op_type.startswith("QLinear")}
    assert standard - quantizers <= {c.op_type for c in CASES.values()}


def test_constants_keep_their_bits() -> None:
    case = CASES["conv"]
    graph = import_model(case.model(13))
    (constant,) = (op for op in graph.ops if not op.operands)
    np.testing.assert_array_equal(constant_data(constant.result).read(), W["w"])
    assert not any(isinstance(op.kind, quant.Quantize) for op in graph.ops)


def test_training_batch_norm_is_carried() -> None:
    case = Case("BatchNormalization", X, BN, {"training_mode": 1}, outputs=3)
    graph = import_model(case.model(15))
    assert [type(op.kind) for op in graph.ops if op.operands] == [Node]
