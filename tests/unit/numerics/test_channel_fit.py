"""Gains and offsets of channels against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.numerics.channel_fit import LARGEST_GAIN, fitted_gains, fitted_offsets

RNG = np.random.default_rng(71)
ALL = np.ones((2, 4), np.bool_)


def test_a_shift_is_the_offset() -> None:
    seen = RNG.integers(-9, 10, (2, 4)).astype(np.float64)
    moved = seen + np.array([[0.5], [-2.0]])
    np.testing.assert_array_equal(fitted_offsets(moved, seen, ALL), [0.5, -2.0])


def test_a_scale_is_the_gain() -> None:
    seen = np.array([[1.0, 2.0, 4.0, 5.0], [-1.0, 0.0, 0.0, 1.0]])
    gains, offsets = fitted_gains(seen * [[1.25], [0.75]] + [[3.0], [0.0]], seen, ALL)
    np.testing.assert_allclose(gains, [1.25, 0.75], rtol=1e-15)
    np.testing.assert_allclose(offsets, [3.0, 0.0], atol=1e-14)


def test_only_what_is_counted() -> None:
    real, seen = np.array([[1.0, 2.0, 99.0, 3.0]]), np.array([[0.0, 1.0, 0.0, 2.0]])
    counted = np.array([[True, True, False, True]])
    assert fitted_offsets(real, seen, counted).tolist() == [1.0]
    gains, offsets = fitted_gains(real, seen, counted)
    assert (gains.tolist(), offsets.tolist()) == ([1.0], [1.0])
    assert fitted_offsets(real, seen, ~ALL[:1]).tolist() == [0.0]


@pytest.mark.parametrize("seen", [[2.0, 2.0], [-1.0, -2.0], [1.0, 9.0]])
def test_no_gain_that_is_no_rounding_error(seen: list[float]) -> None:
    """Channels that do not vary, are turned over, or eight times as wide keep their scale; their mean is right."""
    gains, offsets = fitted_gains([[1.0, 2.0]], [seen], np.ones((1, 2), np.bool_))
    assert gains.tolist() == [1.0]
    np.testing.assert_allclose(offsets, [1.5 - np.mean(seen)])


@given(st.integers(0, 2**32 - 1))
def test_no_other_gain_and_offset_leave_less(seed: int) -> None:
    draw = np.random.default_rng(seed)
    real = draw.normal(size=(1, 16))
    seen = real + 0.2 * draw.normal(size=real.shape)
    gains, offsets = fitted_gains(real, seen, np.ones(real.shape, np.bool_))
    least = np.square(real - gains * seen - offsets).sum()
    assert 1.0 / LARGEST_GAIN < gains[0] < LARGEST_GAIN
    for gain, offset in draw.normal(0.0, 0.1, (8, 2)):
        assert np.square(real - (gains + gain) * seen - (offsets + offset)).sum() >= least
