"""What the comparison of the float, the QDQ and the integer model counts."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import amctc
from amctc.api import compress
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.onnx_bridge import import_model
from amctc.ops import nn
from amctc.report.model import CompressionReport
from amctc.types import F32, I64, U8, TensorType

RNG = np.random.default_rng(21)


def report(graph: Graph, *shape: int, scale: float = 1.0) -> CompressionReport:
    """Of a compression with four samples in two batches."""
    x = (RNG.standard_normal((4, *shape)) * scale).astype(np.float32)
    return compress(graph, [{"x": x[i : i + 2]} for i in (0, 2)]).report


def product(*more: nn.Transpose | nn.Exp | nn.Cast, dims: tuple[int | str, ...] = ("n", 6)) -> Graph:
    """A matrix product, and ops after it."""
    x = GraphInput("x", TensorType(dims, F32))
    y: Value = apply(nn.MatMul(), x, const(RNG.standard_normal((6, 5)).astype(np.float32)), name="product")
    for kind in more:
        y = apply(kind, y)
    return Graph((x,), (y,), ("y",))


def test_agreement_is_of_scores_one_axis_of_them_per_sample() -> None:
    assert report(product(), 6).agreement == 1.0
    for graph in (product(dims=("n", 3, 6)), product(nn.Transpose((1, 0, 2)), dims=("n", 3, 6))):
        found = report(graph, 3, 6)
        assert (found.agreement, found.samples) == (None, 4)
        assert found.output_sqnr_db is not None


def test_results_beyond_float16_are_named() -> None:
    """exp(12) is 162755, and float16 ends at 65504."""
    found = report(product(nn.Exp()), 6, scale=12.0)
    (note,) = [n for n in found.notes if "beyond float16" in n]
    count = int(note.split(": ")[1].split()[0])
    assert 0 < count <= 4 * 5
    assert found.output_sqnr_db == -np.inf
    assert not any("beyond float16" in n for n in report(product(nn.Exp()), 6, scale=0.1).notes)


def test_masked_scores_are_no_error() -> None:
    """Minus infinity for two of five, in the float model too."""
    inner = product()
    mask, least = const(np.array([True, False, True, True, False])), const(np.float32(-np.inf))
    kept = apply(nn.Where(), mask, inner.outputs[0], least)
    found = report(Graph(inner.inputs, (kept,), ("y",)), 6)
    assert found.output_sqnr_db is not None
    assert found.output_sqnr_db > 30
    assert found.notes == ()


def test_pixels_count_where_no_output_is_float() -> None:
    pixels = report(product(nn.Cast(U8), dims=("n", 3, 6)), 3, 6, scale=20.0)
    assert pixels.output_sqnr_db is not None
    indices = report(product(nn.Cast(I64), dims=("n", 3, 6)), 3, 6)
    assert indices.output_sqnr_db is None


def test_outputs_whose_shape_depends_on_the_numbers() -> None:
    """The indices of positive results, as float: where a sign differs, there are more of them or fewer."""
    weight = numpy_helper.from_array(RNG.standard_normal((6, 40)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("NonZero", ["r"], ["i"]), helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    shapes = {"f": [2, "k"], "p": ["n", 40]}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])]
    proto = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    samples = [{"x": RNG.standard_normal((64, 6)).astype(np.float32)} for _ in range(4)]
    result = compress(import_model(model), samples)
    sessions = amctc.Session(result.float_graph), amctc.Session(result.deploy_graph)
    counts = [[session.run(feeds)["f"].shape[1] for session in sessions] for feeds in samples]
    assert any(real != integer for real, integer in counts), "equal counts show nothing"
    assert result.report.output_sqnr_db is not None
    assert result.report.output_sqnr_db > 30  # of the output p


def test_a_relu_left_to_a_quantizer_is_compared_behind_it() -> None:
    """A negative half that the model's own quantizer cuts off is no error of the layer."""
    text = {"scale": np.float32(0.0625), "zero": np.uint8(0), "xs": np.float32(0.03125), "xz": np.uint8(128)}
    weight = RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    initializers = [numpy_helper.from_array(np.asarray(v), n) for n, v in text.items()]
    initializers += [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(2.0**-9), "ws")]
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]), node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        node("DequantizeLinear", ["w", "ws"], ["wd"]), node("Conv", ["xd", "wd"], ["c"], name="layer"),
        node("QuantizeLinear", ["c", "scale", "zero"], ["cq"]),
        node("DequantizeLinear", ["cq", "scale", "zero"], ["d"]),
        node("Conv", ["d", "wd2"], ["y"], name="next"), node("DequantizeLinear", ["w2", "ws"], ["wd2"]),
    ]  # fmt: skip
    initializers.append(numpy_helper.from_array(RNG.integers(-127, 128, (2, 4, 1, 1)).astype(np.int8), "w2"))
    side = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", c, None, None]) for n, c in (("x", 3), ("y", 2))]
    proto = helper.make_graph(nodes, "g", side[:1], side[1:], initializers)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = report(import_model(model), 3, 6, 6)
    assert [(layer.action, layer.edge) for layer in found.layers] == [("int8", "requant"), ("int8", "dequant")]
    assert all(layer.sqnr_db is not None and layer.sqnr_db > 30 for layer in found.layers)
