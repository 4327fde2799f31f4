"""Writing quantization records from QDQ graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amctc.backends.record import record_text
from amctc.errors import InputError, UnsupportedError
from amctc.frontends.record import parse_record
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn, quant
from amctc.records import LayerRecord
from amctc.types import F32, I4, I8, I16, U8, QuantizedType, ScalarType, TensorType

STEP = float(np.float32(0.1))
SCALES = tuple(map(float, np.asarray([0.01, 0.02, 1e-7], np.float32)))


def qdq(x: Value, elem: QuantizedType) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(elem), x))


def weight(*shape: int, elem: QuantizedType) -> Value:
    return apply(quant.Dequantize(), const(np.ones(shape, np.int8), elem))


def conv(x: Value, name: str, data: QuantizedType, stored: ScalarType = I8) -> Value:
    w = weight(3, 2, 1, 1, elem=QuantizedType(stored, F32, SCALES, (0, 0, 0), 0, *stored.integer_range))
    kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    return apply(kind, qdq(x, data), w, origins=(Origin(name, "Conv"),))


def graph_of(x: GraphInput, *outputs: Value) -> Graph:
    return Graph((x,), outputs, tuple(f"y{i}" for i in range(len(outputs))))


def image() -> GraphInput:
    return GraphInput("x", TensorType((1, 2, 4, 4), F32))


def test_a_record_says_what_the_graph_says() -> None:
    x = image()
    text = record_text(graph_of(x, conv(x, "block/conv", QuantizedType.per_tensor(STEP, -7))))
    assert text.splitlines()[:6] == ["record {", '  key: "block/conv"', "  value {", "    scale_d: 0.1",
                                     "    offset_d: -7", "    scale_w: 0.01"]  # fmt: skip
    (layer,) = parse_record(text).layers
    assert layer == LayerRecord(
        "block/conv", STEP, -7, SCALES, (0, 0, 0), dst_type="INT8", act_type="INT8", wts_type="INT8"
    )


def test_an_average_pool_is_recorded_as_the_existing_tool_does() -> None:
    x = image()
    pool = nn.AveragePool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2))
    y = apply(pool, qdq(x, QuantizedType.per_tensor(STEP, -7)), origins=(Origin("p", "AveragePool"),))
    (layer,) = parse_record(record_text(graph_of(x, y))).layers
    assert layer == LayerRecord("p", STEP, -7, (1.0,), (0,), act_type="INT8")


def test_what_the_format_has_no_place_for_is_left_out() -> None:
    x = image()
    tensor = QuantizedType.per_tensor(STEP)
    product = apply(nn.MatMul(), qdq(x, tensor), qdq(x, tensor))
    weights = apply(nn.MatMul(), x, weight(4, 3, elem=QuantizedType.per_axis(SCALES, 1)))
    with pytest.raises(UnsupportedError, match="no layer"):
        record_text(graph_of(x, product, weights, apply(nn.Add(), qdq(x, tensor), x)))


def test_unsigned_data_is_recorded_as_the_signed_integers_of_the_target() -> None:
    x = image()
    layers = parse_record(record_text(graph_of(
        x, conv(x, "a", QuantizedType.per_tensor(STEP, 0, U8)), conv(x, "b", QuantizedType.per_tensor(STEP, 255, U8)),
        conv(x, "c", QuantizedType.per_tensor(STEP, -300, I16), I4),
    ))).layers  # fmt: skip
    assert [(la.offset_d, la.act_type, la.wts_type, la.dst_type) for la in layers] == [
        (-128, "INT8", "INT8", "INT8"), (127, "INT8", "INT8", "INT8"), (-300, "INT16", "INT4", None),
    ]  # fmt: skip


def test_every_kind_of_layer_is_recorded_and_float_ones_are_not() -> None:
    x = GraphInput("x", TensorType((4, 2), F32))
    data, per_tensor = QuantizedType.per_tensor(STEP), QuantizedType.per_tensor(0.5)
    w = weight(2, 3, elem=per_tensor)
    gemm = apply(nn.Gemm(), qdq(x, data), w, origins=(Origin("g", "Gemm"),))
    matmul = apply(nn.MatMul(), qdq(x, data), w, origins=(Origin("m", "MatMul"),))
    plain = apply(nn.MatMul(), x, const(np.ones((2, 3), np.float32)), origins=(Origin("f", "MatMul"),))
    weight_only = apply(nn.MatMul(), x, w, origins=(Origin("wo", "MatMul"),))
    layers = parse_record(record_text(graph_of(x, gemm, matmul, plain, weight_only))).layers
    assert [(la.name, la.scale_w) for la in layers] == [("g", (0.5,)), ("m", (0.5,))]


def asymmetric_weight(x: GraphInput) -> Value:
    elem = QuantizedType.per_tensor(0.5, 3)
    return apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), qdq(x, QuantizedType.per_tensor(STEP)),
                 weight(3, 2, 1, 1, elem=elem), origins=(Origin("c", "Conv"),))  # fmt: skip


def per_channel_data(x: GraphInput) -> Value:
    return conv(x, "c", QuantizedType.per_axis([0.5, 1.0], 1))


@pytest.mark.parametrize("make", [asymmetric_weight, per_channel_data, lambda x: apply(nn.Relu(), x)])
def test_what_a_record_cannot_say_is_refused(make: Any) -> None:
    x = image()
    with pytest.raises(UnsupportedError):
        record_text(graph_of(x, make(x)))


def test_two_layers_of_one_name_are_refused() -> None:
    x, data = image(), QuantizedType.per_tensor(STEP)
    with pytest.raises(InputError, match="two records of 'c'"):
        record_text(graph_of(x, conv(x, "c", data), conv(x, "c", data)))


def test_scales_outside_the_limits_are_refused_by_layer() -> None:
    x = image()
    tiny = float(np.float32(1e-20))
    with pytest.raises(InputError, match=r"record of 'c': .*\[N25\]"):
        record_text(graph_of(x, conv(x, "c", QuantizedType.per_tensor(tiny))))
