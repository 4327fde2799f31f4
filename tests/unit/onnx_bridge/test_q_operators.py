"""QLinear… nodes become layers between quantizers, at most a step from exact integer arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy.special import softmax

from amctc.ir import Constant, Graph, layer_name
from amctc.numerics.bias import accumulator_scale
from amctc.onnx_bridge import FloatSession, export_model, import_model
from amctc.onnx_bridge.sessions import open_session
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile
from amctc.types import F32, I8, I32, U8, QuantizedType
from amctc.verify import verify

MICROSOFT = "com.microsoft"
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]


def net(op_type: str, inputs: dict[str, Any], fed: dict[str, np.ndarray], domain: str = MICROSOFT,
        **attributes: Any) -> onnx.ModelProto:  # fmt: skip
    """One node on constants ``inputs`` and quantized graph inputs ``fed``, in the order of ``inputs`` (None: fed)."""
    node = helper.make_node(op_type, list(inputs), ["y"], "layer", domain=domain, **attributes)
    given = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
             for n, a in fed.items()]  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in inputs.items() if a is not None]
    storage = TensorProto.INT8 if np.asarray(inputs.get("yz", np.uint8(0))).dtype == np.int8 else TensorProto.UINT8
    graph = helper.make_graph([node], "net", given, [helper.make_tensor_value_info("y", storage, None)], tensors)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8)


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> np.ndarray:
    (y,) = open_session(model.SerializeToString(), optimise=False).run(None, feeds)
    return np.asarray(y, np.int64)


def ours(model: onnx.ModelProto, feeds: dict[str, Any]) -> tuple[Graph, np.ndarray]:
    """The graph, all of it modelled, and what it computes; exported it computes the same."""
    graph = import_model(model)
    verify(graph, deep=True)
    assert not any(isinstance(op.kind, Node) for op in graph.ops)
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert export_model(import_model(exported)).SerializeToString() == exported.SerializeToString()
    y = np.asarray(FloatSession(graph, optimise=False).run(feeds)["y"], np.int64)
    np.testing.assert_array_equal(run(exported, feeds), y)
    return graph, y


def requantized(real: np.ndarray, scale: float, zero: int, dtype: Any) -> np.ndarray:
    """Exact reals in steps of an output quantizer, half to even."""
    info = np.iinfo(dtype)
    return np.clip(np.rint(real / scale) + zero, info.min, info.max).astype(np.int64)


scales = st.floats(2.0**-10, 0.5, width=32)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """Integers, scales and zero points of a layer with K inputs and M outputs."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    x_type, w_type = draw(st.sampled_from([np.uint8, np.int8])), draw(st.sampled_from([np.uint8, np.int8]))
    k, m, rows = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    bounds = {np.uint8: (0, 256), np.int8: (-128, 128)}
    channels = m if draw(st.booleans()) else 1
    x_scale, w_scale = np.float32(draw(scales)), np.float32(draw(scales)) * rng.uniform(0.5, 1, channels)
    # Weights of 7 bits: where the runtime adds products of u8 and s8 in pairs, wider ones may saturate.
    center = 128 if w_type is np.uint8 else 0
    return {
        "x": rng.integers(*bounds[x_type], (rows, k)).astype(x_type), "xs": x_scale,
        "xz": x_type(rng.integers(*bounds[x_type])),
        "w": (rng.integers(-63, 64, (m, k)) + center).astype(w_type), "ws": w_scale.astype(np.float32),
        "wz": np.full(channels, center if draw(st.booleans()) else center + 5, w_type),
        "b": rng.integers(-500, 500, m).astype(np.int32),
        "ys": np.float32(draw(scales)), "yz": x_type(rng.integers(*bounds[x_type])),
    }  # fmt: skip


def exact(p: dict[str, Any], bias: bool) -> np.ndarray:
    """The layer in exact integers, scaled once in float64."""
    acc = (p["x"].astype(np.int64) - int(p["xz"])) @ (p["w"].astype(np.int64) - p["wz"].astype(np.int64)[:, None]).T
    acc = acc + p["b"] if bias else acc
    return requantized(acc * np.float64(p["xs"]) * p["ws"].astype(np.float64), p["ys"], int(p["yz"]), p["yz"].dtype)


