"""Representatives of clusters where the right answer is known, and their coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.representatives import METHODS, coverage, k_center, k_means

RNG = np.random.default_rng(61)
CENTRES = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])


def clusters(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows within 1 of centres that are 100 apart, shuffled, and the cluster of each."""
    labels = RNG.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return CENTRES[labels] + RNG.uniform(-1, 1, (len(labels), 2)), labels


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sizes", [[10, 10, 10, 10], [200, 3, 1, 40]])
def test_one_of_each_cluster(name: str, sizes: list[int]) -> None:
    rows, labels = clusters(sizes)
    chosen = METHODS[name](rows, 4, 0)
    assert sorted(labels[chosen].tolist()) == [0, 1, 2, 3]
    assert coverage(rows, chosen).largest < 2 * np.sqrt(2)


def test_k_means_takes_the_row_nearest_the_mean() -> None:
    rows = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    assert k_means(rows, 2).tolist() == [1, 4]
    assert k_means(rows[[3, 0, 4, 1, 5, 2]], 2).tolist() == [2, 3]


def test_k_center_goes_to_the_farthest_by_hand() -> None:
    # Mean 4: first row 1 (at 3), then the farthest from it, 12, then 0 and 6 are 3 away from the chosen: the first.
    rows = np.array([[0.0], [3.0], [4.5], [6.0], [12.0], [-1.5]])
    assert k_center(rows, 1).tolist() == [2]
    assert k_center(rows, 2).tolist() == [2, 4]
    assert k_center(rows, 3).tolist() == [2, 4, 5]


def test_coverage_by_hand() -> None:
    found = coverage(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), [0])
    assert (found.mean, found.largest) == (2.0, 5.0)
    assert coverage(np.array([[1e6, 1.0], [1e6, 2.0]]), [0, 1]).largest == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_k_center_is_within_twice_the_best(seed: int, count: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(9, 2)).astype(np.float32)
    best = min(coverage(rows, list(c)).largest for c in itertools.combinations(range(9), count))
    assert coverage(rows, k_center(rows, count)).largest <= 2 * best * (1 + 1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(METHODS)), st.integers(1, 12))
def test_distinct_sorted_and_repeatable(seed: int, name: str, count: int) -> None:
    """Also of rows that are partly equal."""
    rows = np.random.default_rng(seed).integers(0, 3, (12, 2)).astype(np.float32)
    chosen = METHODS[name](rows, count, seed)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count
    assert chosen.tolist() == METHODS[name](rows, count, seed).tolist()
    different = len(np.unique(rows, axis=0))
    assert count < different or coverage(rows, chosen).largest == 0.0 or name == "k-means"


@pytest.mark.parametrize("name", METHODS)
def test_all_of_equal_rows(name: str) -> None:
    assert METHODS[name](np.ones((5, 3)), 5, 0).tolist() == [0, 1, 2, 3, 4]


def test_better_than_chance() -> None:
    rows = RNG.normal(size=(400, 8)) * np.repeat([0.1, 3.0], [320, 80])[:, None]
    random = [coverage(rows, RNG.choice(400, 20, replace=False)) for _ in range(10)]
    assert coverage(rows, k_means(rows, 20)).mean < min(r.mean for r in random)
    assert coverage(rows, k_center(rows, 20)).largest < min(r.largest for r in random)


@pytest.mark.parametrize(
    "features", [np.ones((2, 3)), np.ones(5), np.zeros((0, 2)), np.full((4, 2), np.nan), np.full((4, 2), np.inf)]
)
@pytest.mark.parametrize("name", METHODS)
def test_refused(name: str, features: np.ndarray) -> None:
    with pytest.raises(InputError):
        METHODS[name](features, 3, 0)
