"""to-ascend: the integer graph, by hand and against the QDQ graph it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UnsupportedError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.ops import ascend, nn, quant
from amctc.types import F32, I4, I8, I16, I32, U8, Array, QuantizedType, TensorType

RNG = np.random.default_rng(16)


def dq(value: Value, scale: float, zero: int) -> Value:
    elem = QuantizedType.per_tensor(float(np.float32(scale)), zero)
    return apply(quant.Dequantize(), apply(quant.Quantize(elem), value, name=f"{value.name}.quant"))


def stored(array: Array, elem: QuantizedType, name: str) -> Value:
    return apply(quant.Dequantize(), const(array.astype(elem.dtype), elem, name=name))


def layer(
    kind: nn.Layer, shape: tuple[int, ...], weight: Array, scales: Array, bias: Array | None, step: float, zero: int
) -> Graph:
    """A quantized layer; ``weight`` and ``bias`` are integers, ``scales`` [O] those of the weight."""
    x = GraphInput("x", TensorType(shape, F32))
    scales = np.asarray(scales, np.float32)
    axis = nn.weight_channel_axis(kind, TensorType(weight.shape, F32))
    w = stored(weight, QuantizedType.per_axis(scales, axis), "w.quant")
    operands = [dq(x, step, zero), w]
    if bias is not None:
        elem = QuantizedType.per_axis(scales * np.float32(step), 0, I32)
        operands.append(stored(bias, elem, "b.quant"))
    return Graph((x,), (apply(kind, *operands, name="y", origins=(Origin("fc", "Gemm"),)),), ("y",))


def test_numbers_by_hand(run, chip) -> None:
    # q = x / 0.5 - 3; acc = 2·(q0 + 3) - (q1 + 3) + 5 in steps of 0.25 · 0.5.
    graph = layer(nn.Gemm(), (1, 2), np.asarray([[2], [-1]]), np.float32([0.25]), np.asarray([5]), 0.5, -3)
    lowered = run("to-ascend", graph).graph
    np.testing.assert_array_equal(chip(lowered, x=np.float32([[4.0, -1.5]]))["y"], [[(2 * 8 + 3 + 5) * 0.125]])
    quantize, matmul, dequantize = (
        next(op for op in lowered.ops if isinstance(op.kind, k)) for k in (ascend.Quant, ascend.MatMul, ascend.Dequant)
    )
    assert quantize.kind == ascend.Quant(2.0, -3, I8)  # the reciprocal of the step (N1)
    assert matmul.kind == ascend.MatMul(False, -3)  # the offset, not folded into the bias (N8)
    assert constant_data(matmul.operands[1]).read().tolist() == [[2], [-1]]
    assert matmul.operands[1].type.elem == I8
    assert (constant_data(matmul.operands[2]).read().tolist(), matmul.operands[2].type.elem) == ([5], I32)
    assert dequantize.kind == ascend.Dequant(1)
    assert constant_data(dequantize.operands[1]).read().tolist() == [0.125]
    assert dequantize.operands[1].name == "fc.dequant.param"


LAYERS: dict[str, tuple[nn.Layer, tuple[int, ...], tuple[int, ...]]] = {
    "conv": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), (2, 3, 5, 6), (4, 3, 3, 3)),
    "strided": (nn.Conv((2, 1), (1, 0, 2, 1), (1, 2)), (1, 3, 7, 6), (4, 3, 3, 2)),
    "depthwise": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 4), (1, 4, 5, 5), (4, 1, 3, 3)),
    "grouped": (nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 2), (1, 4, 3, 3), (6, 2, 1, 1)),
    "1-d": (nn.Conv((1,), (2, 1), (1,)), (2, 3, 8), (4, 3, 3)),
    "3-d": (nn.Conv((1, 1, 1), (1,) * 6, (1, 1, 1)), (1, 2, 3, 4, 3), (2, 2, 2, 3, 2)),
    "gemm": (nn.Gemm(), (3, 8), (8, 5)),
    "gemm transposed": (nn.Gemm(trans_b=True), (3, 8), (5, 8)),
    "matmul": (nn.MatMul(), (2, 3, 8), (8, 5)),
}


@pytest.mark.parametrize("zero", [0, -128, 57])
@pytest.mark.parametrize("activation", [None, nn.Relu(), nn.LeakyRelu(0.1), nn.Clip(0.0, 6.0)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_agrees_with_the_qdq_graph(name: str, activation: nn.Activation | None, zero: int, run, chip, real) -> None:
    """Equal but for the truncated multiplier (N12, 2^-10) and the float16 result (2^-11): padding counts as offset."""
    from dataclasses import replace

    kind, shape, w = LAYERS[name]
    out = w[nn.weight_channel_axis(kind, TensorType(w, F32))]
    graph = layer(
        replace(kind, activation=activation), shape, RNG.integers(-128, 128, w),
        RNG.uniform(0.01, 0.03, out).astype(np.float32), RNG.integers(-500, 500, out), 0.02, zero,
    )  # fmt: skip
    x = (RNG.standard_normal(shape) * 2).astype(np.float32)
    lowered = run("to-ascend", graph).graph
    a, b = real(graph, x=x)["y"], chip(lowered, x=x)["y"]
    # N5: x / s and x · (1/s) may round to neighbouring steps; on these data they do not (checked next).
    codes_a = np.clip(np.rint(x / np.float32(0.02)) + zero, -128, 127)
    codes_b = np.clip(np.rint(x * (np.float32(1) / np.float32(0.02)) + np.float32(zero)), -128, 127)
    np.testing.assert_array_equal(codes_a, codes_b)
    np.testing.assert_allclose(a, b, rtol=2.0**-9, atol=1e-6)


def test_padding_counts_as_zero_not_as_code_zero(run, chip) -> None:
    graph = layer(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), (1, 1, 1, 1), np.full((1, 1, 3, 3), 2), [1.0], None, 1.0, 100)
    assert chip(run("to-ascend", graph).graph, x=np.float32([[[[7.0]]]]))["y"].tolist() == [[[[14.0]]]]


def test_activation_follows_the_dequantizer(run) -> None:
    graph = layer(nn.Gemm(activation=nn.Relu()), (1, 2), np.ones((2, 1)), [0.5], None, 0.5, 0)
    lowered = run("to-ascend", graph).graph
    assert [op.kind.op_name for op in lowered.ops if op.operands] == [
        "ascend.quant", "ascend.matmul", "ascend.dequant", "nn.relu",
    ]  # fmt: skip
    assert lowered.outputs[0].name == "y"


def test_integers_flow_through_pools_and_reshapes(run, chip, real) -> None:
    x = GraphInput("x", TensorType((1, 2, 4, 4), F32))
    q = apply(quant.Quantize(QuantizedType.per_tensor(0.25, 5)), x)
    pooled = apply(nn.MaxPool((2, 2), (1, 1, 1, 1), (1, 1), (3, 3)), q)
    y = apply(quant.Dequantize(), apply(nn.Flatten(), apply(nn.Concat(1), pooled, pooled)))
    graph = Graph((x,), (y,), ("y",))
    lowered = run("to-ascend", graph).graph
    assert all(isinstance(r.type.elem, type(I8)) for op in lowered.ops for r in op.results)
    assert any(op.kind.op_name == "nn.max_pool" and op.result.type.elem == I8 for op in lowered.ops)
    feed = RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(real(graph, x=feed)["y"], chip(lowered, x=feed)["y"], rtol=2.0**-10)


def test_float_readers_get_anti_quant(run, chip) -> None:
    x = GraphInput("x", TensorType((3,), F32))
    graph = Graph((x,), (apply(nn.Relu(), dq(x, 0.5, -3)),), ("y",))
    lowered = run("to-ascend", graph).graph
    (anti,) = (op.kind for op in lowered.ops if isinstance(op.kind, ascend.AntiQuant))
    assert (anti.scale, anti.offset) == (0.5, 3)  # N20: minus the quantizer's offset
    assert chip(lowered, x=np.float32([1.2, -7, 100]))["y"].tolist() == [1.0, 0.0, 65.0]


def test_a_value_read_both_ways_is_quantized_once(run) -> None:
    x = GraphInput("x", TensorType((1, 2), F32))
    data = dq(x, 0.5, 0)
    w = stored(np.ones((2, 2)), QuantizedType.per_tensor(0.5), "w")
    lowered = run("to-ascend", Graph((x,), (apply(nn.Gemm(), data, w), apply(nn.Relu(), data)), ("a", "b"))).graph
    names = [op.kind.op_name for op in lowered.ops]
    assert names.count("ascend.quant") == names.count("ascend.anti_quant") == 1


def test_dequantized_constants_of_float_ops_become_float(run) -> None:
    x = GraphInput("x", TensorType((2,), F32))
    c = stored(np.asarray([3, -4]), QuantizedType.per_tensor(0.5, 1), "c")
    lowered = run("to-ascend", Graph((x,), (apply(nn.Add(), x, c),), ("y",))).graph
    (constant,) = (op for op in lowered.ops if not op.operands)
    assert constant_data(constant.result).read().tolist() == [1.0, -2.5]


@pytest.mark.parametrize("storage", [U8, I4])
def test_activations_without_a_quantizer_are_refused(storage: object, run) -> None:
    x = GraphInput("x", TensorType((2,), F32))
    elem = QuantizedType.per_tensor(0.5, 0, storage)  # type: ignore[arg-type]
    graph = Graph((x,), (apply(quant.Dequantize(), apply(quant.Quantize(elem), x)),), ("y",))
    with pytest.raises(UnsupportedError, match=f"no quantizer of the target gives quant<{storage}") as caught:
        run("to-ascend", graph)
    assert "int8" in (caught.value.remedy or "")


def test_conv_transpose_is_refused(run) -> None:
    x = GraphInput("x", TensorType((1, 2, 3, 3), F32))
    w = stored(np.ones((2, 2, 1, 1)), QuantizedType.per_tensor(0.5), "w")
    graph = Graph((x,), (apply(nn.ConvTranspose((1, 1), (0,) * 4, (1, 1)), dq(x, 0.5, 0), w),), ("y",))
    with pytest.raises(UnsupportedError, match="ConvTranspose is not simulated yet") as caught:
        run("to-ascend", graph)
    assert "legalize" in (caught.value.remedy or "")


def test_float_graphs_pass_through(run) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    graph = Graph((x,), (apply(nn.MatMul(), x, const(np.ones((3, 2), np.float32))),), ("y",))
    assert run("to-ascend", graph).graph is graph


def test_a_float_bias_is_refused(run) -> None:
    x = GraphInput("x", TensorType((1, 2), F32))
    w = stored(np.ones((2, 2)), QuantizedType.per_tensor(0.5), "w")
    graph = Graph((x,), (apply(nn.Gemm(), dq(x, 0.5, 0), w, const(np.ones(2, np.float32))),), ("y",))
    with pytest.raises(UsageError, match="not biases quantized"):
        run("to-ascend", graph)


def test_int16_activations_of_float_ops(run, chip) -> None:
    x = GraphInput("x", TensorType((3,), F32))
    elem = QuantizedType.per_tensor(2.0**-10, 0, I16)
    graph = Graph((x,), (apply(quant.Dequantize(), apply(quant.Quantize(elem), x)),), ("y",))
    y = chip(run("to-ascend", graph).graph, x=np.float32([0.5, -1.25, 100.0]))["y"]
    np.testing.assert_allclose(y, [0.5, -1.25, 32767 / 1024], rtol=2.0**-10)
