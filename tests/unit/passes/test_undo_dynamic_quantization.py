"""undo-dynamic-quantization: products of integers that are quantized at run time become float layers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from amctc.ir import Constant, Graph, constant_data, layer_name
from amctc.onnx_bridge.importer import import_model
from amctc.onnx_bridge.runtime import FloatSession
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.session import graph_kind
from amctc.types import Array

RNG = np.random.default_rng(23)
ROWS = (RNG.standard_normal((5, 3)) * 4).astype(np.float32)
IMAGE = RNG.standard_normal((2, 4, 5, 5)).astype(np.float32)
W = np.array([[1, 2], [3, -4], [5, 6]])
MATMUL = "q, s, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, z, wz) f = Cast<to = 1>(m)"
CONSTANTS = "int8[3,2] w = {1,2,3,-4,5,6}, int8 wz = {0}, float t = {0.25}"


def net(nodes: str, constants: str = CONSTANTS, shapes: str = "float[N,3] x) => (float[N,2] y") -> Graph:
    text = f'<ir_version: 8, opset_import: ["" : 17]> net ({shapes}) <{constants}> {{ {nodes} }}'
    return import_model(parser.parse_model(text))


FORMS = {
    "as ONNX Runtime writes it": ("st = Mul(s, t) y = Mul(f, st)", 0.25 * W),
    "the other way round": ("st = Mul(t, s) y = Mul(st, f)", 0.25 * W),
    "one after the other": ("fs = Mul(f, s) y = Mul(t, fs)", 0.25 * W),
    "weights in steps of 1": ("y = Mul(f, s)", W),
    "scaled once more": ("st = Mul(s, t) fst = Mul(f, st) y = Mul(fst, t)", 0.0625 * W),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_product_in_every_order(name: str, run) -> None:
    nodes, weight = FORMS[name]
    graph = net(f"{MATMUL} {nodes}")
    result = run("undo-dynamic-quantization", graph)
    check_float_layers(result.graph, nn.MatMul)
    assert [n.text for n in result.notes] == ["made a float layer: the model quantized its data at run time"]
    y = FloatSession(result.graph).run({"x": ROWS})["y"]
    # Two float32 products of three terms, and a scale.
    np.testing.assert_allclose(y, ROWS.astype(np.float64) @ weight, rtol=0, atol=2.0**-21 * np.abs(ROWS).max() * 12)
    check_a_step(graph, y, ROWS, np.abs(weight).sum(0))
    folded = run("undo-dynamic-quantization,fold-affine", graph).graph
    assert [op.kind.op_name for op in folded.ops if op.operands] == ["nn.matmul"]


def check_float_layers(graph: Graph, kind: type, count: int = 1) -> None:
    assert not any(isinstance(op.kind, Node) for op in graph.ops)
    assert sum(isinstance(op.kind, kind) for op in graph.ops) == count


def check_a_step(graph: Graph, y: Array, x: Array, weight_sum: Array) -> None:
    """The model itself, in ONNX Runtime, is off by its rounding: half a step, and half for its rounded zero point."""
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    theirs = FloatSession(graph).run({"x": x})["y"]
    assert (np.abs(theirs - y) <= step * weight_sum * (1 + 2.0**-10)).all()
    assert (theirs != y).any()


def test_zero_points_of_weights(run) -> None:
    """Unsigned, one for each column; and the columns' scales stay behind, for fold-affine."""
    constants = "uint8[3,2] w = {1,2,3,250,5,6}, uint8[2] wz = {1, 250}, float[2] t = {0.5, 0.25}"
    graph = net(f"{MATMUL} st = Mul(s, t) y = Mul(f, st)", constants)
    result = run("undo-dynamic-quantization", graph).graph
    check_float_layers(result, nn.MatMul)
    weight = np.array([[0, -248], [2, 0], [4, -244]]) * [0.5, 0.25]
    y = FloatSession(result).run({"x": ROWS})["y"]
    np.testing.assert_allclose(y, ROWS.astype(np.float64) @ weight, rtol=0, atol=2.0**-21 * np.abs(ROWS).max() * 124)
    check_a_step(graph, y, ROWS, np.abs(weight).sum(0))


@pytest.mark.parametrize("zero", ["int8 wz = {3}", "int8[2] wz = {3, -3}"])
def test_convolutions_keep_their_attributes_and_names(zero: str, run) -> None:
    integers = ",".join(map(str, range(-18, 18)))
    graph = net(
        "[dynamic] q, s, z = DynamicQuantizeLinear(x) "
        "[conv1_quant] m = ConvInteger<group = 2, strides = [2, 2], pads = [1, 0, 0, 1]>(q, w, z, wz) "
        "f = Cast<to = 1>(m) st = Mul(s, t) y = Mul(f, st)",
        f"int8[2,2,3,3] w = {{{integers}}}, {zero}, float t = {{0.125}}", "float[N,4,5,5] x) => (float[N,2,2,2] y",
    )  # fmt: skip
    result = run("undo-dynamic-quantization", graph).graph
    check_float_layers(result, nn.Conv)
    (conv,) = (op for op in result.ops if isinstance(op.kind, nn.Conv))
    assert conv.kind == nn.Conv((2, 2), (1, 0, 0, 1), (1, 1), 2)
    assert layer_name(conv) == "conv1_quant"
    data = constant_data(conv.operands[1])
    assert data is not None
    several = zero.startswith("int8[2]")
    weight = np.arange(-18, 18).reshape(2, -1) - [[3], [-3 if several else 3]]
    np.testing.assert_array_equal(data.read().reshape(2, -1), weight)
    if not several:  # ONNX Runtime has no kernel for several zero points
        y = FloatSession(result).run({"x": IMAGE})["y"]
        check_a_step(graph, y, IMAGE, np.abs(weight * 0.125).sum(1).reshape(2, 1, 1))


