"""Integer products through float BLAS are exact: against int64, at the extremes and beyond the one-product bound."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.exact_gemm import PackedWeight, exact_in_float32, k_splits

LIMIT = 2**24


def extreme(name: str, shape: tuple[int, int]) -> np.ndarray:
    index = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
    rng = np.random.default_rng(7)
    return {
        "low": np.full(shape, -128),
        "high": np.full(shape, 127),
        "alternating": np.where(index % 2 == 0, -128, 127),
        "odd": np.where(index % 3 == 0, 1, 127),
        "random": rng.integers(-128, 128, shape),
        "sparse": rng.integers(-128, 128, shape) * (rng.random(shape) < 0.05),
    }[name].astype(np.int8)


@pytest.mark.parametrize("k", [1, 2, 127, 1023, 1024, 1025, 1041, 2049, 4608, 20000])
@pytest.mark.parametrize(
    ("left", "right"), [("low", "low"), ("high", "high"), ("low", "alternating"), ("random", "odd")]
)
def test_extremes_against_int64(k: int, left: str, right: str) -> None:
    x, w = extreme(left, (3, k)), extreme(right, (k, 5))
    bias = np.array([0, 1, -1, 2**24, -(2**30)])
    truth = x.astype(np.int64) @ w.astype(np.int64) + bias
    got, outside = PackedWeight(w, bias).matmul(x)
    assert got.dtype == np.int32
    assert outside == 0
    np.testing.assert_array_equal(got, truth)


@pytest.mark.parametrize("k", [64, 1024, 3000])
def test_float32_activations(k: int) -> None:
    x, w = extreme("random", (17, k)), extreme("random", (k, 9))
    truth = x.astype(np.int64) @ w.astype(np.int64)
    for activations in (x, x.astype(np.float32), np.asfortranarray(x.astype(np.float32))):
        packed = PackedWeight(w)
        np.testing.assert_array_equal(packed.matmul(activations)[0], truth)


def test_activations_are_not_changed() -> None:
    x, w = extreme("random", (4, 8)).astype(np.float32), extreme("random", (8, 3))
    before = x.copy()
    PackedWeight(w, np.arange(3)).matmul(x)
    np.testing.assert_array_equal(x, before)


def test_proof_at_its_edge() -> None:
    assert exact_in_float32([2**17], [0]).all()  # 128 · 2**17 = 2**24
    assert not exact_in_float32([2**17], [1]).any()
    assert not exact_in_float32([2**17], [-1]).any()
    assert not exact_in_float32([2**17 + 1], [0]).any()
    assert not exact_in_float32([2**17], [0], activation_magnitude=255).any()
    np.testing.assert_array_equal(exact_in_float32([1, 2**18], [5, 5]), [True, False])


def test_splits_by_hand() -> None:
    w = np.full((3000, 2), -128, np.int8)
    assert k_splits(w, None) == [0, 1024, 2048, 3000]
    w[:, 1] = 1
    assert k_splits(w[:, 1:], np.array([LIMIT - 128 * 3000])) == [0, 3000]
    assert k_splits(w[:, 1:], np.array([LIMIT])) == [0, 3000]  # only the bias breaks the bound: no cut helps
    assert k_splits(np.zeros((0, 2), np.int8)) == [0, 0]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.integers(1, 4), st.sampled_from([128, 255, 1024]))
def test_splits_are_sound_and_greedy(seed: int, k: int, n: int, magnitude: int) -> None:
    rng = np.random.default_rng(seed)
    w = (rng.integers(-128, 128, (k, n)) * rng.random((1, n)) ** 0.3).astype(np.int8)
    bounds = k_splits(w, None, magnitude)
    assert bounds[0] == 0
    assert bounds[-1] == k
    magnitudes = np.abs(w.astype(int))
    for start, end in itertools.pairwise(bounds):
        assert start < end
        assert magnitude * magnitudes[start:end].sum(axis=0).max() <= LIMIT
        if end < k:  # one more row would break some column
            assert magnitude * magnitudes[start : end + 1].sum(axis=0).max() > LIMIT


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2500), st.sampled_from(["random", "sparse", "alternating", "low"]))
def test_random_shapes_against_int64(seed: int, k: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 7)), int(rng.integers(1, 7))
    x, w = rng.integers(-128, 128, (m, k)).astype(np.int8), extreme(kind, (k, n))
    bias = rng.integers(-(2**29), 2**29, n) >> int(rng.integers(0, 29))
    np.testing.assert_array_equal(PackedWeight(w, bias).matmul(x)[0], x.astype(np.int64) @ w.astype(np.int64) + bias)


def test_unsigned_activations_need_their_magnitude() -> None:
    x, w = np.full((2, 1500), 255, np.uint8), extreme("high", (1500, 3))
    packed = PackedWeight(w, activation_magnitude=255)
    assert len(packed.splits) > 2
    np.testing.assert_array_equal(packed.matmul(x)[0], x.astype(np.int64) @ w.astype(np.int64))


def test_values_outside_int32_are_counted_and_saturated() -> None:
    x = np.array([[127], [-128], [0]], np.int8)
    w = np.array([[127, 1, 1]], np.int8)
    bias = np.array([2**31 - 1, -(2**31), 5])
    packed = PackedWeight(w, bias)
    assert packed.can_overflow
    got, outside = packed.matmul(x)
    # column 0 with +16129 and column 1 with -128 leave int32; the rest does not
    assert outside == 2
    expected = np.clip(x.astype(np.int64) @ w.astype(np.int64) + bias, -(2**31), 2**31 - 1)
    np.testing.assert_array_equal(got, expected)


def test_overflow_by_length_alone() -> None:
    k = 140_000
    x, w = np.full((1, k), -128, np.int8), np.full((k, 1), -128, np.int8)
    got, outside = PackedWeight(w).matmul(x)
    assert (int(got[0, 0]), outside) == (2**31 - 1, 1)


def test_empty_products() -> None:
    bias = np.array([3, -4])
    np.testing.assert_array_equal(
        PackedWeight(np.zeros((0, 2), np.int8), bias).matmul(np.zeros((2, 0), np.int8))[0], [bias, bias]
    )
    assert PackedWeight(np.zeros((3, 2), np.int8)).matmul(np.zeros((0, 3), np.int8))[0].shape == (0, 2)


def test_packed_weight_is_frozen_and_checks_its_input() -> None:
    packed = PackedWeight(np.ones((2, 2), np.int8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed.splits = (0, 1)  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        packed.matrix[0, 0] = 5
    for weight in (np.ones((2, 2), np.int16), np.ones(4, np.int8)):
        with pytest.raises(InputError):
            PackedWeight(weight)
    with pytest.raises(InputError):
        PackedWeight(np.ones((2, 2), np.int8), np.zeros(3, np.int64))