def parameters(p: dict[str, Any]) -> dict[str, Any]:
    """Scalars where there is one scale: the per-tensor form of the standard."""
    one = p["ws"].size == 1
    return p | ({"ws": p["ws"][0], "wz": p["wz"][0]} if one else {})


@given(layers(), st.booleans())
def test_a_convolution_is_a_layer_of_integers(p: dict[str, Any], bias: bool) -> None:
    q = parameters(p)
    feeds = {"x": p["x"][:, :, None, None]}
    inputs = {"x": None, "xs": q["xs"], "xz": q["xz"], "w": q["w"][:, :, None, None], "ws": q["ws"], "wz": q["wz"],
              "ys": q["ys"], "yz": q["yz"]} | ({"b": q["b"]} if bias else {})  # fmt: skip
    graph, y = ours(net("QLinearConv", inputs, feeds, ""), feeds)
    assert np.abs(y[:, :, 0, 0] - exact(p, bias)).max() <= 1
    (conv,) = (op for op in graph.ops if isinstance(op.kind, nn.Conv))
    assert layer_name(conv) == "layer"
    stored = [o.producer.operands[0].type.elem for o in conv.operands]
    assert all(isinstance(o.producer.kind, quant.Dequantize) for o in conv.operands)
    assert (stored[0].storage.dtype, stored[1].storage.dtype) == (p["x"].dtype, p["w"].dtype)
    assert stored[1].axis == (0 if p["ws"].size > 1 else None)
    if bias:
        assert stored[2].storage == I32
        np.testing.assert_array_equal(stored[2].scale_array, accumulator_scale(stored[1].scale_array, p["xs"]))
    assert graph.outputs[0].type.elem == QuantizedType.per_tensor(
        p["ys"], p["yz"], I8 if p["yz"].dtype == np.int8 else U8
    )


@given(layers(), st.booleans(), st.booleans())
def test_matrix_products_are_layers_of_integers(p: dict[str, Any], gemm: bool, bias: bool) -> None:
    q, feeds = parameters(p), {"x": p["x"]}
    inputs = {"x": None, "xs": q["xs"], "xz": q["xz"], "w": q["w"].T, "ws": q["ws"], "wz": q["wz"]}
    if gemm:
        inputs |= {"w": q["w"]} | ({"b": q["b"]} if bias else {"": None}) | {"ys": q["ys"], "yz": q["yz"]}
        graph, y = ours(net("QGemm", inputs, feeds, transB=1), feeds)
    else:
        bias = False
        graph, y = ours(net("QLinearMatMul", inputs | {"ys": q["ys"], "yz": q["yz"]}, feeds, ""), feeds)
    assert np.abs(y - exact(p, bias)).max() <= 1
    (layer,) = (op for op in graph.ops if isinstance(op.kind, nn.Gemm | nn.MatMul))
    assert layer.operands[1].producer.operands[0].type.elem.axis == (None if p["ws"].size == 1 else 0 if gemm else 1)


TWO = {"QLinearAdd": np.add, "QLinearMul": np.multiply}
ONE = {
    "QLinearLeakyRelu": lambda x: np.where(x < 0, 0.01 * x, x), "QLinearSigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "QLinearGlobalAveragePool": lambda x: x.mean((2, 3), keepdims=True),
    "QLinearReduceMean": lambda x: x.mean((2, 3), keepdims=True),
    "QLinearSoftmax": lambda x: softmax(x, axis=-1),
}  # fmt: skip


FIXED = {"QLinearSoftmax": {"axis": -1, "opset": 13}, "QLinearReduceMean": {"keepdims": 1, "axes": [2, 3]}}


