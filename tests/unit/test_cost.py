"""The cost model against numbers worked out by hand from the formulas of the numerics page."""

from __future__ import annotations

from math import fsum

import numpy as np
import onnx
import pytest

from amctc.api import load
from amctc.cost import Estimate, OpCost, estimate, layer_macs, one_sample, with_batch
from amctc.cycles import CubeWork, cube_cycles, cube_work, value_bytes, vector_cycles
from amctc.errors import UnsupportedError
from amctc.examples import model_path
from amctc.ir import Graph, GraphInput, Op, Value, apply, build, const
from amctc.ops import ascend, nn
from amctc.ops.onnx import Node
from amctc.targets import load_profile
from amctc.types import F16, F32, I8, Dim, ScalarType, TensorType

A2 = load_profile("ascend910b1")  # 24 cube and 48 vector cores, 1850 MHz, 1.6 TB/s, fixpipe
A310P = load_profile("ascend310p3")  # 8 cube and 7 vector cores, 1060 MHz, 204 GB/s, vdeq_cast
A310 = load_profile("ascend310")  # 2 cores with a vector unit each


def given(*shape: Dim, elem: ScalarType = F32) -> GraphInput:
    return GraphInput("x", TensorType(shape, elem))


def weights(*shape: int, dtype: type = np.float32) -> Value:
    return const(np.zeros(shape, dtype))


def conv(x: Value, *shape: int, group: int = 1, pad: int = 1) -> Value:
    return apply(nn.Conv((1, 1), (pad,) * 4, (1, 1), group), x, weights(*shape))


def int8_conv(x: Value, *shape: int, group: int = 1) -> Value:
    return apply(ascend.Conv((1, 1), (1,) * 4, (1, 1), group), x, weights(*shape, dtype=np.int8))


def cost_of(value: Value, x: GraphInput, target: str = "ascend910b1") -> Estimate:
    return estimate(Graph((x,), (value,), ("y",)), load_profile(target))


def producer(value: Value) -> Op:
    assert value.producer is not None
    return value.producer


def only(result: Estimate) -> OpCost:
    (cost,) = result.ops
    return cost


def test_float_convolution() -> None:
    x = given("N", 64, 56, 56)
    cost = only(cost_of(conv(x, 128, 64, 3, 3), x))
    assert cost.macs == 56 * 56 * 128 * 64 * 9
    # 196 × 8 tiles of K1 = 64/16 · 9 = 36 cycles; ceil(1568 / 24) = 66 tiles on the busiest core
    assert cost.cube_cycles == 66 * 36
    assert cost.vector_cycles == 0
    assert cost.bytes == 2 * (64 * 3136 + 128 * 64 * 9 + 128 * 3136)
    assert cost.time_us == pytest.approx(2376 / 1850)
    assert cost.bound == "cube"


def test_int8_convolution_with_its_requantization() -> None:
    x = given("N", 64, 56, 56, elem=I8)
    y = apply(ascend.Requant(1), int8_conv(x, 128, 64, 3, 3), const(np.ones(128, np.uint64)))
    cost = only(cost_of(y, x))
    assert cost.op_name == "ascend.conv"
    assert cost.cube_cycles == 66 * 18  # C0 is 32: half the steps
    assert cost.vector_cycles == 0  # the fixpipe requantizes
    assert cost.bytes == 64 * 3136 + 128 * 64 * 9 + 128 * 8 + 128 * 3136  # no accumulator
    assert cost.time_us == pytest.approx(1188 / 1850)


def test_other_epilogues_use_the_vector_unit() -> None:
    x = given("N", 64, 56, 56, elem=I8)
    y = apply(ascend.Dequant(1), int8_conv(x, 128, 64, 3, 3), const(np.ones(128, np.uint64)))
    cost = only(cost_of(y, x, "ascend310p3"))
    assert cost.cube_cycles == 196 * 18  # 1568 tiles on 8 cores
    assert cost.vector_cycles == 3 * 448  # 401408 elements in blocks of 128 on 7 cores
    assert cost.bound == "memory"
    assert cost.time_us == pytest.approx((64 * 3136 + 73728 + 1024 + 2 * 401408) / 204e9 * 1e6)