def test_layers_share_data_and_products_may_be_read_elsewhere(run) -> None:
    graph = net(
        f"{MATMUL} st = Mul(s, t) u = Mul(f, st) n = MatMulInteger(q, v, z, wz) g = Cast<to = 1>(n) h = Mul(g, s) "
        "y = Add(u, h)", f"{CONSTANTS}, int8[3,2] v = {{1,1,1,1,1,1}}",
    )  # fmt: skip
    check_float_layers(run("undo-dynamic-quantization", graph).graph, nn.MatMul, 2)
    also_read = net(f"{MATMUL} u = Mul(f, s) y = Add(u, f)")
    result = run("undo-dynamic-quantization", also_read).graph
    assert sum(isinstance(op.kind, nn.MatMul) for op in result.ops) == 1
    check_a_step(also_read, FloatSession(result).run({"x": ROWS})["y"], ROWS, np.abs(W).sum(0))


def test_both_sides_quantized_at_run_time(run) -> None:
    graph = net(
        "q, s, z = DynamicQuantizeLinear(x) r, t, v = DynamicQuantizeLinear(k) m = MatMulInteger(q, r, z, v) "
        "f = Cast<to = 1>(m) st = Mul(s, t) y = Mul(f, st)", "float u = {1}",
        "float[N,3] x, float[3,2] k) => (float[N,2] y",
    )  # fmt: skip
    result = run("undo-dynamic-quantization", graph).graph
    check_float_layers(result, nn.MatMul)
    k = W.astype(np.float32)
    np.testing.assert_array_equal(FloatSession(result).run({"x": ROWS, "k": k})["y"], ROWS @ k)


NEAR_MISSES = {
    "no scale": f"{MATMUL} y = Mul(f, t)",
    "the scale of other data": f"{MATMUL} x2 = Neg(x) p, s2, o = DynamicQuantizeLinear(x2) y = Mul(f, s2)",
    "the zero point of other data": (
        "q, s, z = DynamicQuantizeLinear(x) x2 = Neg(x) p, s2, o = DynamicQuantizeLinear(x2) "
        "m = MatMulInteger(q, w, o, wz) f = Cast<to = 1>(m) y = Mul(f, s)"
    ),
    "no zero point": (
        "q, s, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, w) f = Cast<to = 1>(m) y = Mul(f, s)"
    ),
    "added": f"{MATMUL} y = Add(f, s)",
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_stay(name: str, run) -> None:
    graph = net(NEAR_MISSES[name])
    result = run("undo-dynamic-quantization", graph)
    assert result.graph is graph
    assert result.notes == ()


TABLE = "uint8[4,3] table = {0,1,2,128,129,130,7,255,9,10,11,12}, float ts = {0.1}, uint8 tz = {128}"
LOOK_UP = "g = Gather(table, ids) e = DequantizeLinear(g, ts, tz)"


def test_quantized_tables_become_plain_numbers(run) -> None:
    """As quantize_dynamic leaves an embedding: its quantizer is none of data, and would keep layers from having one."""
    graph = net(
        f"{LOOK_UP} {MATMUL.replace('(x)', '(e)')} p = Mul(f, s) d = DequantizeLinear(w, ws, wz) "
        "o = MatMul(e, d) y = Add(p, o)",
        f"{CONSTANTS}, {TABLE}, float ws = {{0.5}}", "int64[N] ids) => (float[N,2] y",
    )  # fmt: skip
    assert graph_kind(graph) == "float"
    result = run("undo-dynamic-quantization", graph).graph
    check_float_layers(result, nn.MatMul, 2)
    assert not any(isinstance(op.kind, quant.Quantize | quant.Dequantize) for op in result.ops)
    rows = ((np.array([[7, 255, 9], [0, 1, 2]]) - 128).astype(np.float32) * np.float32(0.1)).astype(np.float64)
    y = FloatSession(result).run({"ids": np.array([2, 0])})["y"]
    np.testing.assert_allclose(y, rows @ W + rows @ (0.5 * W), rtol=0, atol=2.0**-21 * 13 * 14)
    stored = [op.kind.data.dtype for op in result.ops if isinstance(op.kind, Constant) and op.kind.data.shape == (4, 3)]
    assert stored == [np.uint8]


@pytest.mark.parametrize("quantized", ["e", "x"])
def test_quantizers_of_data_are_kept(quantized: str, run) -> None:
    """A model that has some was calibrated: nothing of it is undone but the layers that found ranges at run time."""
    graph = net(
        f"{LOOK_UP} v = QuantizeLinear({quantized}, ts, tz) u = DequantizeLinear(v, ts, tz) {MATMUL} p = Mul(f, s) "
        "o = MatMul(u, k) y = Add(p, o)",
        f"{CONSTANTS}, {TABLE}, float[3,2] k = {{1,2,3,4,5,6}}", "int64[N] ids, float[N,3] x) => (float[N,2] y",
    )  # fmt: skip
    assert graph_kind(graph) == ("qdq" if quantized == "x" else "float")
    result = run("undo-dynamic-quantization", graph).graph
    left = sum(isinstance(op.kind, quant.Quantize) for op in result.ops)
    assert left == (0 if quantized == "e" else sum(isinstance(op.kind, quant.Quantize) for op in graph.ops))
