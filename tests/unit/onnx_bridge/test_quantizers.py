"""QuantizeLinear and DequantizeLinear: element types in, nodes out, and forms that stay carried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from amctc.errors import UnsupportedError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, apply, const
from amctc.onnx_bridge.exporter import export_model
from amctc.onnx_bridge.importer import import_model
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.onnx_bridge.sessions import open_session
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.types import F16, F32, I4, I8, I16, I32, U8, Array, QuantizedType, ScalarType, TensorType

RNG = np.random.default_rng(21)
SCALE, ZERO = np.float32(0.1), np.int8(3)


def model(*nodes: NodeProto, opset: int = 17, shape: Sequence[int] = (2, 3), **constants: Array) -> onnx.ModelProto:
    """``x`` float to ``y``, whatever its type."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [onnx.ValueInfoProto(name="y")], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def node(op_type: str, *names: str, **attributes: Any) -> NodeProto:
    """The last name is the result."""
    return helper.make_node(op_type, list(names[:-1]), [names[-1]], **attributes)


def pair(scale: str = "s", zero: str = "z", **attributes: Any) -> list[NodeProto]:
    return [
        node("QuantizeLinear", "x", scale, zero, "q", **attributes),
        node("DequantizeLinear", "q", scale, zero, "y", **attributes),
    ]


def ort(proto: onnx.ModelProto, x: Array) -> Array:
    (y,) = open_session(proto.SerializeToString(), optimise=False).run(None, {"x": x})
    return np.asarray(y)


