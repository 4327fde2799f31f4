"""adopt-weights: weights that came with zero points become symmetric int8, exactly where their integers allow it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, I4, I8, I16, I32, U8, Array, QuantizedType, TensorType

ROWS = GraphInput("x", TensorType((2, 4), F32))
IMAGE = GraphInput("x", TensorType((1, 4, 3, 3), F32))
DATA = QuantizedType.per_tensor(0.5, 4)


def dq(value: Value, elem: QuantizedType = DATA) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(elem), value))


def stored(integers: Array, elem: QuantizedType) -> Value:
    return apply(quant.Dequantize(), const(np.asarray(integers, elem.dtype), elem, name="w"))


def steps(*scales: float) -> QuantizedType:
    return QuantizedType(I32, F32, scales, (0,) * len(scales), 0 if len(scales) > 1 else None, *I32.integer_range)


def layer(kind: nn.Layer, *operands: Value, x: GraphInput = ROWS) -> Graph:
    return Graph((x,), (apply(kind, *operands, name="y", origins=(Origin("layer", "Gemm"),)),), ("y",))


def numbers(value: Value | None) -> tuple[Array, QuantizedType, Array]:
    """The integers under a dequantized constant, their type, and the numbers they stand for."""
    assert value is not None
    op = value.producer
    assert op is not None
    assert isinstance(op.kind, quant.Dequantize)
    data, elem = constant_data(op.operands[0]), op.operands[0].type.elem  # type: ignore[union-attr]
    assert data is not None
    assert isinstance(elem, QuantizedType)
    return data.read(), elem, quant.dequantized(data, elem).read()


def the_layer(graph: Graph) -> Op:
    (found,) = (op for op in graph.ops if isinstance(op.kind, nn.Layer))
    return found


def test_integers_that_fit_are_kept_and_the_bias_with_them(run) -> None:
    integers = np.array([[-100, 0, 130 - 256 + 3], [3, 27, -28], [100, 99, 98], [-1, -2, -3]], np.int8)
    bias = stored(np.array([5, -6, 7]), steps(0.125))
    graph = layer(nn.MatMul(), dq(ROWS), stored(integers, QuantizedType.per_tensor(0.25, 3)), bias)
    result = run("adopt-weights", graph)
    kept, elem, real = numbers(the_layer(result.graph).operands[1])
    assert elem == QuantizedType.per_tensor(0.25)
    assert kept.tolist() == (integers.astype(int) - 3).tolist()
    np.testing.assert_array_equal(real, (integers.astype(np.float32) - 3) * 0.25)
    assert the_layer(result.graph).operands[2] is bias
    assert result.notes == ()
    assert run("legalize", result.graph).graph is result.graph


def test_only_channels_beyond_int8_are_rounded_again(run) -> None:
    """Column 0 reaches 127 steps and stays; column 1 reaches 254 and gets steps twice as wide."""
    integers = np.array([[127, 254], [0, 0], [1, 3], [50, 100]], np.uint8)
    graph = layer(nn.Gemm(), dq(ROWS), stored(integers, QuantizedType.per_tensor(0.25, 0, U8)),
                  stored(np.array([8, 8]), steps(0.125)))  # fmt: skip
    result = run("adopt-weights", graph)
    kept, elem, real = numbers(the_layer(result.graph).operands[1])
    assert (elem.scales, elem.zero_points, elem.axis, elem.storage) == ((0.25, 0.5), (0, 0), 1, I8)
    assert kept.tolist() == [[127, 127], [0, 0], [1, 2], [50, 50]]  # 1.5 steps round to even
    np.testing.assert_array_equal(real[:, 0], integers[:, 0] * np.float32(0.25))
    (note,) = result.notes
    assert note.layer == "layer"
    assert note.text == "weights rounded a second time in 1 of 2 channels: weights must be symmetric int8 (N10)"
    bias = run("quantize-bias", result.graph).graph
    assert numbers(the_layer(bias).operands[2])[0].tolist() == [8, 4]  # 1.0 in steps of 0.125 and 0.25
    assert any(isinstance(op.kind, ascend.MatMul) for op in run("legalize,to-ascend", bias).graph.ops)


def test_zero_points_per_channel(run) -> None:
    elem = QuantizedType(I8, F32, (0.25, 0.5), (-128, 7), 0, -128, 127)
    integers = np.array([[-128, 127, 0, -1], [0, 7, 8, -120]], np.int8)
    graph = layer(nn.Gemm(trans_b=True), dq(ROWS), stored(integers, elem))
    kept, to, _ = numbers(the_layer(run("adopt-weights", graph).graph).operands[1])
    assert to.scales == (pytest.approx(255 * 0.25 / 127), 0.5)
    assert kept.tolist() == [[0, 127, 64, 63], [-7, 0, 1, -127]]


def test_scales_over_input_channels_are_replaced(run) -> None:
    elem = QuantizedType.per_axis((1.0, 0.5, 0.25, 0.125), 0)
    graph = layer(nn.MatMul(), dq(ROWS), stored(np.full((4, 2), 8), elem))
    result = run("adopt-weights", graph)
    kept, to, _ = numbers(the_layer(result.graph).operands[1])
    assert to.axis == 1
    assert kept[:, 0].tolist() == [127, 64, 32, 16]  # 8, 4, 2 and 1 in steps of 8/127
    assert "2 of 2 channels: weight scales do not run over output channels" in result.notes[0].text


def test_groups_of_a_transposed_convolution_share_scales(run, real) -> None:
    kind = nn.ConvTranspose((2, 2), (0,) * 4, (1, 1), 2)
    elem = QuantizedType(U8, F32, (0.25, 0.5), (10, 100), 1, 0, 255)
    integers = np.array([[5, 90], [30, 130], [10, 99], [137, 227]], np.uint8).reshape(4, 2, 1, 1)
    bias = stored(np.arange(4), steps(0.125, 0.25, 0.125, 0.25))
    graph = layer(kind, dq(IMAGE), stored(integers, elem), bias, x=IMAGE)
    result = run("adopt-weights", graph)
    assert numbers(the_layer(result.graph).operands[1])[1] == QuantizedType.per_axis((0.25, 0.5), 1)
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(real(graph, x=x)["y"], real(result.graph, x=x)["y"])


def test_a_bias_that_leaves_int32_widens_its_channel(run) -> None:
    """PyTorch gives a channel without weights the step 2^-23: a bias of 200 would be 2^24 · 200 steps of 2^-24."""
    elem = QuantizedType.per_axis((2.0**-23, 0.25), 1)
    bias = const(np.array([200.0, 200.0], np.float32))
    graph = layer(nn.Gemm(), dq(ROWS), stored([[0, 1], [0, 2], [0, 3], [0, 4]], elem), bias)
    result = run("adopt-weights,quantize-weights,quantize-bias,legalize", graph)
    integers, to, _ = numbers(the_layer(result.graph).operands[1])
    assert integers.tolist() == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert to.scales[1] == 0.25
    np.testing.assert_allclose(numbers(the_layer(result.graph).operands[2])[2], [200, 200], rtol=2.0**-20)
    assert [n.text for n in result.notes] == [
        "1 channels have no weights", "weights rounded a second time in 1 of 2 channels: a bias would leave int32 (N9)"
    ]  # fmt: skip


def test_a_bias_in_other_steps_becomes_float(run) -> None:
    weight = stored([[1], [2], [3], [4]], QuantizedType.per_tensor(0.25))
    graph = layer(nn.Gemm(), dq(ROWS), weight, stored([3], QuantizedType.per_tensor(0.5)))
    result = run("adopt-weights", graph).graph
    data = constant_data(the_layer(result).operands[2])
    assert data is not None
    assert data.read().tolist() == [1.5]
    assert the_layer(result).operands[1] is weight


ODD = QuantizedType.per_tensor(0.25, 3)
W4 = QuantizedType(I4, F32, (0.25,), (1,), None, -8, 7)
BLOCKS = QuantizedType(I8, F32, (0.25,) * 4, (1,) * 4, 0, -128, 127, 2)
STAYS = {
    "symmetric": layer(nn.MatMul(), dq(ROWS), stored(np.ones((4, 2)), QuantizedType.per_tensor(0.25))),
    "int4": layer(nn.MatMul(), dq(ROWS), stored(np.ones((4, 2)), W4)),
    "int16": layer(nn.MatMul(), dq(ROWS), stored(np.ones((4, 2)), QuantizedType.per_tensor(0.25, 3, I16))),
    "blocks": layer(nn.MatMul(), dq(ROWS), stored(np.ones((4, 2)), BLOCKS)),
    "float data": layer(nn.MatMul(), ROWS, stored(np.ones((4, 2)), ODD)),
    "unsigned data": layer(nn.MatMul(), dq(ROWS, QuantizedType.per_tensor(0.25, 3, U8)), stored(np.ones((4, 2)), ODD)),
    "float weight": layer(nn.MatMul(), dq(ROWS), const(np.ones((4, 2), np.float32))),
    "two computed sides": layer(nn.MatMul(), dq(ROWS), apply(nn.Transpose((1, 0)), dq(ROWS, ODD))),
    "no integer form": layer(nn.Gemm(2.0), dq(ROWS), stored(np.ones((4, 2)), ODD)),
}


@pytest.mark.parametrize("name", STAYS)
def test_others_stay_as_they_came(name: str, run) -> None:
    result = run("adopt-weights", STAYS[name])
    assert result.graph is STAYS[name]
    assert result.notes == ()


@st.composite
def weights(draw: st.DrawFn) -> tuple[Array, QuantizedType]:
    """Integers [4, 3] with zero points, per tensor or per output channel."""
    storage = draw(st.sampled_from((I8, U8)))
    low, high = storage.integer_range
    count = draw(st.sampled_from((1, 3)))
    scales = tuple(
        2.0 ** draw(st.integers(-20, 10)) * draw(st.sampled_from((1.0, 1.5, 1.6015625))) for _ in range(count)
    )
    zeros = tuple(draw(st.integers(low, high)) for _ in range(count))
    integers = draw(st.lists(st.integers(low, high), min_size=12, max_size=12))
    elem = QuantizedType(storage, F32, scales, zeros, None if count == 1 else 1, low, high)
    return np.array(integers, storage.dtype).reshape(4, 3), elem


@given(weights())
def test_a_weight_moves_by_half_a_step_at_most(drawn: tuple[Array, QuantizedType]) -> None:
    integers, elem = drawn
    graph = layer(nn.MatMul(), dq(ROWS), stored(integers, elem))
    result = Pipeline.parse("adopt-weights").run(graph, Context()).graph
    _, to, after = numbers(the_layer(result).operands[1])
    centred = integers.astype(int) - np.array(elem.zero_points)
    before, fits = centred * np.array(elem.scales), ((centred >= -128) & (centred <= 127)).all(0)
    np.testing.assert_array_equal(after[:, fits], before[:, fits])
    assert (to.storage, set(to.zero_points)) == (I8, {0})
    # Half of the largest new step, max|w| / 127; |w| beyond int8 is at least 128 old steps, far above float32 rounding.
    assert (np.abs(after - before) <= np.abs(before).max(0) / 254 * (1 + 2.0**-20)).all()