@settings(max_examples=20)
@pytest.mark.parametrize("op_type", sorted(ONE))
@given(seed=st.integers(0, 1 << 16), scale=scales, zeros=st.booleans())
def test_one_operand(op_type: str, seed: int, scale: float, zeros: bool) -> None:
    rng = np.random.default_rng(seed)
    feeds = {"x": rng.integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)}
    zero, yz = (np.uint8(0), np.uint8(0)) if zeros else (np.uint8(120), np.uint8(90))
    inputs = {"x": None, "xs": np.float32(scale), "xz": zero, "ys": np.float32(1 / 64), "yz": yz}
    model = net(op_type, inputs, feeds, **FIXED.get(op_type, {}))
    real = ONE[op_type]((feeds["x"].astype(np.float64) - int(zero)) * np.float32(scale))
    _, y = ours(model, feeds)
    assert np.abs(y - requantized(real, 1 / 64, int(yz), np.uint8)).max() <= 1
    if op_type != "QLinearReduceMean":  # a schema without a kernel
        assert np.abs(y - run(model, feeds)).max() <= 1


@settings(max_examples=20)
@pytest.mark.parametrize("op_type", sorted(TWO))
@given(seed=st.integers(0, 1 << 16), a=scales, b=scales)
def test_two_operands(op_type: str, seed: int, a: float, b: float) -> None:
    rng = np.random.default_rng(seed)
    feeds = {n: rng.integers(-128, 128, shape).astype(np.int8) for n, shape in (("a", (2, 3, 4)), ("b", (3, 1)))}
    step = np.float32(a + b if op_type == "QLinearAdd" else 100 * a * b)
    inputs = {"a": None, "as": np.float32(a), "az": np.int8(-7), "b": None, "bs": np.float32(b), "bz": np.int8(3),
              "ys": step, "yz": np.int8(5)}  # fmt: skip
    reals = ((feeds[n].astype(np.float64) - z) * np.float32(s) for n, z, s in (("a", -7, a), ("b", 3, b)))
    _, y = ours(net(op_type, inputs, feeds), feeds)
    assert np.abs(y - requantized(TWO[op_type](*reals), step, 5, np.int8)).max() <= 1


@pytest.mark.parametrize("step", [0.1, 0.2])
def test_parts_in_the_type_of_the_whole_are_joined_as_integers(step: float) -> None:
    feeds = {n: np.arange(6, dtype=np.uint8).reshape(1, 2, 3) * 40 for n in "ab"}
    shared = {"ys": np.float32(0.1), "yz": np.uint8(5), "a": None, "as": np.float32(0.1), "az": np.uint8(5),
              "b": None, "bs": np.float32(step), "bz": np.uint8(5)}  # fmt: skip
    _, y = ours(net("QLinearConcat", shared, feeds, axis=1), feeds)
    other = np.clip(np.rint((feeds["b"].astype(np.float64) - 5) * step / 0.1) + 5, 0, 255)
    np.testing.assert_array_equal(y, np.concatenate([feeds["a"], other.astype(np.int64)], 1))


def pooled(**attributes: Any) -> onnx.ModelProto:
    inputs = {"x": None, "xs": np.float32(0.1), "xz": np.uint8(9), "ys": np.float32(0.05), "yz": np.uint8(30)}
    return net("QLinearAveragePool", inputs, POOL, kernel_shape=[2, 2], **attributes)


POOL = {"x": np.random.default_rng(0).integers(0, 256, (1, 3, 5, 5)).astype(np.uint8)}


@pytest.mark.parametrize("attributes", [{}, {"auto_pad": "SAME_UPPER"}, {"pads": [1, 1, 1, 1], "count_include_pad": 1}])
def test_an_average_pool_resolves_its_pads(attributes: dict[str, Any]) -> None:
    graph, y = ours(pooled(**attributes), POOL)
    assert sum(isinstance(op.kind, nn.AveragePool) for op in graph.ops) == 1
    assert np.abs(y - run(pooled(**attributes), POOL)).max() <= 1


