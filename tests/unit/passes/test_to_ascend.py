"""to-ascend: the integer graph, by hand and against the QDQ graph it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UnsupportedError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile
from amctc.types import F16, F32, I4, I8, I16, I32, U8, Array, QuantizedType, ScalarType, TensorType

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
        groups = kind.group if isinstance(kind, nn.ConvTranspose) else 1
        elem = QuantizedType.per_axis(np.tile(scales * np.float32(step), groups), 0, I32)
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
    "transposed": (nn.ConvTranspose((2, 2), (1, 0, 1, 1), (1, 1)), (2, 3, 4, 3), (3, 4, 3, 2)),
    "transposed groups": (nn.ConvTranspose((2, 3), (0,) * 4, (1, 1), 2, (1, 2)), (1, 4, 3, 2), (4, 3, 2, 2)),
    "transposed depthwise": (nn.ConvTranspose((2, 2), (0,) * 4, (1, 1), 3), (1, 3, 4, 4), (3, 1, 2, 2)),
    "transposed 1-d": (nn.ConvTranspose((3,), (1, 2), (1,)), (2, 3, 5), (3, 4, 4)),
    "transposed 3-d": (nn.ConvTranspose((2, 1, 2), (0, 1, 0, 1, 1, 0), (1, 1, 1)), (1, 2, 2, 3, 2), (2, 3, 2, 3, 2)),
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
    groups = kind.group if isinstance(kind, nn.ConvTranspose) else 1
    graph = layer(
        replace(kind, activation=activation), shape, RNG.integers(-128, 128, w),
        RNG.uniform(0.01, 0.03, out).astype(np.float32), RNG.integers(-500, 500, out * groups), 0.02, zero,
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


def test_a_weight_of_two_layers_is_stored_once(run) -> None:
    x = GraphInput("x", TensorType((1, 2), F32))
    w = stored(np.ones((2, 2)), QuantizedType.per_tensor(0.5), "w")
    first, second = (apply(nn.Gemm(), dq(x, step, 0), w) for step in (0.5, 0.25))
    lowered = run("to-ascend", Graph((x,), (first, second), ("a", "b"))).graph
    weights = [op.operands[1] for op in lowered.ops if isinstance(op.kind, ascend.MatMul)]
    assert len(weights) == 2
    assert weights[0] is weights[1]


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


POOLS: dict[str, nn.AveragePool] = {
    "plain": nn.AveragePool((2, 2), (0,) * 4, (1, 1), (2, 2)),
    "counted padding": nn.AveragePool((1, 2), (1, 1, 1, 1), (1, 1), (3, 3), count_include_pad=True),
    "ceil mode that adds nothing": nn.AveragePool((2, 2), (0,) * 4, (1, 1), (2, 2), ceil_mode=True),
}


@pytest.mark.parametrize("zero", [0, -128, 57])
@pytest.mark.parametrize("name", POOLS)
def test_average_pool_agrees_with_the_qdq_graph(name: str, zero: int, run, chip, real) -> None:
    """Equal but for the truncated multiplier (N12, 2^-10) and the float16 result (2^-11)."""
    x = GraphInput("x", TensorType((2, 3, 6, 4), F32))
    graph = Graph(
        (x,), (apply(POOLS[name], dq(x, 0.25, zero), name="y", origins=(Origin("p", "AveragePool"),)),), ("y",)
    )
    lowered = run("to-ascend", graph).graph
    feed = (RNG.standard_normal((2, 3, 6, 4)) * 4).astype(np.float32)
    np.testing.assert_allclose(chip(lowered, x=feed)["y"], real(graph, x=feed)["y"], rtol=2.0**-9, atol=1e-6)
    assert [op.kind.op_name for op in lowered.ops if op.operands] == [
        "ascend.quant",
        "ascend.sum_pool",
        "ascend.dequant",
    ]
    (parameter,) = (op for op in lowered.ops if not op.operands)
    assert parameter.result.name == "p.dequant.param"
    assert constant_data(parameter.result).read().tolist() == [0.25]  # the divisor stands in the dequantizer


def test_average_by_hand(run, chip) -> None:
    """Codes 4 and -3 less the offset 1, over four positions with the counted padding: (3 - 4) / 4 · 0.5."""
    x = GraphInput("x", TensorType((1, 1, 2), F32))
    pool = nn.AveragePool((1,), (1, 1), (1,), (4,), count_include_pad=True)
    graph = Graph((x,), (apply(pool, dq(x, 0.5, 1)),), ("y",))
    assert chip(run("to-ascend", graph).graph, x=np.float32([[[1.5, -2.0]]]))["y"].tolist() == [[[-0.125]]]


def test_an_average_of_different_counts_is_refused(run) -> None:
    x = GraphInput("x", TensorType((1, 2, 3, 3), F32))
    graph = Graph((x,), (apply(nn.AveragePool((1, 1), (1,) * 4, (1, 1), (3, 3)), dq(x, 0.5, 0)),), ("y",))
    with pytest.raises(UnsupportedError) as caught:
        run("to-ascend", graph)
    assert str(caught.value) == (
        "nn.average_pool: an int8 average of windows that hold different numbers of inputs [N26]; "
        "run legalize before to-ascend"
    )


def two_sided(a_zero: int = 0, b_zero: int = 0) -> Graph:
    a, b = GraphInput("a", TensorType((2, 3, 5, 40), F32)), GraphInput("b", TensorType((3, 40, 6), F32))
    y = apply(nn.MatMul(), dq(a, 0.02, a_zero), dq(b, 0.03, b_zero), origins=(Origin("scores", "MatMul"),), name="y")
    return Graph((a, b), (y,), ("y",))


def test_a_product_of_two_computed_sides(run, chip, real) -> None:
    graph = two_sided()
    lowered = run("legalize,to-ascend", graph).graph
    feeds = {v.name: RNG.standard_normal([int(d) for d in v.type.dims]).astype(np.float32) for v in graph.inputs}
    np.testing.assert_allclose(chip(lowered, **feeds)["y"], real(graph, **feeds)["y"], rtol=2.0**-9, atol=1e-4)
    product, dequantize = lowered.ops[-1].operands[0].producer, lowered.ops[-1]
    assert (product.kind, dequantize.kind) == (ascend.BatchMatMul(), ascend.Dequant(3))
    scale = np.float32(0.02) * np.float32(0.03)
    assert constant_data(dequantize.operands[1]).read().tolist() == [scale]


@pytest.mark.parametrize(
    ("graph", "target", "reason"),
    [
        (two_sided(b_zero=3), "ascend910b1", "two computed sides must be symmetric int8, per tensor"),
        (two_sided(), "ascend310p3", "both sides are computed, which does not pay on ascend310p3"),
    ],
)
def test_products_of_two_computed_sides_that_stay_in_float(graph: Graph, target: str, reason: str, run) -> None:
    result = run("legalize,to-ascend", graph, target=target)
    assert [n.text for n in result.notes if n.layer == "scores"] == [f"left in float: {reason}"]
    assert {op.kind.op_name for op in result.graph.ops} <= {"nn.clip", "nn.matmul"}


def weight_only(kind: nn.MatMul | nn.Gemm, elem: QuantizedType, *, bias: bool = False, rank: int = 2) -> Graph:
    x = GraphInput("x", TensorType(("N", 3, 6)[-rank:], F32))
    turned = isinstance(kind, nn.Gemm) and kind.trans_b
    w = stored(RNG.integers(elem.low, elem.high + 1, (4, 6) if turned else (6, 4)), elem, "w.quant")
    more = [const(np.arange(4, dtype=np.float32))] if bias else []
    return Graph((x,), (apply(kind, x, w, *more, name="y", origins=(Origin("fc", "MatMul"),)),), ("y",))


def blocks(axis: int, storage: ScalarType = I8) -> QuantizedType:
    """Two blocks of four and two inputs for each of four outputs, with zero points."""
    scales = tuple(map(float, RNG.uniform(0.01, 0.1, 8).astype(np.float32)))
    return QuantizedType(storage, F32, scales, tuple(range(-4, 4)), axis, *storage.integer_range, 4)


CHANNELS = QuantizedType.per_axis((0.5, 0.25, 0.125, 1.0), 1)


@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        (weight_only(nn.MatMul(), CHANNELS, rank=3), ascend.WeightQuantMatMul()),
        (weight_only(nn.MatMul(nn.Relu()), QuantizedType.per_tensor(0.5, 3)), ascend.WeightQuantMatMul()),
        (weight_only(nn.Gemm(), blocks(0, I4), bias=True), ascend.WeightQuantMatMul(group=4)),
        (weight_only(nn.Gemm(trans_b=True), blocks(1)), ascend.WeightQuantMatMul(True, 4)),
    ],
)
def test_weight_only_products(graph: Graph, kind: ascend.WeightQuantMatMul, run, chip, real) -> None:
    lowered = run("legalize,to-ascend", graph).graph
    (product,) = (op for op in lowered.ops if isinstance(op.kind, ascend.WeightQuantMatMul))
    assert product.kind == kind
    assert product.operands[2].name == "fc.scale"
    feed = RNG.standard_normal((3, 6) if graph.inputs[0].type.rank == 2 else (2, 3, 6)).astype(np.float32)
    np.testing.assert_allclose(chip(lowered, x=feed)["y"], real(graph, x=feed)["y"], rtol=1e-4, atol=1e-4)
    # In float16: data, scale, weight and result are rounded (2^-11 each), of sums of six terms of at most 5 · 13.
    half = chip(run("demote-float", lowered).graph, x=feed)["y"]
    np.testing.assert_allclose(half, real(graph, x=feed)["y"], rtol=0, atol=6 * 65 * 4 * 2.0**-11)
    assert half.dtype == np.float32
    assert not np.array_equal(half, chip(lowered, x=feed)["y"])


def test_scales_of_a_weight_only_product_stay_float32(run) -> None:
    demoted = run("to-ascend,demote-float", weight_only(nn.MatMul(), CHANNELS, bias=True)).graph
    (product,) = (op for op in demoted.ops if isinstance(op.kind, ascend.WeightQuantMatMul))
    assert [None if o is None else o.type.elem for o in product.operands] == [F16, I8, F32, None, F16]
    assert run("demote-float", demoted).graph is demoted


def test_other_weights_under_float_data_become_float(run) -> None:
    x = GraphInput("x", TensorType((1, 2, 3, 3), F32))
    w = stored(np.ones((2, 2, 1, 1)), QuantizedType.per_tensor(0.5), "w")
    graph = Graph((x,), (apply(nn.Conv((1, 1), (0,) * 4, (1, 1)), x, w),), ("y",))
    assert [op.kind.op_name for op in run("to-ascend", graph).graph.ops if op.operands] == ["nn.conv"]


def pooled_maximum(x: GraphInput, zero: int = 5) -> Value:
    return apply(nn.MaxPool((2, 2), (1, 1, 1, 1), (1, 1), (3, 3)), dq(x, 0.25, zero), name="y")


def test_max_pool_of_a_dequantized_value_compares_the_integers(run, chip, real) -> None:
    x = GraphInput("x", TensorType((1, 2, 4, 4), F32))
    graph = Graph((x,), (pooled_maximum(x),), ("y",))
    lowered = run("to-ascend", graph).graph
    names = [op.kind.op_name for op in lowered.ops if op.operands]
    assert names == ["ascend.quant", "nn.max_pool", "ascend.anti_quant"]
    feed = RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(real(graph, x=feed)["y"], chip(lowered, x=feed)["y"])


def test_max_pool_stays_in_float_where_the_target_compares_there() -> None:
    x = GraphInput("x", TensorType((1, 2, 4, 4), F32))
    profile = load_profile("ascend910b1").replace_choice("max_pool_int8", "f16")
    result = Pipeline.parse("to-ascend").run(Graph((x,), (pooled_maximum(x),), ("y",)), Context(target=profile))
    names = [op.kind.op_name for op in result.graph.ops if op.operands]
    assert names == ["ascend.quant", "ascend.anti_quant", "nn.max_pool"]


@pytest.mark.parametrize(("zero", "quantizers"), [(5, 1), (4, 2)])
def test_what_a_quantizer_gave_already_is_not_quantized_again(zero: int, quantizers: int, run) -> None:
    x = GraphInput("x", TensorType((1, 2, 4, 4), F32))
    again = dq(pooled_maximum(x), 0.25, zero)
    w = stored(np.ones((2, 2, 1, 1)), QuantizedType.per_tensor(0.5), "w")
    y = apply(nn.Conv((1, 1), (0,) * 4, (1, 1)), again, w)
    names = [op.kind.op_name for op in run("to-ascend", Graph((x,), (y,), ("y",))).graph.ops]
    assert names.count("ascend.quant") == quantizers
    assert names.count("ascend.anti_quant") == quantizers - 1


def test_addition_of_quantized_values_is_one_of_float_values(run, chip) -> None:
    x = GraphInput("x", TensorType((2,), F32))
    graph = Graph((x,), (apply(nn.Add(), dq(x, 0.5, 0), x),), ("y",))
    lowered = run("legalize,to-ascend", graph).graph
    assert [op.kind.op_name for op in lowered.ops] == ["ascend.quant", "ascend.anti_quant", "nn.add"]
    assert chip(lowered, x=np.float32([1.3, -0.2]))["y"].tolist() == [
        np.float32(1.5) + np.float32(1.3),
        np.float32(-0.2),
    ]


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


@pytest.mark.parametrize("zero", [0, 128, 255])
def test_an_unsigned_output_is_quantized_signed_and_raised(zero: int, run, chip) -> None:
    """Integer models have a uint8 interface, and AscendQuant gives int8."""
    x = GraphInput("x", TensorType((2, 3), F32))
    y = apply(quant.Quantize(QuantizedType.per_tensor(0.5, zero, U8)), apply(nn.Neg(), x))
    lowered = run("to-ascend", Graph((x,), (y,), ("y",))).graph
    values = np.float32([[-1e9, -3.2, -0.25], [0, 3.2, 1e9]])
    expected = np.clip(np.rint(-values * 2) + zero, 0, 255).astype(np.uint8)
    got = chip(run("demote-float", lowered).graph, x=values)["y"]
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_an_activation_per_channel_is_refused(run) -> None:
    x = GraphInput("x", TensorType((1, 2), F32))
    elem = QuantizedType.per_axis((0.5, 0.25), 1)
    stored_x = GraphInput("q", TensorType((1, 2), elem))
    y = apply(nn.Add(), x, apply(quant.Dequantize(), stored_x, origins=(Origin("layer", "DequantizeLinear"),)))
    with pytest.raises(UnsupportedError) as caught:
        run("to-ascend", Graph((x, stored_x), (y,), ("y",)))
    assert str(caught.value) == "layer: an activation quantized per channel"