def test_an_accumulator_that_is_read_elsewhere_is_memory() -> None:
    x = given("N", 32, 8, 8, elem=I8)
    acc = int8_conv(x, 16, 32, 3, 3)
    y = apply(ascend.Dequant(1), acc, const(np.ones(1, np.uint64)))
    layer, epilogue = estimate(Graph((x,), (y, acc), ("y", "acc")), A2).ops
    assert layer.bytes == 32 * 64 + 16 * 32 * 9 + 4 * 16 * 64
    assert epilogue.op_name == "ascend.dequant"


@pytest.mark.parametrize(
    ("group", "shape", "steps"),
    [
        (64, (64, 1, 3, 3), 33 * 9),  # 16 groups make one block: 4 · 196 tiles
        (2, (64, 32, 3, 3), 33 * 2 * 9),  # wide groups stay apart: 196 · 2 · 2 tiles of 2 · 9
        (4, (64, 16, 3, 3), 33 * 9),
    ],
)
def test_grouped_convolutions(group: int, shape: tuple[int, ...], steps: int) -> None:
    op = producer(conv(given(1, 64, 56, 56), *shape, group=group))
    assert cube_cycles(op, A2) == steps
    assert layer_macs(op) == 3136 * 64 * shape[1] * 9


def test_int8_depthwise_merges_32_groups() -> None:
    op = producer(int8_conv(given(1, 64, 56, 56, elem=I8), 64, 1, 3, 3, group=64))
    assert cube_cycles(op, A2) == 33 * 9  # 2 merged groups × 196 × N1 = 2


def test_convolutions_of_other_ranks() -> None:
    line = apply(nn.Conv((1,), (0, 0), (1,)), given(1, 4, 20), weights(8, 4, 5))
    assert layer_macs(producer(line)) == 16 * 8 * 4 * 5
    assert cube_cycles(producer(line), A2) == 5
    room = apply(nn.Conv((1, 1, 1), (0,) * 6, (1, 1, 1)), given(1, 2, 4, 4, 4), weights(3, 2, 2, 2, 2))
    assert layer_macs(producer(room)) == 27 * 3 * 2 * 8


def test_transposed_convolution() -> None:
    op = producer(apply(nn.ConvTranspose((2, 2), (0,) * 4, (1, 1)), given(1, 8, 5, 5), weights(8, 4, 3, 3)))
    assert layer_macs(op) == 8 * 25 * 4 * 9
    assert cube_cycles(op, A2) == 1  # 2 · 9 tiles of one step


def test_int8_transposed_convolution() -> None:
    data = given(1, 64, 5, 5, elem=I8)
    op = producer(apply(ascend.ConvTranspose((2, 2), (0,) * 4, (1, 1)), data, weights(64, 4, 3, 3, dtype=np.int8)))
    assert layer_macs(op) == 64 * 25 * 4 * 9
    assert cube_cycles(op, A2) == 2  # 2 · 9 tiles of 64/32 steps


def test_int8_product_of_two_computed_sides() -> None:
    left = given(2, 3, 40, 64, elem=I8)
    op = producer(apply(ascend.BatchMatMul(), left, GraphInput("w", TensorType((2, 3, 64, 50), I8))))
    assert layer_macs(op) == 6 * 40 * 64 * 50
    assert cube_cycles(op, A2) == 3 * 2  # 6 · 3 · 4 = 72 tiles of 64/32


def test_average_pool_and_what_follows_share_the_vector_unit() -> None:
    """Nothing of the sum goes through memory: int8 in, int8 out."""
    x = given(1, 64, 56, 56, elem=I8)
    sums = apply(ascend.SumPool((2, 2), (0,) * 4, (1, 1), (2, 2)), x)
    cost = only(cost_of(apply(ascend.Requant(1), sums, const(np.ones(1, np.uint64))), x))
    assert (cost.macs, cost.cube_cycles) == (None, 0)
    assert cost.vector_cycles == 3 * 33 + 3 * 9  # 200704 elements, then 50176, in blocks of 128 on 48 cores
    assert cost.bytes == 200704 + 8 + 50176


