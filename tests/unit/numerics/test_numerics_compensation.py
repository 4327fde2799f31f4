"""Weights that make up for a loss upstream: exactly where they can, not at all where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.numerics.compensation import compensated
from amctc.numerics.gram import Covariance, CrossCovariance

RNG = np.random.default_rng(51)


def test_a_gain_is_undone() -> None:
    """Inputs arrive at half their size: weights of twice the size give the old output."""
    x = RNG.normal(size=(3, 1000))
    half = x / 2
    w = RNG.normal(size=(2, 3))
    found = compensated(w, half @ half.T, (x - half) @ half.T, ridge=0.0)
    np.testing.assert_allclose(found, 2 * w, rtol=1e-10)


def test_one_input_by_hand() -> None:
    # H = 4, D = 2, ridge 1: w + w·2/(4 + 4) = 1.25 w.
    assert compensated(np.array([[8.0]]), np.array([[4.0]]), np.array([[2.0]]), ridge=1.0).tolist() == [[10.0]]


def test_the_least_squares_solution() -> None:
    """Of all weights on the disturbed inputs, these come closest to the outputs."""
    x = RNG.normal(size=(4, 500)).cumsum(axis=0)
    seen, w = np.round(x), RNG.normal(size=(3, 4))
    found = compensated(w, seen @ seen.T, (x - seen) @ seen.T, ridge=0.0)
    expected = np.linalg.lstsq(seen.T, (w @ x).T, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_nothing_lost_or_nothing_read() -> None:
    w = RNG.normal(size=(2, 3))
    assert compensated(w, np.eye(3), np.zeros((3, 3))).tolist() == w.tolist()
    assert compensated(w, np.zeros((3, 3)), np.ones((3, 3))) is w
    assert compensated(np.zeros((2, 0)), np.zeros((0, 0)), np.zeros((0, 0))).shape == (2, 0)


def test_masked_weights_stay_zero() -> None:
    w = np.array([[1.0, 0.0, 2.0]])
    assert compensated(w, np.eye(3), np.ones((3, 3)))[0, 1] == 0


@pytest.mark.parametrize("centred", [False, True])
def test_moments_in_batches(centred: bool) -> None:
    """The moments are those of all columns at once, but for the shrinkage; small integers are exact."""
    columns, differences = RNG.integers(-8, 9, (2, 2, 3, 60)).astype(np.float32)
    centre = np.rint(columns.mean(axis=2)).astype(np.float64) + 1 if centred else None
    cross, whole = CrossCovariance(centre), Covariance(centre)
    others = CrossCovariance(centre), Covariance(centre)
    for part, (crossed, own) in ((slice(0, 10), (cross, whole)), (slice(10, 60), others)):
        crossed.add(differences[..., part], columns[..., part])
        own.add(columns[..., part])
    cross.absorb(others[0])
    whole.absorb(others[1])
    for group in range(2):
        d, x = (a[group].astype(np.float64) for a in (differences, columns))
        if centred:
            d, x = (a - a.mean(axis=1, keepdims=True) for a in (d, x))
        np.testing.assert_allclose(cross.matrix(3)[group], d @ x.T / 63, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(whole.matrix(2, 3, shrunk=False)[group], x @ x.T / 60, rtol=1e-12, atol=1e-12)
