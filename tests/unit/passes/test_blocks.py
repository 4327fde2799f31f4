"""blocks_of: residual blocks, what stands alone, and what is too large."""

from __future__ import annotations

import numpy as np

from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn
from amctc.types import F32, TensorType
from amctc_passes.quantize.layers import layers
from amctc_passes.reconstruct.blocks import Block, blocks_of

X = GraphInput("x", TensorType(("N", 4), F32))


def layer(x: Value, name: str) -> Value:
    weight = const(np.eye(4, dtype=np.float32))
    return apply(nn.MatMul(), x, weight, name=name, origins=(Origin(name, "MatMul"),))


def residual(x: Value, *names: str) -> Value:
    y = x
    for name in names:
        y = apply(nn.Relu(), layer(y, name))
    return apply(nn.Relu(), apply(nn.Add(), y, x))


def found(*outputs: Value, largest: int = 8) -> list[Block]:
    graph = Graph((X,), outputs, tuple(f"y{i}" for i in range(len(outputs))))
    return blocks_of(graph, list(layers(graph)), largest)


def named(blocks: list[Block]) -> list[list[str]]:
    return [[op.result.name or "" for op in block.layers] for block in blocks]


def test_residual_blocks_and_the_layers_between() -> None:
    y = residual(residual(layer(X, "first"), "a", "b"), "c", "d")
    blocks = found(layer(y, "last"))
    assert named(blocks) == [["first"], ["a", "b"], ["c", "d"], ["last"]]
    assert blocks[1].entry is blocks[0].exit
    assert isinstance(blocks[1].exit.producer.kind, nn.Relu)
    assert blocks[2].entry is blocks[1].exit
    assert blocks[2].exit is y


def test_a_block_holds_its_ops_in_order_with_their_constants() -> None:
    (block,) = found(residual(X, "a", "b"))
    assert [type(op.kind).__name__ for op in block.ops] == [
        "Constant", "MatMul", "Relu", "Constant", "MatMul", "Relu", "Add", "Relu",
    ]  # fmt: skip


def test_layers_in_a_row_stand_alone_with_their_activations() -> None:
    y = apply(nn.Relu(), layer(X, "a"))
    blocks = found(layer(y, "b"))
    assert named(blocks) == [["a"], ["b"]]
    assert blocks[0].exit is y


def test_an_activation_that_is_not_the_only_reader_stays_outside() -> None:
    y = layer(X, "a")
    (block,) = found(apply(nn.Relu(), y), y)
    assert block.exit is y


def test_what_is_too_large_falls_apart_into_what_it_holds() -> None:
    inner = residual(layer(X, "a"), "b", "c")
    whole = apply(nn.Add(), layer(inner, "d"), X)
    assert named(found(whole)) == [["a", "b", "c", "d"]]
    assert named(found(whole, largest=3)) == [["a"], ["b", "c"], ["d"]]
    assert named(found(whole, largest=1)) == [["a"], ["b"], ["c"], ["d"]]


def test_what_is_read_on_the_way_is_no_inside() -> None:
    """The first layer's result is an output too: no way back in, but another way out."""
    a = layer(X, "a")
    y = apply(nn.Add(), layer(a, "b"), X)
    assert named(found(y, a)) == [["a"], ["b"]]


def test_blocks_of_branches_to_two_outputs() -> None:
    stem = layer(X, "stem")
    blocks = found(residual(stem, "a", "b"), residual(stem, "c", "d"))
    assert named(blocks) == [["stem"], ["a", "b"], ["c", "d"]]
    assert all(block.entry is stem for block in blocks[1:])


def test_two_inputs_are_two_entries() -> None:
    other = GraphInput("z", TensorType(("N", 4), F32))
    y = apply(nn.Add(), layer(X, "a"), layer(other, "b"))
    graph = Graph((X, other), (y,), ("y",))
    assert named(blocks_of(graph, list(layers(graph)), 8)) == [["a"], ["b"]]


def test_only_the_layers_asked_for_count() -> None:
    graph = Graph((X,), (residual(X, "a", "b", "c"),), ("y",))
    a, _, c = layers(graph)
    (block,) = blocks_of(graph, [c, a], 2)
    assert block.layers == (a, c)


def test_a_long_chain_is_cut_without_recursion() -> None:
    y: Value = X
    for i in range(3000):
        y = layer(y, f"{i}")
    assert len(found(y)) == 3000
