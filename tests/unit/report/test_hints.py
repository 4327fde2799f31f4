"""Hints are read from the numbers: each appears for the network that has its trouble, and names it."""

from __future__ import annotations

import numpy as np

from amctc.cost import estimate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.memory import Memory, peak_memory
from amctc.ops import ascend, nn
from amctc.report.hints import MOST, hints
from amctc.targets import load_profile
from amctc.types import F32, I8, Dim, ScalarType, TensorType

A2, A310P = load_profile("ascend910b1"), load_profile("ascend310p3")


def given(*shape: Dim, elem: ScalarType = F32) -> GraphInput:
    return GraphInput("x", TensorType(shape, elem))


def layer(name: str, kind: object, x: Value, *shape: int, dtype: type = np.float32) -> Value:
    return apply(kind, x, const(np.zeros(shape, dtype)), origins=(Origin(name, "Conv"),))  # type: ignore[call-overload]


def told(x: GraphInput, y: Value, target: str = "ascend910b1", **options: object) -> list[str]:
    graph, profile = Graph((x,), (y,), ("y",)), load_profile(target)
    return hints(estimate(graph, profile), peak_memory(graph, profile), profile, **options)  # type: ignore[arg-type]


def conv(group: int = 1, pad: int = 1) -> nn.Conv:
    return nn.Conv((1, 1), (pad,) * 4, (1, 1), group)


def test_channels_that_do_not_fill_their_blocks() -> None:
    x = given("N", 3, 224, 224)
    lines = told(x, layer("stem", conv(), x, 64, 3, 7, 7))
    assert lines[0] == "stem wastes 81 % of the cube on 3 input channels in blocks of 16: 16 would cost the same"
    wide = given("N", 64, 56, 56)
    lines = told(wide, layer("odd", conv(), wide, 20, 64, 5, 5))
    assert lines[0].startswith("odd wastes 38 % of the cube on 20 output channels in blocks of 16: 32 would cost")
    integer = given("N", 40, 56, 56, elem=I8)
    kind = ascend.Conv((1, 1), (3,) * 4, (1, 1))
    lines = told(integer, layer("half", kind, integer, 64, 40, 7, 7, dtype=np.int8))
    assert any("half wastes 38 % of the cube on 40 input channels in blocks of 32: 64" in line for line in lines)


def test_groups_are_told_from_channels() -> None:
    x = given("N", 64, 56, 56)
    lines = told(x, layer("depthwise", conv(64), x, 64, 1, 7, 7))
    assert any(line.startswith("depthwise wastes 94 % of the cube on 64 groups of 1 channel:") for line in lines)


def test_memory_in_float16_int8_and_for_weights() -> None:
    x = given("N", 4096)
    first = told(x, layer("dense", nn.MatMul(), x, 4096, 4096))[0]
    assert first == "memory sets 100 % of the time: int8 halves the bytes (amctc compress)"
    q = given("N", 4096, elem=I8)
    first = told(q, layer("dense", ascend.MatMul(), q, 4096, 4096, dtype=np.int8))[0]
    assert "of those bytes are weights: --batch 8 shares them" in first
    image = given("N", 32, 512, 512, elem=I8)
    lines = told(image, layer("large", ascend.Conv((1, 1), (0,) * 4, (1, 1)), image, 32, 32, 1, 1, dtype=np.int8))
    assert "most for large, which moves" in lines[0]


def test_layers_that_wait_for_the_vector_unit() -> None:
    """2 · 64 · 3136 / 128 · 3 cycles on two units against 196 · 4 · 1 on two cubes, and few bytes."""
    x = given("N", 32, 56, 56, elem=I8)
    acc = layer("wide", ascend.Conv((1, 1), (0,) * 4, (1, 1)), x, 64, 32, 1, 1, dtype=np.int8)
    y = apply(
        ascend.Quant(1.0, 0), apply(nn.Clip(0.0, 6.0), apply(ascend.Dequant(1), acc, const(np.ones(1, np.uint64))))
    )
    lines = told(x, y, "ascend310")
    assert "1 layer with 100 % of the time wait for the vector unit to dequantize" in lines[0]
    assert not any("vector unit" in line for line in told(x, y))


def test_what_lies_between_the_layers() -> None:
    x = given("N", 64, 56, 56)
    y = layer("conv", conv(), apply(nn.Sigmoid(), apply(nn.Sigmoid(), x)), 16, 64, 1, 1)
    assert any("2 ops between the layers take" in line and "most of it sigmoid" in line for line in told(x, y))


def test_cores_that_have_nothing_to_do() -> None:
    x = given("N", 512, 4, 4)
    lines = told(x, layer("late", conv(), x, 16, 512, 3, 3), "ascend910a")
    assert "1 layer keeps less than half of the 32 cube cores busy, late 1 of them: --batch 32 fills them" in lines


def test_comparison_with_float16_and_the_caches() -> None:
    x = given("N", 64, 56, 56)
    graph = Graph((x,), (layer("conv", conv(), x, 64, 64, 3, 3),), ("y",))
    result = estimate(graph, A2)
    assert any("int8 takes 100 % of the time of float16 here" in h for h in hints(result, None, A2, float16=result))
    slower = estimate(graph, A310P)
    assert any("of the time of float16" in h for h in hints(result, None, A2, float16=slower))
    small, large = Memory(1 << 20, 1 << 20, "conv"), Memory(1, 1 << 30, "conv")
    assert any("fit into the L2 of 192.0 MiB" in h for h in hints(result, small, A2))
    assert any("activations reach 1.0 GiB at conv, more than the L2" in h for h in hints(result, large, A2))


def test_an_empty_graph_and_the_limit() -> None:
    x = given("N", 3)
    assert len(told(x, apply(nn.Flatten(), x))) <= 1
    image = given("N", 3, 224, 224)
    y = layer("a", conv(), apply(nn.Sigmoid(), layer("b", conv(), image, 20, 3, 3, 3)), 20, 20, 3, 3)
    assert 2 <= len(told(image, y)) <= MOST
