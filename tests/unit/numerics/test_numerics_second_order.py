"""Second-order rounding: against enumeration, against rounding to nearest, and at the edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.second_order import quadratic_loss, round_second_order

RNG = np.random.default_rng(11)


def loss(w: np.ndarray, q: np.ndarray, s: np.ndarray, h: np.ndarray) -> np.ndarray:
    error = w - q * s[:, None]
    return np.array([e @ h @ e for e in error])


def damped(h: np.ndarray, damping: float = 0.01) -> np.ndarray:
    return h + np.eye(len(h)) * damping * np.mean(np.diag(h))


def test_two_weights_by_hand() -> None:
    # Equal inputs: only the sum 0.4 + 0.4 = 0.8 matters, which 0 + 0 misses by 0.8 and 1 + 0 by 0.2.
    found = round_second_order([[0.4, 0.4]], np.ones((2, 2)), [1.0])
    assert sorted(found[0].tolist()) == [0, 1]
    assert found.dtype == np.int8


def test_a_diagonal_matrix_rounds_to_nearest() -> None:
    w = RNG.normal(size=(5, 7)) * 40
    assert (round_second_order(w, np.diag(RNG.uniform(0.5, 2, 7)), np.ones(5)) == np.rint(w)).all()


@given(st.integers(0, 2**32 - 1))
def test_two_weights_against_enumeration(seed: int) -> None:
    """In two dimensions the descent from two starts finds an optimum no single step improves, and mostly the best."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 5))
    h, w = x @ x.T / 5, rng.uniform(-3, 3, (1, 2))
    found = loss(w, round_second_order(w, h, [1.0], sweeps=8), np.ones(1), damped(h))[0]
    around = [np.rint(w) + np.array([step]) for step in itertools.product((-1, 0, 1), repeat=2)]
    best = min(loss(w, q, np.ones(1), damped(h))[0] for q in around)
    nearest = loss(w, np.rint(w), np.ones(1), damped(h))[0]
    assert found <= nearest + 1e-12
    assert found >= best - 1e-12 or found < nearest  # a wider search may beat the neighbourhood


@given(st.integers(0, 2**32 - 1), st.sampled_from((4, 8)), st.integers(1, 12), st.integers(1, 20))
def test_never_worse_than_nearest(seed: int, bits: int, outputs: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(length, rng.integers(1, 2 * length + 1))) * rng.uniform(0.1, 3, (length, 1))
    h = x @ x.T / x.shape[1]
    w = rng.normal(size=(outputs, length))
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    s = np.abs(w).max(axis=1) / high
    found = round_second_order(w, h, s, bits=bits)
    assert low <= found.min() <= found.max() <= high
    nearest = np.clip(np.rint(w / s[:, None]), low, high)
    assert (loss(w, found, s, damped(h)) <= loss(w, nearest, s, damped(h)) * (1 + 1e-9) + 1e-15).all()


def test_correlated_inputs_gain_much() -> None:
    """Smooth signals: eight inputs that are nearly one; at 4 bits the output error falls to a quarter."""
    x = RNG.normal(size=(1, 4000)) + 0.1 * RNG.normal(size=(8, 4000))
    w, h = RNG.normal(size=(64, 8)), x @ x.T / 4000
    s = np.abs(w).max(axis=1) / 7
    nearest = np.clip(np.rint(w / s[:, None]), -8, 7)
    gain = loss(w, nearest, s, h).sum() / loss(w, round_second_order(w, h, s, bits=4), s, h).sum()
    assert gain > 4


def test_masked_weights_stay_zero() -> None:
    w = RNG.normal(size=(6, 16))
    w[:, ::2] = 0.0
    x = RNG.normal(size=(16, 40)) + 1.0
    assert (round_second_order(w, x @ x.T, np.full(6, 0.1))[:, ::2] == 0).all()


def test_an_input_that_is_always_zero() -> None:
    """Nothing depends on the first weight: any integer does, the others are rounded as if it were not there."""
    h = np.diag([0.0, 1.0, 2.0])
    found = round_second_order([[0.4, 1.4, 2.6]], h, [1.0])
    assert found[0, 1:].tolist() == [1, 3]
    assert round_second_order([[0.4, 1.6]], np.zeros((2, 2)), [1.0]).tolist() == [[0, 2]]


def test_empty() -> None:
    assert round_second_order(np.zeros((0, 3)), np.eye(3), np.zeros(0)).shape == (0, 3)
    assert round_second_order(np.zeros((2, 0)), np.zeros((0, 0)), np.ones(2)).shape == (2, 0)


def test_quadratic_loss() -> None:
    e, h = RNG.normal(size=(4, 3)), np.diag([1.0, 2.0, 3.0])
    np.testing.assert_allclose(quadratic_loss(e, h), (e * e) @ [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("gram", "scales", "message"),
    [(np.eye(3), [1.0], "Gram matrix"), (np.eye(2), [1.0, 1.0], "scales"), (np.full((2, 2), np.nan), [1.0], "finite")],
)
def test_refused(gram: np.ndarray, scales: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        round_second_order([[1.0, 2.0]], gram, scales)


@given(st.integers(0, 2**32 - 1))
def test_a_step_for_each_weight_and_zero_points(seed: int) -> None:
    """Blocks of inputs with scales and zero points of their own: storable, and never worse than to nearest."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=(3, 8)), rng.normal(size=(8, 12))
    h, steps = x @ x.T / 12, np.repeat(rng.uniform(0.1, 0.5, (3, 2)), 4, axis=1)
    zeros = np.repeat(rng.integers(-8, 8, (3, 2)), 4, axis=1)
    found = round_second_order(w, h, steps, bits=4, zero_points=zeros)
    assert -8 <= found.min() <= found.max() <= 7
    nearest = np.clip(np.rint(w / steps) + zeros, -8, 7)
    errors = [quadratic_loss(w - (q - zeros) * steps, damped(h)) for q in (found, nearest)]
    assert (errors[0] <= errors[1] * (1 + 1e-9)).all()


def test_one_scale_per_output_is_a_step_for_each_weight() -> None:
    w, x = RNG.normal(size=(4, 9)), RNG.normal(size=(9, 40))
    s = np.abs(w).max(axis=1) / 7
    spread = np.broadcast_to(s[:, None], w.shape)
    assert (round_second_order(w, x @ x.T, s, bits=4) == round_second_order(w, x @ x.T, spread, bits=4)).all()
