"""AdaRound: against enumeration, against rounding to nearest, and at the edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from amctc.errors import InputError
from amctc.numerics.adaround import adaround

RNG = np.random.default_rng(41)


def loss(w: np.ndarray, q: np.ndarray, s: np.ndarray, h: np.ndarray) -> np.ndarray:
    damped = h + np.eye(len(h)) * 0.01 * np.mean(np.diag(h))
    error = w - q * s[:, None]
    return np.array([e @ damped @ e for e in error])


def enumerated(w: np.ndarray, s: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The least loss of each row, over all ways to round it up or down."""
    floor = np.floor(w / s[:, None])
    ways = [loss(w, floor + np.array(up), s, h) for up in itertools.product((0, 1), repeat=w.shape[1])]
    return np.min(ways, axis=0)


@pytest.mark.parametrize("correlation", [-0.9, -0.5, 0.0, 0.5, 0.9])
def test_two_weights_against_enumeration(correlation: float) -> None:
    """All fractions on a grid of eighths, off the ties: the best of the four ways is found for every one."""
    h = np.array([[1.0, correlation], [correlation, 1.0]])
    eighths = np.arange(1, 16, 2) / 16
    w = 3.0 + np.array(list(itertools.product(eighths, eighths + 1 / 64)))
    scales = np.ones(len(w))
    found, best = loss(w, adaround(w, h, scales), scales, h), enumerated(w, scales, h)
    np.testing.assert_allclose(found, best, rtol=1e-12)


def test_two_weights_by_hand() -> None:
    # Equal inputs: only the sum 0.4 + 0.45 matters, which 0 + 1 misses by 0.15 and 0 + 0 by 0.85.
    found = adaround([[0.4, 0.45]], np.ones((2, 2)), [1.0])
    assert sorted(found[0].tolist()) == [0, 1]
    assert found.dtype == np.int8


def test_a_diagonal_matrix_rounds_to_nearest() -> None:
    w = RNG.normal(size=(5, 7)) * 40
    assert (adaround(w, np.diag(RNG.uniform(0.5, 2, 7)), np.ones(5)) == np.rint(w)).all()


def test_correlated_inputs_gain_much() -> None:
    x = RNG.normal(size=(1, 4000)) + 0.1 * RNG.normal(size=(8, 4000))
    w, h = RNG.normal(size=(64, 8)), x @ x.T / 4000
    s = np.abs(w).max(axis=1) / 7
    nearest = np.clip(np.rint(w / s[:, None]), -8, 7)
    assert loss(w, nearest, s, h).sum() > 4 * loss(w, adaround(w, h, s, bits=4), s, h).sum()


def test_every_weight_goes_up_or_down_and_stays_in_storage() -> None:
    x, w = RNG.normal(size=(6, 50)), RNG.normal(size=(4, 6)) * 9
    w[:, 2] = 0.0
    found = adaround(w, x @ x.T, np.ones(4), bits=4, steps=200)
    assert -8 <= found.min() <= found.max() <= 7
    assert (found[:, 2] == 0).all()
    inside = np.abs(w) < 7
    assert (np.abs(found - w) < 1)[inside].all()


def test_runs_repeat() -> None:
    x, w = RNG.normal(size=(6, 50)), RNG.normal(size=(4, 6))
    assert (adaround(w, x @ x.T, np.full(4, 0.3)) == adaround(w, x @ x.T, np.full(4, 0.3))).all()


def test_empty() -> None:
    assert adaround(np.zeros((0, 3)), np.eye(3), np.zeros(0)).shape == (0, 3)
    assert adaround(np.zeros((2, 0)), np.zeros((0, 0)), np.ones(2)).shape == (2, 0)


def test_inputs_that_are_always_zero() -> None:
    assert adaround([[0.4, 1.6]], np.zeros((2, 2)), [1.0]).tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("gram", "scales", "message"),
    [(np.eye(3), [1.0], "Gram matrix"), (np.eye(2), [1.0, 1.0], "scales"), (np.full((2, 2), np.nan), [1.0], "finite")],
)
def test_refused(gram: np.ndarray, scales: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        adaround([[1.0, 2.0]], gram, scales)
