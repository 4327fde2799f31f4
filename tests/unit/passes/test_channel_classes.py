"""How the channels of a layer pass each kind of op: their numbers by hand, or that they keep their scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Value, apply, build, const
from amctc.ops import nn
from amctc.types import F32, TensorType
from amctc_passes.balance.channels import ChannelClasses, channel_classes, contracted

WINDOW = (1, 1), (0, 0, 0, 0), (1, 1)
POINTWISE = nn.Conv(*WINDOW)
X = GraphInput("x", TensorType((2, 3, 4, 4), F32))
POOL = (1, 1), (0, 0, 0, 0), (1, 1), (2, 2)
EVERY = [0, 1, 2]


def ones(*shape: int) -> Value:
    return const(np.ones(shape, np.float32))


def layer(x: Value = X, outputs: int = 3, kind: nn.Conv = POINTWISE) -> Value:
    """A layer of ``outputs`` channels. The first of a graph has the numbers 0, 1, 2 …, the next those that follow."""
    return apply(kind, x, ones(outputs, int(x.type.dims[1]), 1, 1))


def read(value: Value) -> Value:
    """A layer that contracts axis 1 of an image, and the last axis of anything else."""
    if value.type.rank == 4:
        return layer(value, 2)
    return apply(nn.MatMul(), value, ones(int(value.type.dims[-1]), 2))


def classes_of(*values: Value) -> ChannelClasses:
    """Of the graph that gives ``values``."""
    inputs: dict[GraphInput, None] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, GraphInput):
            inputs[value] = None
        elif value.producer is not None:
            waiting.extend(o for o in value.producer.operands if o is not None)
    return channel_classes(Graph(tuple(inputs), values, tuple(f"y{i}" for i in range(len(values)))))


def pinned(found: ChannelClasses, value: Value) -> bool:
    """Whether all channels of ``value`` keep their scale, or none do."""
    classes = found.classes()[found.of[value].numbers].tolist()
    (kept,) = {c in found.pinned().tolist() for c in classes}
    return kept


def passed(kind: Any, *operands: Value) -> tuple[int, list[int]] | None:
    """Axis and numbers of the result of ``kind``; ``None`` where it pins what it reads."""
    value = apply(kind, *operands)
    found = classes_of(apply(nn.Identity(), value))
    channels = found.of.get(value)
    if channels is None:
        assert all(pinned(found, o) for o in operands if o in found.of)
    return None if channels is None else (channels.axis, channels.numbers.tolist())


Y = layer()
PASSES: list[tuple[Any, tuple[int, list[int]] | None]] = [
    (nn.Relu(), (1, EVERY)), (nn.LeakyRelu(0.1), (1, EVERY)), (nn.Identity(), (1, EVERY)), (nn.Sigmoid(), None),
    (nn.Clip(0.0, 6.0), (1, EVERY)), (nn.Clip(-1.0, 6.0), None), (nn.Clip(1.0, 6.0), None),
    (nn.MaxPool(*POOL), (1, EVERY)), (nn.AveragePool(*POOL), (1, EVERY)),
    (nn.GlobalAveragePool(), (1, EVERY)), (nn.GlobalMaxPool(), (1, EVERY)),
    (nn.Resize((2, 3), scales=(2.0, 2.0)), (1, EVERY)), (nn.Resize((-1,), sizes=(3,)), (1, EVERY)),
    (nn.Resize((1,), sizes=(6,)), None), (nn.Resize((-3, -1), sizes=(6, 2)), None),
    (nn.Resize((0,), sizes=(4,)), (1, EVERY)),
    (nn.ReduceMean((2, 3)), (1, EVERY)), (nn.ReduceMean((2, 3), False), (1, EVERY)),
    (nn.ReduceMax((0,), False), (0, EVERY)), (nn.ReduceSum((-1, 0), False), (0, EVERY)),
    (nn.ReduceSum((0,)), (1, EVERY)), (nn.ReduceSum((-3,)), None), (nn.ReduceSum((1, 2)), None),
    (nn.Pad((0, 0, 1, 2, 0, 0, 3, 0)), (1, EVERY)), (nn.Pad((0, 0, 1, 2, 0, 0, 3, 0), value=1.0), None),
    (nn.Pad((0, 0, 1, 2, 0, 0, 3, 0), "edge", 1.0), (1, EVERY)), (nn.Pad((1, 0, 0, 0, 0, 0, 0, 0)), (1, EVERY)),
    (nn.Pad((0, 1, 0, 0, 0, 0, 0, 0)), None), (nn.Pad((0, 0, 0, 0, 0, 1, 0, 0)), None),
    (nn.Pad((0, 1, 0, 0, 0, 1, 0, 0)), None),
    (nn.Slice((1,), (3,), (1,), (1,)), (1, [1, 2])), (nn.Slice((0,), (3,), (-3,), (2,)), (1, [0, 2])),
    (nn.Slice((2,), (-9,), (1,), (-1,)), None), (nn.Slice((3,), (-9,), (2,), (-1,)), (1, EVERY)),
    (nn.Slice((0, 1), (2, 3), (2, 1), (1, 1)), (1, [1, 2])),
    (nn.Transpose((0, 2, 3, 1)), (3, EVERY)), (nn.Transpose((1, 0, 3, 2)), (0, EVERY)),
    (nn.Reshape((2, 3, 16)), (1, EVERY)), (nn.Reshape((0, 0, 2, -1)), (1, EVERY)), (nn.Reshape((2, 12, 4)), None),
    (nn.Reshape((6, 16)), None), (nn.Reshape((1, 2, 3, 16)), None),
    (nn.Reshape((2, 48)), (1, [0] * 16 + [1] * 16 + [2] * 16)), (nn.Flatten(), (1, [0] * 16 + [1] * 16 + [2] * 16)),
    (nn.Flatten(2), None), (nn.Concat(2), None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "expected"), PASSES, ids=[f"{k.op_name} {i}" for i, (k, _) in enumerate(PASSES)])
def test_channels_pass_or_keep_their_scale(kind: Any, expected: tuple[int, list[int]] | None) -> None:
    assert passed(kind, Y) == expected


def test_one_element_without_an_axis_for_its_channel() -> None:
    x = GraphInput("x", TensorType((2, 3, 1, 1), F32))
    assert passed(nn.Reshape((2,)), layer(x, 1)) is None
    assert passed(nn.Reshape((2, 1)), layer(x, 1)) == (1, [0])


def test_positions_of_unknown_number_are_not_joined_to_the_channels() -> None:
    x = GraphInput("x", TensorType((2, 3, "H", 4), F32))
    y = layer(x)
    assert passed(nn.Reshape((2, -1)), y) is None
    assert passed(nn.Reshape((2, 3, -1)), y) == (1, EVERY)


@pytest.mark.parametrize("kind", [nn.Add(), nn.Sub()])
def test_channels_that_are_added_become_one_class(kind: nn.Add | nn.Sub) -> None:
    a, b = layer(), layer(apply(nn.Relu(), X))
    total = apply(kind, a, b)
    found = classes_of(read(total))
    assert found.count == 3 + 3 + 2
    assert found.of[total].numbers.tolist() == found.of[a].numbers.tolist()
    for i, j in zip(found.of[a].numbers, found.of[b].numbers, strict=True):
        assert found.classes()[i] == found.classes()[j]
    assert len(set(found.classes().tolist())) == 3 + 2


SHORT = nn.Slice((0,), (3,), (2,), (1,))  # three rows
SUMMANDS = {
    "a constant": lambda y: (y, ones(1, 3, 1, 1)),
    "a graph input": lambda y: (y, X),
    "one channel for all": lambda y: (y, layer(outputs=1)),
    "channels along another axis": lambda y: (
        apply(SHORT, y), apply(nn.Transpose((0, 2, 1, 3)), apply(SHORT, layer(apply(nn.Relu(), X)))),
    ),
    "channels of fewer axes": lambda y: (y, apply(nn.ReduceMax((0,), False), layer(apply(nn.Relu(), X)))),
    "channels of fewer axes, the same axis": lambda y: (  # [2, 3, 3, 4] and [3, 3, 4]
        apply(SHORT, y), apply(nn.ReduceMax((3,), False), layer(GraphInput("z", TensorType((3, 3, 4, 2), F32)))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMMANDS)
def test_what_else_is_added_pins_channels(name: str) -> None:
    assert passed(nn.Add(), *SUMMANDS[name](layer())) is None


def test_a_gate_keeps_its_scale_and_its_data_do_not() -> None:
    data, gate = layer(), layer(apply(nn.Relu(), X), 1)
    for operands in (data, gate), (gate, data):
        scaled = apply(nn.Mul(), *operands)
        found = classes_of(read(scaled))
        assert found.of[scaled] == found.of[data]
        assert (pinned(found, data), pinned(found, gate)) == (False, True)


def test_both_sides_of_a_product_with_themselves_are_pinned() -> None:
    y = layer()
    square = apply(nn.Mul(), y, y)
    assert pinned(classes_of(read(square)), y)


def test_a_product_larger_than_its_sides_passes_nothing() -> None:
    row, column = (
        layer(GraphInput("r", TensorType((2, 3, 1, 4), F32))),
        layer(GraphInput("c", TensorType((2, 3, 4, 1), F32))),
    )
    assert passed(nn.Mul(), row, column) is None


def test_joined_channels_keep_their_numbers_and_others_are_pinned() -> None:
    a, b = layer(), layer(apply(nn.Relu(), X), 2)
    for axis in (1, -3):
        joined = apply(nn.Concat(axis), a, X, b)
        found = classes_of(read(joined))
        numbers = found.of[joined].numbers.tolist()
        assert found.of[joined].axis == 1
        assert numbers[:3] == found.of[a].numbers.tolist()
        assert numbers[6:] == found.of[b].numbers.tolist()
        assert numbers[3:6] == found.of[X].numbers.tolist()
        assert len(set(numbers)) == 8
        assert [pinned(found, v) for v in (a, X, b)] == [False, True, False]


def test_nothing_is_numbered_where_nothing_is_joined() -> None:
    assert classes_of(apply(nn.Concat(1), X, X)).of == {}


def test_parts_of_channels() -> None:
    y = layer()
    for axis in (1, -3):
        first, last = build(nn.Split(axis, (1, 2)), y).results
        found = classes_of(read(first), read(last))
        assert [found.of[v].numbers.tolist() for v in (first, last)] == [[0], [1, 2]]
    parts = build(nn.Split(2, (1, 3)), y).results
    found = classes_of(*map(read, parts))
    assert [(found.of[v].axis, found.of[v].numbers.tolist()) for v in parts] == [(1, EVERY), (1, EVERY)]


NORMALIZATIONS: list[tuple[Any, tuple[int, ...], int, bool]] = [
    (nn.LayerNorm(-1), (4,), 3, True), (nn.LayerNorm(3), (4,), 3, True), (nn.LayerNorm(2), (4, 4), 3, False),
    (nn.LayerNorm(-2), (4,), 3, False), (nn.LayerNorm(-1), (1,), 3, False),
    (nn.InstanceNorm(), (3,), 1, True), (nn.GroupNorm(3), (3,), 1, True), (nn.BatchNorm(), (3,), 1, True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "axis", "starts"), NORMALIZATIONS)
@pytest.mark.parametrize("constant", [True, False])
def test_normalizations_end_factors_and_start_them_in_constants(
    kind: Any, shape: tuple[int, ...], axis: int, starts: bool, constant: bool
) -> None:
    scale = GraphInput("scale", TensorType(shape, F32))
    y, more = layer(), [ones(3)] * 2 if isinstance(kind, nn.BatchNorm) else []
    result = apply(kind, y, ones(*shape) if constant else scale, ones(*shape), *more)
    found = classes_of(apply(nn.Identity(), result))
    assert pinned(found, y)
    assert (result in found.of) == (starts and constant)
    if starts and constant:
        assert (found.of[result].axis, len(found.of[result].numbers)) == (axis, shape[0])


def test_layers_start_numbers_and_contract_those_of_their_data() -> None:
    y = layer()
    z = layer(y, 2)
    found = classes_of(read(z))
    assert contracted(found, z.producer) == found.of[y]
    assert contracted(found, y.producer) is None
    assert not pinned(found, y)
    assert not pinned(found, z)
    product = apply(nn.MatMul(), apply(nn.Transpose((0, 2, 3, 1)), y), ones(3, 5))
    found = classes_of(apply(nn.Identity(), product))
    assert (found.of[product].axis, found.of[product].numbers.tolist()) == (3, [3, 4, 5, 6, 7])
    assert contracted(found, product.producer).numbers.tolist() == EVERY
    assert (pinned(found, y), pinned(found, product)) == (False, True)


def test_channels_along_an_axis_that_a_layer_does_not_contract_keep_their_scale() -> None:
    y = layer()
    assert pinned(classes_of(apply(nn.MatMul(), y, ones(4, 5))), y)


def test_layers_whose_constants_cannot_take_factors_pin_their_data() -> None:
    y, weight = layer(), GraphInput("w", TensorType((2, 3, 1, 1), F32))
    z = apply(POINTWISE, y, weight)
    found = classes_of(read(z))
    assert pinned(found, y)
    assert z not in found.of
    turned = apply(nn.Gemm(trans_a=True), GraphInput("t", TensorType((4, 2), F32)), ones(4, 3))
    assert turned not in classes_of(read(turned)).of
    shared = ones(3, 3, 1, 1)
    first = apply(POINTWISE, X, shared)
    assert first not in classes_of(apply(POINTWISE, first, shared)).of


ACTIVATIONS: list[tuple[Any, list[float], bool]] = [
    (None, [], False), (nn.Relu(), [], False), (nn.Clip(0.0, 6.0), [6.0], False), (nn.Clip(0.0, math.inf), [], False),
    (nn.Clip(-math.inf, 2.0), [2.0], False), (nn.Clip(-1.0, 6.0), [6.0], True),
]  # fmt: skip


@pytest.mark.parametrize(("activation", "ceilings", "kept"), ACTIVATIONS)
def test_ceilings_of_activations(activation: Any, ceilings: list[float], kept: bool) -> None:
    """Of one that is fused into a layer, and of one that stands alone and lets factors pass."""
    fused = layer(kind=nn.Conv(*WINDOW, 1, activation))
    found = classes_of(read(fused))
    assert [(c.value, c.high) for c in found.ceilings] == [(fused, high) for high in ceilings]
    assert pinned(found, fused) == kept
    if activation is not None:
        alone = apply(activation, layer())
        found = classes_of(read(alone))
        assert [(c.value, c.high) for c in found.ceilings] == ([] if kept else [(alone, high) for high in ceilings])


def test_outputs_keep_their_scale_and_ops_without_a_rule_pin_all_they_read() -> None:
    y, z = layer(), layer(apply(nn.Relu(), X))
    assert pinned(classes_of(y), y)
    found = classes_of(apply(nn.Div(), y, z))
    assert pinned(found, y)
    assert pinned(found, z)