def test_products_of_rows_use_cube_and_vector_unit() -> None:
    """x [6400, 64] by [64, 128]: 400·8 tiles of 2 steps, 134 on the busiest core. N13 reads 819 200 accumulators on the
    vector unit: 3 · ⌈819 200 / (128 · 48)⌉ cycles; so does DynamicQuant, an op of its own, 409 600 elements."""
    x = given(6400, 64)
    q, steps = build(ascend.DynamicQuant(), x).results
    acc = apply(ascend.MatMul(), q, weights(64, 128, dtype=np.int8))
    y = apply(ascend.DequantRows(), acc, const(np.ones(128, np.float32)), steps, const(np.ones(128, np.float32)))
    quantizer, product = cost_of(y, x).ops
    assert (quantizer.op_name, quantizer.cube_cycles, quantizer.vector_cycles) == ("ascend.dynamic_quant", 0, 3 * 67)
    assert (product.cube_cycles, product.vector_cycles) == (134 * 2, 3 * 134)
    assert quantizer.bytes == 6400 * 64 * (2 + 1) + value_bytes(steps.type)
    assert (
        product.bytes
        == 6400 * 64 + 64 * 128 + value_bytes(steps.type) + 2 * value_bytes(TensorType((128,), F32)) + 6400 * 128 * 2
    )


def test_weight_only_product() -> None:
    """Cube time of float16, bytes of int8, and the vector unit makes the weight float."""
    x, scale = given("N", 256), const(np.ones(100, np.float32))
    cost = only(cost_of(apply(ascend.WeightQuantMatMul(), x, weights(256, 100, dtype=np.int8), scale), x))
    assert (cost.macs, cost.cube_cycles, cost.vector_cycles) == (25600, 16, 3 * 5)  # 200 blocks on 48 cores
    assert cost.bytes == 2 * 256 + 25600 + 2 * 100 + 2 * 100


@pytest.mark.parametrize(
    ("x", "w", "macs", "cycles"),
    [
        (("N", 256), (256, 100), 25600, 16),  # 1 · 7 tiles of 16 steps
        (("N", 10, 256), (256, 100), 256000, 16),
        ((2, 200, 256), (256, 100), 10240000, 8 * 16),  # 25 · 7 = 175 tiles, 8 on the busiest core
        ((2, 3, 40, 64), (2, 3, 64, 50), 6 * 40 * 64 * 50, 3 * 4),  # 6 · 3 · 4 = 72 tiles of 4
        ((3, 7), (7,), 21, 1),
        ((7,), (7, 20), 140, 1),
        ((0, 7), (7, 20), 0, 0),
    ],
)
def test_matrix_products(x: tuple[Dim, ...], w: tuple[int, ...], macs: int, cycles: int) -> None:
    op = producer(apply(nn.MatMul(), given(*x), weights(*w)))
    assert layer_macs(op) == macs
    assert cube_cycles(op, A2) == cycles


def test_gemm_and_int8_products() -> None:
    gemm = producer(apply(nn.Gemm(trans_b=True), given("N", 256), weights(100, 256)))
    assert (layer_macs(gemm), cube_cycles(gemm, A2)) == (25600, 16)
    turned = producer(apply(nn.Gemm(trans_a=True), given(256, 4), weights(256, 100)))
    assert layer_macs(turned) == 4 * 25600
    product = producer(apply(ascend.MatMul(), given("N", 256, elem=I8), weights(256, 100, dtype=np.int8)))
    assert (layer_macs(product), cube_cycles(product, A2)) == (25600, 8)


def test_vector_work_is_spread_over_vector_cores_or_the_units_of_cube_cores() -> None:
    x = given("N", 64, 56, 56)
    op = producer(apply(nn.Relu(), x))
    assert vector_cycles((op,), A2) == 3 * 33  # 1568 blocks on 48 cores
    assert vector_cycles((op,), A310P) == 3 * 224
    assert vector_cycles((op,), A310) == 3 * 784
    cost = only(cost_of(op.results[0], x))
    assert (cost.macs, cost.cube_cycles, cost.bytes, cost.bound) == (None, 0, 4 * 200704, "memory")


def test_reductions_count_what_they_read() -> None:
    op = producer(apply(nn.GlobalAveragePool(), given(1, 64, 56, 56)))
    assert vector_cycles((op,), A2) == 3 * 33


