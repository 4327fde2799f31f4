"""fold-pad: zeros into convolutions and average pools, what cannot win into max pools."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.tables import ORACLE
from amctc.ops import nn
from amctc.types import F32, Array, TensorType
from tests.unit.passes.inspection import left

RNG = np.random.default_rng(10)
SHAPE = (1, 2, 5, 6)
X = GraphInput("x", TensorType(SHAPE, F32))
AROUND = (0, 0, 1, 0, 0, 0, 1, 2)
"""One row above and one below, two columns at the right."""


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def conv(value: Value, *, group: int = 1, pads: tuple[int, ...] = (0, 0, 0, 0)) -> Value:
    kind = nn.Conv((1, 2), pads, (1, 1), group, nn.Relu())
    return apply(kind, value, const(weights(4, 2 // group, 3, 3)), const(weights(4)))


def same_bits(before: Graph, after: Graph) -> None:
    for special in (0.0, math.nan, -math.inf):
        x = weights(*SHAPE)
        x[0, 0, 2, 3] = special or x[0, 0, 2, 3]
        old, new = (evaluate(g, {"x": x}, ORACLE)["y"] for g in (before, after))
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 2, 1)])
def test_conv(group: int, pads: tuple[int, ...], run, find) -> None:
    graph = Graph((X,), (conv(apply(nn.Pad(AROUND), X), group=group, pads=pads),), ("y",))
    result = run("fold-pad", graph).graph
    assert find(result, nn.Conv).kind.pads == tuple(a + b for a, b in zip((1, 0, 1, 2), pads, strict=True))
    assert left(result) == ["nn.conv"]
    same_bits(graph, result)


@pytest.mark.parametrize(
    "pad",
    [
        nn.Pad(AROUND, "reflect"), nn.Pad(AROUND, "edge"), nn.Pad(AROUND, value=1.0),
        nn.Pad((0, 0, 1, 0, 0, 0, -1, 0)),  # crops
        nn.Pad((0, 1, 1, 0, 0, 1, 1, 0)),  # channels, as the shortcuts of CIFAR networks
        nn.Pad((1, 0, 1, 0, 0, 0, 1, 0)),  # the batch
    ],
    ids=str,
)  # fmt: skip
def test_other_padding_stays(pad: nn.Pad, run) -> None:
    padded = apply(pad, X)
    kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    graph = Graph((X,), (apply(kind, padded, const(weights(4, padded.type.dims[1], 1, 1))),), ("y",))
    assert run("fold-pad", graph).graph is graph


def test_another_reader_stays(run) -> None:
    padded = apply(nn.Pad(AROUND), X)
    graph = Graph((X,), (conv(padded), padded), ("y", "padded"))
    assert run("fold-pad", graph).graph is graph


def average(pads: tuple[int, ...] = (0, 0, 0, 0), include: bool = False, ceil: bool = False) -> nn.AveragePool:
    return nn.AveragePool((2, 2), pads, (1, 1), (3, 3), ceil, include)


@pytest.mark.parametrize(
    ("kind", "pads"),
    [
        (average(), (1, 0, 1, 2)), (average(include=True), (1, 0, 1, 2)),
        (average((1, 1, 0, 0), include=True), (2, 1, 1, 2)),
    ],
)  # fmt: skip
def test_average_pool_counts_the_padding(kind: nn.AveragePool, pads: tuple[int, ...], run, find) -> None:
    graph = Graph((X,), (apply(kind, apply(nn.Pad(AROUND), X)),), ("y",))
    result = run("fold-pad", graph).graph
    folded = find(result, nn.AveragePool).kind
    assert (folded.pads, folded.count_include_pad) == (pads, True)
    same_bits(graph, result)


def test_average_by_hand(run, real) -> None:
    """The corner window holds one element of 9 and eight zeros: 9/9 whether padding is an op or not."""
    x = GraphInput("x", TensorType((1, 1, 1, 1), F32))
    pad = apply(nn.Pad((0, 0, 1, 1, 0, 0, 1, 1)), x)
    graph = Graph((x,), (apply(nn.AveragePool((1, 1), (0, 0, 0, 0), (1, 1), (3, 3)), pad),), ("y",))
    result = run("fold-pad", graph).graph
    assert left(result) == ["nn.average_pool"]
    assert real(result, x=np.float32([[[[9]]]]))["y"].item() == 1.0


@pytest.mark.parametrize(
    "kind",
    [
        average((1, 1, 0, 0)),  # counts its own padding not, the Pad's zeros it must
        nn.AveragePool((1, 1), (0, 0, 0, 0), (1, 1), (2, 2)),  # two columns of padding past a kernel of two
    ],
)
def test_average_pools_that_stay(kind: nn.AveragePool, run) -> None:
    graph = Graph((X,), (apply(kind, apply(nn.Pad(AROUND), X)),), ("y",))
    assert run("fold-pad", graph).graph is graph


@pytest.mark.parametrize("size", range(4, 9))
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_ceil_mode_keeps_its_last_window_or_its_pad(size: int, stride: int, run) -> None:
    """A window that starts in end padding is dropped; in zeros that a Pad has added it is not."""
    x = GraphInput("x", TensorType((1, 1, size), F32))
    pool = nn.AveragePool((stride,), (0, 0), (1,), (3,), True)
    graph = Graph((x,), (apply(pool, apply(nn.Pad((0, 0, 0, 0, 0, 2)), x)),), ("y",))
    result = run("fold-pad", graph).graph
    feeds = {"x": np.arange(1, size + 1, dtype=np.float32).reshape(1, 1, size)}
    np.testing.assert_array_equal(evaluate(graph, feeds, ORACLE)["y"], evaluate(result, feeds, ORACLE)["y"])


def largest(dilation: int = 1, pads: tuple[int, ...] = (0, 0, 0, 0)) -> nn.MaxPool:
    return nn.MaxPool((2, 2), pads, (dilation, dilation), (3, 3))


@pytest.mark.parametrize(
    ("value", "bound", "kind", "folds"),
    [
        (-math.inf, None, largest(), True),
        (-math.inf, None, largest(2), True),
        (-math.inf, None, largest(pads=(1, 1, 1, 0)), True),
        (-math.inf, None, largest(2, pads=(2, 2, 2, 2)), False),  # no runtime loads pads of the kernel's size
        (0.0, nn.Relu(), largest(), True),
        (0.0, nn.Relu(), largest(2), False),  # a dilated window may hold nothing but padding
        (0.0, None, largest(), False),
        (-1.0, nn.Clip(-1.0, 1.0), largest(), True),
        (-1.0, nn.Clip(-2.0, 1.0), largest(), False),
        (-1.0, nn.Relu(), largest(), True),
        (1.0, nn.Relu(), largest(), False),
    ],
)
def test_max_pool(value: float, bound: nn.Activation | None, kind: nn.MaxPool, folds: bool, run) -> None:
    data = X if bound is None else apply(bound, X)
    graph = Graph((X,), (apply(kind, apply(nn.Pad(AROUND, value=value), data)),), ("y",))
    result = run("fold-pad", graph).graph
    assert (result is not graph) == folds
    assert ("nn.pad" in left(result)) != folds
    same_bits(graph, result)


def test_symbolic_sizes_fold(run) -> None:
    x = GraphInput("x", TensorType(("N", 2, "H", "W"), F32))
    graph = Graph((x,), (conv(apply(nn.Pad(AROUND), x)),), ("y",))
    assert left(run("fold-pad", graph).graph) == ["nn.conv"]
    ceil = Graph((x,), (apply(average(ceil=True), apply(nn.Pad(AROUND), x)),), ("y",))
    assert run("fold-pad", ceil).graph is ceil
