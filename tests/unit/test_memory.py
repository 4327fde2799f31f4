"""Peak memory against counts by hand: two bytes for floating point, one for int8."""

from __future__ import annotations

import numpy as np

from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.memory import Memory, peak_memory
from amctc.ops import ascend, nn
from amctc.targets import load_profile
from amctc.types import F32, I8, Dim, ScalarType, TensorType

A2, A310 = load_profile("ascend910b1"), load_profile("ascend310")


def given(*shape: Dim, elem: ScalarType = F32, name: str = "x") -> GraphInput:
    return GraphInput(name, TensorType(shape, elem))


def relu(x: Value) -> Value:
    return apply(nn.Relu(), x)


def test_a_chain_holds_two_values_at_a_time() -> None:
    x = given("N", 100)
    graph = Graph((x,), (relu(relu(relu(x))),), ("y",))
    memory = peak_memory(graph, A2)
    assert memory is not None
    assert (memory.weights, memory.activations, memory.peak) == (0, 2 * 200, 400)
    batch = peak_memory(graph, A2, batch=3)
    assert batch is not None
    assert batch.peak == 3 * 400


def test_a_shortcut_stays_alive_until_the_sum() -> None:
    x = given("N", 100)
    y = relu(x)
    graph = Graph((x,), (apply(nn.Add(), relu(relu(y)), y),), ("y",))
    memory = peak_memory(graph, A2)
    assert memory is not None
    assert memory.activations == 3 * 200  # y, and two values of the branch


def test_outputs_stay_to_the_end_and_weights_are_counted_once() -> None:
    x, w = given("N", 64), const(np.zeros((64, 64), np.float32))
    first = apply(nn.MatMul(), x, w, name="first")
    second = apply(nn.MatMul(), first, w, name="second")
    graph = Graph((x,), (apply(nn.MatMul(), second, w, name="third"), first), ("y", "first"))
    assert peak_memory(graph, A2) == Memory(2 * 64 * 64, 3 * 128, peak_memory(graph, A2).layer)  # type: ignore[union-attr]


def test_reshapes_share_memory() -> None:
    x = given("N", 10, 10)
    graph = Graph((x,), (relu(apply(nn.Reshape((-1, 100)), relu(x))),), ("y",))
    memory = peak_memory(graph, A2)
    assert memory is not None
    assert memory.activations == 2 * 200
    assert peak_memory(Graph((x,), (apply(nn.Flatten(), x),), ("y",)), A2) == Memory(0, 200, "")


def lowered(quantized: bool) -> Graph:
    x = given("N", 32, 8, 8, elem=I8)
    weight, scale = const(np.zeros((16, 32, 1, 1), np.int8)), const(np.ones(16, np.uint64))
    acc = apply(ascend.Conv((1, 1), (0,) * 4, (1, 1)), x, weight)
    y = apply(nn.Clip(0.0, 6.0), apply(ascend.Dequant(1), acc, scale))
    return Graph((x,), (apply(ascend.Quant(1.0, 0), y) if quantized else y,), ("y",))


def test_accumulators_stay_inside_and_so_does_what_a_vector_unit_goes_on_with() -> None:
    weights = 16 * 32 + 16 * 8
    for profile, graph, activations in (
        (A2, lowered(False), 4 * 16 * 64),  # dequantized, then clipped, both float16
        (A2, lowered(True), 4 * 16 * 64),
        (A310, lowered(True), 32 * 64 + 16 * 64),  # int8 in, int8 out
        (A310, lowered(False), 4 * 16 * 64),
    ):
        memory = peak_memory(graph, profile)
        assert memory is not None
        assert (memory.weights, memory.activations) == (weights, activations)


def test_unknown_sizes_have_no_peak() -> None:
    x = given(1, "H")
    assert peak_memory(Graph((x,), (relu(x),), ("y",)), A2) is None
