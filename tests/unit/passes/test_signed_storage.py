"""Unsigned integers become signed ones that mean the same real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from amctc.interp import evaluate
from amctc.ir import Constant, Graph, GraphInput, apply, const
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge import FloatSession, import_model
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile
from amctc.types import F32, I4, I8, I16, U4, U8, U16, QuantizedType, ScalarType, TensorType
from amctc.verify import verify

X = GraphInput("x", TensorType((2, 3, 4), F32))


def run(graph: Graph) -> Graph:
    return Pipeline.parse("signed-storage").run(graph, Context()).graph


def graph_of(*outputs: Any) -> Graph:
    return Graph((X,), outputs, tuple(f"y{i}" for i in range(len(outputs))))


def elem(storage: ScalarType, scales: Any, zeros: Any, axis: int | None = None) -> QuantizedType:
    return QuantizedType(
        storage, F32, tuple(map(float, np.float32(scales))), tuple(zeros), axis, *storage.integer_range
    )


def storages(graph: Graph) -> list[str]:
    types = (v.type.elem for v in graph.values())
    return [e.storage.name for e in types if isinstance(e, QuantizedType)]


@st.composite
def quantized(draw: st.DrawFn) -> tuple[QuantizedType, np.ndarray]:
    """An unsigned type, per tensor or per axis, and integers over all of its range for an array [2, 3, 4]."""
    storage, axis = draw(st.sampled_from([U4, U8, U16])), draw(st.sampled_from([None, 0, 1, 2]))
    count = 1 if axis is None else (2, 3, 4)[axis]
    high = storage.integer_range[1]
    zeros = draw(st.lists(st.integers(0, high), min_size=count, max_size=count))
    scales = draw(st.lists(st.floats(2.0**-20, 2.0**10, width=32), min_size=count, max_size=count))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    return elem(storage, scales, zeros, axis), rng.integers(0, high + 1, (2, 3, 4)).astype(storage.dtype)


@given(quantized(), st.integers(0, 1 << 16))
def test_the_same_reals_are_meant_bit_for_bit(drawn: tuple[QuantizedType, np.ndarray], seed: int) -> None:
    to, integers = drawn
    weight = apply(quant.Dequantize(), const(integers, to, name="w"))
    activation = apply(quant.Dequantize(), apply(quant.Quantize(to), X))
    graph = graph_of(weight, activation, apply(nn.Mul(), weight, activation))
    signed = run(graph)
    verify(signed, deep=True)
    assert set(storages(signed)) == {{U4: "i4", U8: "i8", U16: "i16"}[to.storage]}
    spread = 3 * max(to.scales) * to.high
    feeds = {"x": np.random.default_rng(seed).uniform(-spread, spread, (2, 3, 4)).astype(np.float32)}
    before, after = evaluate(graph, feeds, ORACLE), evaluate(signed, feeds, ORACLE)
    for name, array in before.items():
        assert array.tobytes() == after[name].tobytes()
    if to.storage != U4:  # ONNX Runtime as a second witness
        for name, array in FloatSession(graph, optimise=False).run(feeds).items():
            np.testing.assert_array_equal(array, FloatSession(signed, optimise=False).run(feeds)[name])


def test_numbers_by_hand() -> None:
    stored = const(np.uint8([0, 3, 128, 255]), elem(U8, [0.5], [3]), name="w")
    (constant,) = (op for op in run(Graph((), (apply(quant.Dequantize(), stored),), ("y",))).ops if not op.operands)
    assert isinstance(constant.kind, Constant)
    np.testing.assert_array_equal(constant.kind.data.read(), np.int8([-128, -125, 0, 127]))
    assert constant.kind.elem == elem(I8, [0.5], [-125])
    assert constant.result.name == "w"


def test_a_scalar_and_an_empty_constant() -> None:
    for array in (np.array(200, np.uint8), np.zeros((0, 3), np.uint8)):
        graph = Graph((), (apply(quant.Dequantize(), const(array, elem(U8, [1.0], [128]))),), ("y",))
        (y,) = evaluate(run(graph), {}, ORACLE).values()
        np.testing.assert_array_equal(y, array.astype(np.float32) - 128)


@pytest.mark.parametrize(("storage", "signed", "middle"), [(U8, I8, 128), (U4, I4, 8), (U16, I16, 1 << 15)])
def test_a_weight_in_the_middle_of_the_range_becomes_symmetric(storage: Any, signed: Any, middle: int) -> None:
    stored = const(np.full((2, 3, 4), middle, storage.dtype), elem(storage, [0.25, 0.5], [middle, middle], 0))
    (found,) = {v.type.elem for v in run(graph_of(apply(quant.Dequantize(), stored))).values()} - {F32}
    assert found == QuantizedType.per_axis([0.25, 0.5], 0, signed)


def test_integers_follow_where_they_are_moved() -> None:
    q = apply(quant.Quantize(elem(U8, [0.1], [7])), X)
    moved = apply(nn.Concat(1), apply(nn.Transpose((0, 1, 2)), q), apply(nn.Reshape((2, 3, 4)), q))
    signed = run(graph_of(apply(quant.Dequantize(), moved)))
    verify(signed)
    assert set(storages(signed)) == {"i8"}
    assert len(storages(signed)) == 4


def test_what_the_interface_shows_stays_unsigned_with_all_that_shares_its_integers() -> None:
    q, other = (apply(quant.Quantize(elem(U8, [0.1], [z])), X) for z in (7, 9))
    shown = apply(nn.Reshape((6, 4)), q)
    graph = graph_of(shown, apply(quant.Dequantize(), q), apply(quant.Dequantize(), other))
    signed = run(graph)
    assert sorted(storages(signed)) == ["i8", "u8", "u8"]
    assert signed.outputs[0].type.elem == elem(U8, [0.1], [7])


def test_what_a_carried_op_reads_stays_unsigned() -> None:
    graph = import_model(
        parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y, uint8[2,3] k)
        <float s = {0.5}, uint8 z = {3}, float t = {0.25}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) k = BitShift<direction = "LEFT">(q, q) }""")
    )
    assert run(graph) is graph


def test_a_signed_graph_is_left_alone() -> None:
    graph = graph_of(apply(quant.Dequantize(), apply(quant.Quantize(elem(I8, [0.1], [7])), X)))
    assert run(graph) is graph


def test_a_uint8_qdq_model_reaches_the_target() -> None:
    """Activations uint8, weights uint8 around 128, as ONNX Runtime's quantizer writes them for uint8."""
    graph = import_model(
        parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,4] x) => (float[2,2] y)
        <float s = {0.5}, uint8 z = {3},
         uint8[4,2] w = {1,2,3,250,128,129,0,255}, float ws = {0.25}, uint8 wz = {128}> {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, ws, wz)
        m = MatMul(d, v) p = QuantizeLinear(m, s, z) y = DequantizeLinear(p, s, z) }""")
    )
    names = {}
    for prelude in ("", "signed-storage,"):
        context = Context(target=load_profile("ascend910b1"))
        lowered = Pipeline.parse(f"{prelude}legalize,to-ascend").run(graph, context).graph
        names[prelude] = [op.kind.op_name for op in lowered.ops if not isinstance(op.kind, Constant)]
    assert not any(name.startswith("ascend.") for name in names[""])
    assert names["signed-storage,"] == [
        "ascend.quant",
        "ascend.matmul",
        "ascend.dequant",
        "ascend.quant",
        "ascend.anti_quant",
    ]