def test_reshapes_and_constants_are_free() -> None:
    x = given("N", 4, 4)
    assert cost_of(apply(nn.Flatten(), x), x).ops == ()
    assert cost_of(apply(nn.Flatten(), x), x).total_us == 0


@pytest.mark.parametrize("batch", ["N", None])
def test_an_unknown_batch_counts_as_one(batch: Dim) -> None:
    x, single = given(batch, 8, 6, 6), given(1, 8, 6, 6)
    assert cost_of(conv(x, 4, 8, 3, 3), x) == cost_of(conv(single, 4, 8, 3, 3), single)


def test_a_batch_that_is_moved_is_followed() -> None:
    x = given("N", 6, 8)
    rows = apply(nn.Reshape((-1, 8)), x)
    result = cost_of(apply(nn.MatMul(), rows, weights(8, 4)), x)
    assert [c.macs for c in result.ops] == [6 * 8 * 4]


def test_unknown_sizes_leave_no_total() -> None:
    x = given(1, 8, "H", "W")
    result = cost_of(apply(nn.Relu(), conv(x, 4, 8, 3, 3)), x)
    assert result.total_us is None
    assert {(c.macs, c.cube_cycles, c.time_us, c.bound) for c in result.ops[:1]} == {(None, None, None, None)}
    assert set(result.layers_us.values()) == {None}


def test_types_that_do_not_follow_a_batch_leave_the_graph() -> None:
    x = given("N", 3)
    here = TensorType(("N", 3), F32)
    node = onnx.helper.make_node("Nothing", ["x"], ["y"], domain="no.such.domain")
    carried = apply(Node("Nothing", "no.such.domain", 1, node.SerializeToString(), (here,), (here,)), x)
    graph = Graph((x,), (carried,), ("y",))
    assert estimate(graph, A2).ops[0].op_name == "onnx.node"
    assert one_sample(one_sample(graph)).inputs[0].type.rank == 2


def test_no_figures_no_estimate() -> None:
    x = given("N", 3)
    with pytest.raises(UnsupportedError, match="ascend950"):
        cost_of(apply(nn.Relu(), x), x, "ascend950")


def test_layer_macs_of_other_ops() -> None:
    assert layer_macs(producer(apply(nn.Relu(), given(1, 3)))) is None


def test_the_example_in_all() -> None:
    result = estimate(load(model_path()), A2)
    assert sum(c.macs or 0 for c in result.ops) == 775_808
    assert result.total_us is not None
    layers = result.layers_us
    assert fsum(v for v in layers.values() if v is not None) == pytest.approx(result.total_us)
    assert "/stem/conv/Conv" in layers


