"""Low-rank factors: exactness at full rank, error by rank (P20), ranks by energy and cost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.low_rank import (
    Factors,
    full_rank,
    joined,
    rank_by_energy,
    rank_by_ratio,
    reconstruction_error,
    relative_error,
    singular_values,
    spatial_cost,
    split_matrix,
    split_pointwise,
    split_spatial,
)

shapes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


def weights(shape: tuple[int, ...], seed: int = 0, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(kind)


def convolved(x: np.ndarray, w: np.ndarray, stride: tuple[int, int], pad: tuple[int, int]) -> np.ndarray:
    """Convolution of [N, I, H, W] in float64, the plain definition."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    return np.einsum("nihwyx,oiyx->nohw", windows, w.astype(np.float64), optimize=True)


@settings(max_examples=60, deadline=None)
@given(shapes, st.booleans(), st.integers(0, 9))
def test_full_rank_reproduces_the_kernel(shape: tuple[int, int, int, int], vertical_first: bool, seed: int) -> None:
    w = weights(shape, seed)
    outputs, inputs, height, width = shape
    rank = full_rank(shape, vertical_first=vertical_first)
    first, last = split_spatial(w, rank, vertical_first=vertical_first)
    if vertical_first:
        assert first.shape == (rank, inputs, height, 1)
        assert last.shape == (outputs, rank, 1, width)
    else:
        assert first.shape == (rank, inputs, 1, width)
        assert last.shape == (outputs, rank, height, 1)
    assert first.dtype == last.dtype == np.float32
    product = np.einsum(
        "riy,orx->oiyx" if vertical_first else "rix,ory->oiyx",
        first.squeeze(3 if vertical_first else 2),
        last.squeeze(2 if vertical_first else 3),
    )
    np.testing.assert_allclose(product, w, atol=1e-5)
    np.testing.assert_allclose(joined(Factors(first, last)), w, atol=1e-5)
    most = min(inputs, outputs * height * width)
    first, last = split_pointwise(w, most)
    assert first.shape == (most, inputs, 1, 1)
    np.testing.assert_allclose(np.einsum("ri,oryx->oiyx", first[:, :, 0, 0], last), w, atol=1e-5)
    np.testing.assert_allclose(joined(Factors(first, last)), w, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 9))
def test_error_falls_with_the_rank(rows: int, columns: int, seed: int) -> None:
    w = weights((rows, columns), seed, np.float64)
    s = singular_values(w, "matrix")
    errors = []
    for rank in range(1, s.size + 1):
        left, right = split_matrix(w, rank)
        direct = np.linalg.norm(w - left @ right) / np.linalg.norm(w)
        assert reconstruction_error(w, Factors(left, right)) == pytest.approx(direct, abs=1e-12)
        assert relative_error(s, rank) == pytest.approx(direct, abs=1e-12)
        # both sides carry sqrt(S)
        np.testing.assert_allclose(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1))
        errors.append(direct)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] <= 1e-5


@pytest.mark.parametrize("vertical_first", [True, False])
def test_two_convolutions_compute_the_joined_one(vertical_first: bool) -> None:
    x, w = weights((1, 6, 9, 10), 1), weights((8, 6, 3, 5), 2)
    first, last = split_spatial(w, 4, vertical_first=vertical_first)
    if vertical_first:
        y = convolved(convolved(x, first, (2, 1), (1, 0)), last, (1, 2), (0, 2))
    else:
        y = convolved(convolved(x, first, (1, 2), (0, 2)), last, (2, 1), (1, 0))
    np.testing.assert_allclose(y, convolved(x, joined(Factors(first, last)), (2, 2), (1, 2)), atol=1e-4)


@pytest.mark.parametrize("split", ["vertical", "horizontal", "pointwise"])
def test_error_of_kernels_falls_with_the_rank(split: str) -> None:
    w, vertical = weights((6, 4, 3, 3), 3), split == "vertical"
    s = singular_values(w, "pointwise" if split == "pointwise" else "spatial", vertical_first=vertical)
    previous = 1.0
    for rank in range(1, s.size + 1):
        factors = split_pointwise(w, rank) if split == "pointwise" else split_spatial(w, rank, vertical_first=vertical)
        error = reconstruction_error(w, factors)
        assert error == pytest.approx(relative_error(s, rank), abs=1e-6)
        assert error <= previous + 1e-6
        previous = error
    assert previous <= 1e-5


def test_ranks_by_hand() -> None:
    s = np.array([3.0, 2.0, 1.0, 0.0])
    assert [rank_by_energy(s, e) for e in (0.5, 9 / 14, 0.65, 13 / 14, 0.99, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_by_energy(np.zeros(3), 1.0) == 1
    assert relative_error(s, 1) == pytest.approx(math.sqrt(5 / 14))
    assert relative_error(s, 4) == 0.0
    assert relative_error(np.zeros(2), 1) == 0.0
    # 64·32·9 weights; per rank 32·3 + 64·3
    assert spatial_cost((64, 32, 3, 3)) == (18432, 288)
    assert spatial_cost((64, 32, 3, 5), strides=(2, 3)) == (30720, 32 * 3 * 3 + 64 * 5)
    assert spatial_cost((64, 32, 3, 5), strides=(2, 3), vertical_first=False) == (30720, 32 * 5 * 2 + 64 * 3)
    assert rank_by_ratio(0.5, 18432, 288, 96) == 32
    assert rank_by_ratio(0.5, 18432, 288, 96, multiple=16) == 32
    assert rank_by_ratio(0.49, 18432, 288, 96, multiple=16) == 16
    assert rank_by_ratio(2.0, 18432, 288, 96) == 96
    assert rank_by_ratio(0.001, 18432, 288, 96) == 0


def test_bad_input() -> None:
    w = weights((4, 3, 3, 3))
    for rank in (0, 10):
        with pytest.raises(InputError):
            split_spatial(w, rank)
    for bad in (w[0], w * np.nan, np.zeros((2, 0, 3, 3)), np.zeros((2, 2, 3, 3), np.int8)):
        with pytest.raises(InputError):
            split_spatial(bad, 1)
    with pytest.raises(InputError):
        joined(Factors(w, w))
    with pytest.raises(InputError):
        joined(Factors(weights((2, 3)), weights((4, 2))))
    for energy in (0.0, 1.1):
        with pytest.raises(InputError):
            rank_by_energy(np.ones(2), energy)
    with pytest.raises(InputError):
        rank_by_ratio(0.0, 1.0, 1.0, 1)
