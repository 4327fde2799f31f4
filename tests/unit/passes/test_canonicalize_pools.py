"""canonicalize-pools: which means are global pools."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, apply
from amctc.ops import nn
from amctc.types import F32, TensorType
from tests.unit.passes.inspection import close, left

RNG = np.random.default_rng(12)


def mean(shape: tuple[int | str, ...], axes: tuple[int, ...], keepdims: bool = True) -> Graph:
    x = GraphInput("x", TensorType(shape, F32))
    return Graph((x,), (apply(nn.ReduceMean(axes, keepdims), x),), ("y",))


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 3, 4, 5), (2, 3)), ((2, 3, 4, 5), (-1, 2)), (("N", 3, 4, 5, 2), (3, -1, 2))]
)
def test_means_over_all_positions(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool, run, real) -> None:
    graph = mean(shape, axes, keepdims)
    result = run("canonicalize-pools", graph).graph
    assert left(result) == ["nn.global_average_pool", *([] if keepdims else ["nn.squeeze"])]
    assert result.outputs[0].type == graph.outputs[0].type
    x = RNG.standard_normal(tuple(2 if d == "N" else d for d in shape)).astype(np.float32)
    close(real, graph, result, x=x)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 3, 4, 5), (3,)), ((2, 3, 4, 5), (1, 2, 3)), ((2, 3, 4, 5), (1, 2)),
        ((2, 3, 4), (2,)),  # a sequence of vectors: the mean of layer normalisation
        ((2, 3), (1,)), ((2, 3, 0, 4), (2, 3)),
        ((2, 3, 2, 2, 2, 2), (2, 3, 4, 5)),  # no runtime pools over four axes
    ],
)  # fmt: skip
def test_other_means_stay(shape: tuple[int, ...], axes: tuple[int, ...], run) -> None:
    graph = mean(shape, axes)
    assert run("canonicalize-pools", graph).graph is graph


def test_a_flatten_after_it_takes_the_squeeze(run) -> None:
    x = GraphInput("x", TensorType(("N", 3, 4, 5), F32))
    squeezed = apply(nn.ReduceMean((2, 3), False), x)
    graph = Graph((x,), (apply(nn.Reshape((-1, 3)), squeezed),), ("y",))
    result = run("canonicalize-pools,merge-reshapes", graph).graph
    assert left(result) == ["nn.global_average_pool", "nn.reshape"]