@pytest.mark.parametrize(
    ("shape", "channels", "group", "integer", "padding"),
    [
        ((64, 3, 3, 3), 3, 1, False, 1 - 3 / 16),
        ((64, 3, 3, 3), 3, 1, True, 1 - 3 / 32),
        ((20, 16, 1, 1), 16, 1, False, 1 - 20 / 32),
        ((24, 48, 3, 3), 48, 1, True, 1 - 48 * 24 / (64 * 32)),
        ((64, 1, 3, 3), 64, 64, False, 1 - 1 / 16),  # 16 groups to a block, zeros off the diagonal
        ((64, 1, 3, 3), 64, 64, True, 1 - 1 / 32),
        ((64, 32, 3, 3), 64, 2, False, 0),
    ],
)
def test_padding_of_channel_blocks(
    shape: tuple[int, ...], channels: int, group: int, integer: bool, padding: float
) -> None:
    x = given(1, channels, 8, 8, elem=I8 if integer else F32)
    op = producer(int8_conv(x, *shape, group=group) if integer else conv(x, *shape, group=group))
    work = cube_work(op, A2)
    assert work is not None
    assert work.padding == pytest.approx(padding)
    assert (work.groups, work.inner, work.outer) == (group, shape[1], shape[0] // group)


def test_padding_of_products() -> None:
    work = cube_work(producer(apply(nn.Gemm(trans_b=True), given("N", 250), weights(100, 250))), A2)
    assert work is not None
    assert work.padding == pytest.approx(1 - 250 * 100 / (256 * 112))
    assert work.share_of_cores(24) == pytest.approx(7 / 24)
    assert CubeWork(25, 3, 1, 1, 1, 0.0).cycles(24) == 6
    assert CubeWork(25, 3, 1, 1, 1, 0.0).share_of_cores(24) == pytest.approx(25 / 48)


def test_times_of_each_unit_and_what_sets_them() -> None:
    x = given("N", 64, 56, 56)
    result = cost_of(apply(nn.Relu(), conv(x, 128, 64, 3, 3)), x)
    layer, relu = result.ops
    moved = 2 * (64 * 3136 + 128 * 64 * 9 + 128 * 3136)
    assert layer.times_us == pytest.approx({"cube": 2376 / 1850, "vector": 0, "memory": moved / 1.6e6})
    assert relu.times_us == pytest.approx({"cube": 0, "vector": 3 * 66 / 1850, "memory": 4 * 128 * 3136 / 1.6e6})
    assert layer.weight_bytes == 2 * 128 * 64 * 9
    assert result.bound_us == pytest.approx({"cube": layer.time_us, "memory": relu.time_us, "vector": 0})
    assert next(iter(result.bound_us)) == "cube"


def test_a_batch_multiplies_all_but_the_weights() -> None:
    x = given("N", 64, 56, 56)
    graph = Graph((x,), (conv(x, 128, 64, 3, 3),), ("y",))
    one, four = only(estimate(graph, A2)), only(estimate(graph, A2, batch=4))
    assert four.macs == 4 * (one.macs or 0)
    assert four.bytes == 4 * (one.bytes or 0) - 3 * one.weight_bytes
    assert four.cube_cycles == -(-4 * 1568 // 24) * 36
    assert with_batch(graph, 4).outputs[0].type.dims[0] == 4


def test_batches_that_a_model_does_not_follow_are_refused() -> None:
    fixed = given(2, 8)
    with pytest.raises(UnsupportedError, match="batches of 2 only, not of 3"):
        with_batch(Graph((fixed,), (apply(nn.Relu(), fixed),), ("y",)), 3)
    x = given("N", 3)
    sums = apply(nn.MatMul(), apply(nn.Reshape((1, 3)), x), weights(3, 2))
    with pytest.raises(UnsupportedError, match="do not follow a batch of 2"):
        with_batch(Graph((x,), (sums,), ("y",)), 2)


def test_a_vector_unit_goes_on_to_the_quantizer_that_alone_reads() -> None:
    x = given("N", 64, 8, 8, elem=I8)
    acc = int8_conv(x, 32, 64, 3, 3)
    clipped = apply(nn.Clip(0.0, 6.0), apply(ascend.Dequant(1), acc, const(np.ones(1, np.uint64))))
    y = apply(ascend.Quant(1.0, 0), clipped)
    cost = only(cost_of(y, x, "ascend310"))
    assert cost.bytes == 64 * 64 + 32 * 64 * 9 + 8 + 32 * 64
    assert cost.vector_cycles == 3 * 3 * 8  # three ops of 2048 elements on two units
    assert len(cost_of(y, x).ops) == 3  # the fixpipe has no such buffer
    both = Graph((x,), (y, clipped), ("y", "c"))
    assert len(estimate(both, A310).ops) == 3


def test_an_activation_after_a_residual_addition_is_computed_in_its_buffer() -> None:
    """What the addition gives the activation costs no bytes; the vector unit still computes both."""
    x = given(1, 64, 8, 8, elem=F16)
    total = apply(nn.Add(), x, x)
    cost = only(cost_of(apply(nn.Relu(), total), x))
    assert cost.vector_cycles == 3 * 2  # two ops of 4096 elements, 32 blocks of 128 on 48 cores
    assert cost.bytes == 2 * (4096 + 4096)  # x is read once
    quantized = only(cost_of(apply(ascend.Quant(1.0, 0), apply(nn.Clip(0.0, 6.0), total)), x))
    assert (quantized.vector_cycles, quantized.bytes) == (3 * 3, 2 * 4096 + 4096)
    assert len(cost_of(apply(nn.Sigmoid(), total), x).ops) == 2
    both = Graph((x,), (apply(nn.Relu(), total), total), ("y", "total"))
    assert len(estimate(both, A2).ops) == 2