def test_a_gemm_may_give_floats() -> None:
    p = {"x": np.uint8([[10, 20]]), "w": np.int8([[1, -2], [3, 4]])}
    inputs = {
        "x": None,
        "xs": np.float32(0.5),
        "xz": np.uint8(8),
        "w": p["w"],
        "ws": np.float32(0.25),
        "wz": np.int8(0),
    }
    model = net("QGemm", inputs, {"x": p["x"]})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    graph = import_model(model)
    assert graph.outputs[0].type.elem == F32
    np.testing.assert_array_equal(FloatSession(graph).run({"x": p["x"]})["y"], [[(2 + 36) / 8, (-4 + 48) / 8]])


QLINEAR = {"x": None, "xs": np.float32(0.1), "xz": np.uint8(9), "w": np.ones((3, 3, 1, 1), np.int8),
           "ws": np.float32(0.1), "wz": np.int8(0), "ys": np.float32(0.1), "yz": np.uint8(3)}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "domain", "attributes"),
    [
        ({"xs": None}, "", {}), ({"ys": None}, "", {}),
        ({"ws": np.float32([0.1, 0.0, 0.1]), "wz": np.int8([0, 0, 0])}, "", {}),
        ({"b": None}, "", {}), ({}, MICROSOFT, {"channels_last": 1}),
    ],
)  # fmt: skip
def test_what_cannot_be_said_in_quantized_types_is_carried(changes: Any, domain: str, attributes: Any) -> None:
    inputs = QLINEAR | changes
    shapes = {"x": (np.uint8, (1, 3, 3, 3)), "xs": (np.float32, ()), "ys": (np.float32, ()), "b": (np.int32, (3,)),
              "w": (np.int8, (3, 3, 1, 1))}  # fmt: skip
    fed = {n: np.ones(shapes[n][1], shapes[n][0]) for n, a in inputs.items() if a is None}
    model = net("QLinearConv", inputs, fed, domain, **attributes)
    graph = import_model(model)
    assert [op.kind.op_type for op in graph.ops if not isinstance(op.kind, Constant)] == ["QLinearConv"]
    np.testing.assert_array_equal(run(export_model(graph), fed), run(model, fed))


def test_plain_integers_are_dequantized_bit_for_bit() -> None:
    """All 256 integers: the detour through float and back gives the integers that came in."""
    q = np.arange(256, dtype=np.uint8)
    model = net("DequantizeLinear", {"q": None, "s": np.float32(0.0123), "z": np.uint8(77)}, {"q": q}, "")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    graph = import_model(model)
    assert isinstance(graph.outputs[0].producer.kind, quant.Dequantize)
    stored = graph.outputs[0].producer.operands[0]
    session = FloatSession(graph, [stored], optimise=False)
    np.testing.assert_array_equal(session.run_values({"q": q})[stored], q)
    (expected,) = open_session(model.SerializeToString(), optimise=False).run(None, {"q": q})
    np.testing.assert_array_equal(session.run({"q": q})["y"], expected)


def test_a_q_operator_network_reaches_the_target() -> None:
    rng = np.random.default_rng(3)
    tensors = {"xs": np.float32(0.05), "xz": np.uint8(128), "w": rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8),
               "ws": rng.uniform(0.001, 0.002, 8).astype(np.float32), "wz": np.zeros(8, np.int8),
               "b": rng.integers(-999, 999, 8).astype(np.int32), "ys": np.float32(0.02), "yz": np.uint8(3)}  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("QLinearConv", ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["q"], "conv"),
        helper.make_node("DequantizeLinear", ["q", "ys", "yz"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 8, 6, 6]))
    ]
    graph = helper.make_graph(
        nodes, "n", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()]
    )
    context = Context(target=load_profile("ascend910b1"))
    lowered = (
        Pipeline.parse("dedup,signed-storage,legalize,to-ascend,pack-constants")
        .run(import_model(helper.make_model(graph, opset_imports=OPSETS, ir_version=8)), context)
        .graph
    )
    assert not context.notes
    names = [op.kind.op_name for op in lowered.ops if not isinstance(op.kind, Constant)]
    assert names == ["ascend.quant", "ascend.conv", "ascend.dequant", "ascend.quant", "ascend.anti_quant"]
