"""quantize-bias: int32 in steps of scale_w · scale_d (N9)."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import LimitError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.ops import nn, quant
from amctc.types import F32, I8, I32, Array, QuantizedType, TensorType

CONV = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def quantized_layer(bias: Value | None, weight_scales: list[float], step: float = 0.5) -> Graph:
    """A convolution of two output channels, data and weight quantized."""
    x = GraphInput("x", TensorType((1, 1, 2, 2), F32))
    data = apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(step, 4)), x))
    scales = tuple(float(np.float32(s)) for s in weight_scales)
    axis = 0 if len(scales) > 1 else None
    elem = QuantizedType(I8, F32, scales, (0,) * len(scales), axis, -128, 127)
    weight = apply(quant.Dequantize(), const(np.ones((2, 1, 1, 1), np.int8), elem))
    return Graph((x,), (apply(CONV, data, weight, bias, name="y", origins=(Origin("layer", "Conv"),)),), ("y",))


def stored(graph: Graph) -> tuple[Array, QuantizedType]:
    dequantized = graph.outputs[0].producer.operands[2]
    assert isinstance(dequantized.producer.kind, quant.Dequantize)
    value = dequantized.producer.operands[0]
    return constant_data(value).read(), value.type.elem


def test_per_channel_by_hand(run) -> None:
    # Steps 0.25 · 0.5 and 0.0625 · 0.5; 0.3125 / 0.125 = 2.5 rounds to even.
    graph = quantized_layer(const(np.float32([0.3125, -1.0]), name="b"), [0.25, 0.0625])
    integers, elem = stored(run("quantize-bias", graph).graph)
    assert integers.dtype == np.int32
    assert integers.tolist() == [2, -32]
    assert (elem.storage, elem.axis, elem.zero_points) == (I32, 0, (0, 0))
    assert elem.scales == (0.125, 0.03125)


def test_per_tensor_by_hand(run) -> None:
    graph = quantized_layer(const(np.float32([0.4375, -1.0])), [0.25])
    integers, elem = stored(run("quantize-bias", graph).graph)
    assert integers.tolist() == [4, -8]  # 3.5 rounds to even
    assert (elem.axis, elem.scales) == (None, (0.125,))


def test_the_step_is_the_float32_product(run) -> None:
    graph = quantized_layer(const(np.float32([1.0, 1.0])), [0.1, 0.3], step=float(np.float32(0.7)))
    _, elem = stored(run("quantize-bias", graph).graph)
    assert elem.scales == tuple(float(np.float32(s) * np.float32(0.7)) for s in (0.1, 0.3))


def test_no_bias(run) -> None:
    graph = quantized_layer(None, [0.25])
    assert run("quantize-bias", graph).graph is graph


def test_running_twice_changes_nothing(run) -> None:
    graph = run("quantize-bias", quantized_layer(const(np.float32([1, 2])), [0.25])).graph
    assert run("quantize-bias", graph).graph is graph


def test_names(run) -> None:
    for bias, name in (
        (const(np.float32([1, 2]), name="b"), "b.quant"),
        (const(np.float32([1, 2])), "layer.bias.quant"),
    ):
        result = run("quantize-bias", quantized_layer(bias, [0.25])).graph
        assert result.outputs[0].producer.operands[2].producer.operands[0].name == name


def test_float_weight_is_refused(run) -> None:
    x = GraphInput("x", TensorType((1, 1, 2, 2), F32))
    data = apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(0.5)), x))
    graph = Graph((x,), (apply(CONV, data, const(np.ones((2, 1, 1, 1), np.float32))),), ("y",))
    with pytest.raises(UsageError, match="not weights quantized: the weight of"):
        run("quantize-bias", graph)


def test_overflow_names_the_layer_and_the_way_out(run) -> None:
    with pytest.raises(LimitError, match=r"layer: a quantized bias leaves int32 \[N9\].*quantize-weights"):
        run("quantize-bias", quantized_layer(const(np.float32([1e9, 0])), [2.0**-4]))
    # The largest int32 itself is fine.
    edge = quantized_layer(const(np.float32([-(2.0**31) * 0.125, 0])), [0.25])
    assert stored(run("quantize-bias", edge).graph)[0].tolist() == [-(2**31), 0]


def test_float_layers_keep_their_bias(run) -> None:
    x = GraphInput("x", TensorType((1, 1, 2, 2), F32))
    graph = Graph((x,), (apply(CONV, x, const(np.ones((2, 1, 1, 1), np.float32)), const(np.float32([1, 2]))),), ("y",))
    assert run("quantize-bias", graph).graph is graph
