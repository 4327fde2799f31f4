"""Layers as matrix products: what the columns and the matrix give is what the layer computes."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.calibrate.contraction import Contraction
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, apply, const
from amctc.kernels.tables import ORACLE
from amctc.ops import nn
from amctc.types import F32, TensorType

RNG = np.random.default_rng(5)

CASES = {
    "conv": (nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), (4, 3, 3, 3), (2, 3, 6, 5)),
    "pads": (nn.Conv((2, 1), (1, 0, 2, 1), (1, 1)), (4, 3, 3, 2), (2, 3, 6, 5)),
    "dilated": (nn.Conv((1, 1), (2, 2, 2, 2), (2, 2)), (4, 3, 3, 3), (2, 3, 6, 5)),
    "grouped": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 2), (6, 2, 3, 3), (2, 4, 5, 5)),
    "depthwise": (nn.Conv((2, 2), (1, 1, 1, 1), (1, 1), 4), (8, 1, 3, 3), (2, 4, 5, 5)),
    "conv1d": (nn.Conv((2,), (1, 1), (1,)), (4, 3, 3), (2, 3, 7)),
    "conv3d": (nn.Conv((1, 1, 1), (1, 0, 0, 0, 1, 1), (1, 1, 1)), (4, 2, 2, 2, 2), (1, 2, 3, 4, 3)),
    "transposed": (nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1)), (3, 4, 3, 3), (2, 3, 4, 3)),
    "transposed padded": (nn.ConvTranspose((2, 3), (1, 0, 2, 1), (1, 1), 1, (1, 0)), (3, 4, 3, 3), (2, 3, 4, 3)),
    "transposed cropped": (nn.ConvTranspose((2, 2), (2, 2, 2, 2), (1, 1)), (3, 4, 2, 2), (2, 3, 5, 5)),
    "transposed grouped": (nn.ConvTranspose((2, 2), (1, 1, 1, 1), (1, 2), 2), (4, 3, 3, 3), (2, 4, 4, 3)),
    "gemm": (nn.Gemm(), (5, 4), (3, 5)),
    "gemm of a transposed weight": (nn.Gemm(trans_b=True), (4, 5), (3, 5)),
    "matmul": (nn.MatMul(), (5, 4), (2, 3, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_product_of_matrices(case: str) -> None:
    kind, shape, data = CASES[case]
    x, w = RNG.normal(size=data).astype(np.float32), RNG.normal(size=shape).astype(np.float32)
    value = GraphInput("x", TensorType(data, F32))
    graph = Graph((value,), (apply(kind, value, const(w)),), ("y",))
    expected = evaluate(graph, {"x": x}, ORACLE, float_type=np.float64)["y"]

    contraction = Contraction(kind, shape)
    assert (contraction.weight(contraction.matrix(w)) == w).all()
    assert contraction.matrix(w).shape[::2] == (contraction.groups, contraction.length)
    count = contraction.positions(x)
    every = np.broadcast_to(np.arange(count), (len(x), count))
    columns = contraction.columns(x, every).astype(np.float64)
    found = np.einsum("gok,gkn->gon", contraction.matrix(w).astype(np.float64), columns)
    if isinstance(kind, nn.Conv | nn.ConvTranspose):
        found = np.moveaxis(found.reshape(-1, len(x), *expected.shape[2:]), 0, 1)
    else:
        found = found[0].T.reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max() * contraction.length)

    means, number = contraction.mean_columns(x)
    assert number == count
    by_sample = columns.reshape(*columns.shape[:2], len(x), count).mean(axis=3)
    np.testing.assert_allclose(means, np.moveaxis(by_sample, 2, 0), atol=1e-12)


def test_chosen_columns() -> None:
    kind, shape, data = CASES["pads"]
    x, contraction = RNG.normal(size=data).astype(np.float32), Contraction(kind, shape)
    every = np.broadcast_to(np.arange(contraction.positions(x)), (len(x), contraction.positions(x)))
    chosen = np.array([[0, 3], [2, 1]])
    all_columns = contraction.columns(x, every).reshape(1, contraction.length, len(x), -1)
    expected = np.stack([all_columns[:, :, i, chosen[i]] for i in range(len(x))], axis=2).reshape(1, -1, 4)
    assert (contraction.columns(x, chosen) == expected).all()