def check(proto: onnx.ModelProto) -> Graph:
    """Original, export and interpreter agree bit for bit."""
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = (RNG.standard_normal(shape) * 5).astype(np.float32)
    graph = import_model(proto)
    expected = ort(proto, x)
    exported = export_model(graph)
    onnx.checker.check_model(exported)
    np.testing.assert_array_equal(ort(exported, x), expected)
    found = evaluate(graph, {"x": x}, WHOLE_FLOAT)["y"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    return graph


def kinds(graph: Graph) -> list[str]:
    return [op.kind.op_name for op in graph.ops if op.operands]


def type_of(graph: Graph) -> QuantizedType:
    (kind,) = (op.kind for op in graph.ops if isinstance(op.kind, quant.Quantize))
    return kind.to


@pytest.mark.parametrize("opset", [10, 13, 17, 19, 21])
@pytest.mark.parametrize(("zero", "storage"), [(np.int8(3), I8), (np.uint8(130), U8)])
def test_per_tensor(opset: int, zero: Any, storage: ScalarType) -> None:
    graph = check(model(*pair(), opset=opset, s=SCALE, z=zero))
    assert kinds(graph) == ["quant.quantize", "quant.dequantize"]
    assert type_of(graph) == QuantizedType.per_tensor(float(SCALE), int(zero), storage)


def test_absent_zero_point_is_unsigned_zero() -> None:
    nodes = [node("QuantizeLinear", "x", "s", "q"), node("DequantizeLinear", "q", "s", "y")]
    assert type_of(check(model(*nodes, s=SCALE))) == QuantizedType.per_tensor(float(SCALE), 0, U8)


def test_one_scale_in_a_vector_is_per_tensor() -> None:
    """Not what the standard says of [1], but what exporters write and ONNX Runtime reads."""
    graph = check(model(*pair(), shape=(2, 3, 4), s=np.float32([0.1]), z=np.int8([3])))
    assert type_of(graph) == QuantizedType.per_tensor(float(SCALE), 3)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_per_channel(axis: int) -> None:
    size = (2, 3)[axis]
    scales, zeros = np.float32([0.1, 0.2, 0.3])[:size], np.int8([1, -2, 0])[:size]
    elem = type_of(check(model(*pair(axis=axis), opset=13, s=scales, z=zeros)))
    assert (elem.axis, elem.zero_points) == (axis % 2, tuple(zeros.tolist()))


@pytest.mark.parametrize("opset", [21, 23])
def test_sixteen_bits(opset: int) -> None:
    elem = type_of(check(model(*pair(), opset=opset, s=np.float32(0.001), z=np.int16(-5))))
    assert elem == QuantizedType.per_tensor(float(np.float32(0.001)), -5, I16)


def test_quantized_weights_and_biases() -> None:
    nodes = [
        *pair()[:1], node("DequantizeLinear", "q", "s", "z", "d"),
        node("DequantizeLinear", "w", "sw", "zw", "dw", axis=0), node("DequantizeLinear", "b", "sb", "db", axis=0),
        node("Gemm", "d", "dw", "db", "y", transB=1),
    ]  # fmt: skip
    steps = np.float32([0.5, 0.25])
    proto = model(
        *nodes, opset=13, s=SCALE, z=ZERO, w=RNG.integers(-128, 128, (2, 3)).astype(np.int8), sw=steps,
        zw=np.zeros(2, np.int8), b=np.int32([100, -100]), sb=steps * SCALE,
    )  # fmt: skip
    graph = import_model(proto)
    gemm = graph.outputs[0].producer
    assert isinstance(gemm.kind, nn.Gemm)
    elems = [o.producer.operands[0].type.elem for o in gemm.operands]
    assert [(e.storage, e.axis) for e in elems] == [(I8, None), (I8, 0), (I32, 0)]
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(ort(export_model(graph), x), ort(proto, x))


def test_integers_flow_between() -> None:
    nodes = [
        node("QuantizeLinear", "x", "s", "z", "q"),
        node("MaxPool", "q", "p", kernel_shape=[2, 2]),
        node("Transpose", "p", "t", perm=[0, 2, 3, 1]),
        node("Concat", "t", "t", "c", axis=3),
        node("DequantizeLinear", "c", "s", "z", "y"),
    ]
    graph = check(model(*nodes, shape=(1, 2, 3, 3), s=SCALE, z=ZERO))
    assert kinds(graph) == ["quant.quantize", "nn.max_pool", "nn.transpose", "nn.concat", "quant.dequantize"]


CARRIED = {
    "a dequantizer of another scale": (
        [node("QuantizeLinear", "x", "s", "z", "q"), node("DequantizeLinear", "q", "s2", "z", "y")],
        {"s2": np.float32(0.3)},
    ),
    "a cast of integers": (
        [node("QuantizeLinear", "x", "s", "z", "q"), node("Cast", "q", "y", to=TensorProto.FLOAT)],
        {},
    ),
    "concatenation of different scales": (
        [
            node("QuantizeLinear", "x", "s", "z", "q"),
            node("QuantizeLinear", "x", "s2", "z", "r"),
            node("Concat", "q", "r", "y", axis=0),
        ],
        {"s2": np.float32(0.3)},
    ),
    "a computed scale": (
        [
            node("ReduceMax", "x", "m", keepdims=0),
            node("Abs", "m", "a"),
            node("QuantizeLinear", "x", "a", "z", "q"),
            node("DequantizeLinear", "q", "a", "z", "y"),
        ],
        {},
    ),
    "moving channels with scales": (
        [
            node("QuantizeLinear", "x", "v", "w", "q", axis=1),
            node("Transpose", "q", "t", perm=[1, 0]),
            node("DequantizeLinear", "t", "v", "w", "y", axis=0),
        ],
        {"v": np.float32([0.1, 0.2, 0.3]), "w": np.int8([0, 1, 2])},
    ),
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_our_types_cannot_say_is_carried(name: str) -> None:
    """Nothing is refused because of one node."""
    nodes, constants = CARRIED[name]
    graph = check(model(*nodes, s=SCALE, z=ZERO, **constants))
    assert any(isinstance(op.kind, Node) for op in graph.ops)


def test_data_quantized_in_blocks_is_carried() -> None:
    nodes = pair(axis=1, block_size=2)
    blocks = {"s": np.float32([[0.1, 0.2], [0.3, 0.4]]), "z": np.zeros((2, 2), np.int8)}
    assert kinds(check(model(*nodes, opset=21, shape=(2, 4), **blocks))) == ["onnx.node", "onnx.node"]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("storage", [np.int8, np.uint8, "int4", "uint4"])
def test_weights_in_blocks(axis: int, storage: Any) -> None:
    """The last block is short: 33 elements along the axis in blocks of 16."""
    shape, sizes = [4, 4], [4, 4]
    shape[axis], sizes[axis] = 33, 3
    nibble = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4}.get(storage)
    signed = storage in (np.int8, "int4")
    reach = (8 if signed else 16) if nibble else (128 if signed else 256)
    codes, zeros = (RNG.integers(-reach if signed else 0, reach, s) for s in (shape, sizes))
    nodes = [node("DequantizeLinear", "w", "s", "z", "d", axis=axis, block_size=16), node("Add", "x", "d", "y")]
    proto = model(*nodes, opset=21, shape=shape, s=RNG.uniform(0.01, 0.1, sizes).astype(np.float32))
    for name, array in (("w", codes), ("z", zeros)):
        tensor = (
            helper.make_tensor(name, nibble, array.shape, array.ravel()) if nibble
            else numpy_helper.from_array(array.astype(storage), name)
        )  # fmt: skip
        proto.graph.initializer.append(tensor)
    graph = check(proto)
    (elem,) = (v.type.elem for v in graph.values() if isinstance(v.type.elem, QuantizedType))
    assert (elem.axis, elem.block, len(elem.scales)) == (axis % 2, 16, 12)
    assert kinds(graph) == ["quant.dequantize", "nn.add"]


# ----------------------------------------------------------------------------------------------------- what is written


def quantized_graph(elem: QuantizedType, x: ScalarType = F32) -> Graph:
    given = GraphInput("x", TensorType((2, 3), x))
    return Graph((given,), (apply(quant.Dequantize(), apply(quant.Quantize(elem), given)),), ("y",))


@pytest.mark.parametrize(
    ("elem", "opset"),
    [
        (QuantizedType.per_tensor(0.5, 3), 17),
        (QuantizedType.per_tensor(0.5, 3, U8), 17),
        (QuantizedType.per_axis((0.5, 0.25, 1.0), 1), 17),
        (QuantizedType.per_tensor(float(np.float32(0.1)), 3, I8, F16), 17),  # through casts: the scale is no float16
        (QuantizedType.per_tensor(0.5, 3, I16), 21),
        (QuantizedType.per_tensor(0.5, -3, I4), 21),
    ],
)
def test_the_opset_is_as_new_as_the_types_need(elem: QuantizedType, opset: int) -> None:
    graph = quantized_graph(elem, elem.expressed)
    exported = export_model(graph)
    assert exported.opset_import[0].version == opset
    x = RNG.standard_normal((2, 3)).astype(elem.expressed.dtype)
    np.testing.assert_array_equal(ort(exported, x), evaluate(graph, {"x": x}, WHOLE_FLOAT)["y"])


def test_int4_weights_are_packed() -> None:
    elem = QuantizedType.per_tensor(0.5, 0, I4)
    codes = np.int8([[7, -8, 1], [0, -1, 3]])
    graph = Graph((), (apply(quant.Dequantize(), const(codes, elem)),), ("y",))
    exported = export_model(graph)
    (tensor,) = (t for t in exported.graph.initializer if list(t.dims) == [2, 3])
    assert tensor.data_type == TensorProto.INT4
    assert tensor.raw_data == bytes([0x87, 0x01, 0x3F])  # the low nibble is the even index
    (y,) = open_session(exported.SerializeToString()).run(None, {})
    np.testing.assert_array_equal(y, codes * np.float32(0.5))


def test_a_narrowed_range_has_no_onnx_form() -> None:
    narrow = QuantizedType(I8, F32, (0.5,), (0,), None, -127, 127)
    with pytest.raises(UnsupportedError, match=r"cannot clip to \[-127, 127\]"):
        export_model(quantized_graph(narrow))
