"""SQNR, cosine similarity and mean squared error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.errors import InputError
from amctc.numerics.error import ErrorStatistics, sqnr_db

vectors = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1000, 1000, width=16))


def test_sqnr_by_hand() -> None:
    assert sqnr_db([10.0, 0.0], [9.0, 0.0]) == 20.0  # 100 / 1
    assert sqnr_db([1.0, 1.0], [0.0, 0.0]) == 0.0
    assert sqnr_db(np.full(4, 3, np.int8), np.full(4, 6, np.int8)) == 0.0


def test_infinite_cases() -> None:
    assert sqnr_db([1.0, -2.0], [1.0, -2.0]) == math.inf
    assert sqnr_db([], []) == math.inf
    assert sqnr_db([0.0], [0.0]) == math.inf
    assert sqnr_db([0.0], [1.0]) == -math.inf
    assert sqnr_db([1.0, 2.0], [1.0, np.nan]) == -math.inf
    assert sqnr_db([1.0, 2.0], [np.inf, 2.0]) == -math.inf
    assert ErrorStatistics().updated([1.0], [np.inf]).cosine == 0.0
    assert ErrorStatistics().updated([1.0], [np.inf]).max_abs_error == math.inf


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError):
        sqnr_db([1.0], [1.0, 2.0])
    with pytest.raises(InputError):
        sqnr_db([np.nan], [1.0])


def test_statistics_by_hand() -> None:
    s = ErrorStatistics().updated([3.0, 4.0], [4.0, 3.0])
    assert (s.count, s.signal_energy, s.noise_energy, s.dot, s.max_abs_error) == (2, 25.0, 2.0, 24.0, 1.0)
    assert s.mse == 1.0
    assert s.cosine == 24.0 / 25.0
    assert ErrorStatistics().mse == 0.0
    assert ErrorStatistics().cosine == 1.0
    assert ErrorStatistics().updated([1.0], [0.0]).cosine == 0.0
    assert ErrorStatistics().updated([2.0], [-1.0]).cosine == -1.0


def test_float32_extremes_do_not_overflow() -> None:
    s = ErrorStatistics().updated(np.float32([3e38, 3e38]), np.float32([-3e38, 3e38]))
    np.testing.assert_allclose(s.sqnr_db, 10 * math.log10(2 / 4), rtol=1e-12)
    assert s.cosine == 0.0
    tiny = ErrorStatistics().updated(np.float32([1e-45]), np.float32([0.0]))
    assert tiny.sqnr_db == 0.0
    huge = ErrorStatistics().updated([1e200], [2e200])
    assert huge.sqnr_db == -math.inf  # the energy leaves float64: reported as lost, without a warning


def test_many_chunks_equal_one_formula() -> None:
    rng = np.random.default_rng(1)
    ref = rng.standard_normal((3, 70_000))
    act = ref + 0.01 * rng.standard_normal(ref.shape)
    s = ErrorStatistics().updated(ref, act)
    assert s.count == ref.size
    np.testing.assert_allclose(s.mse, np.mean((ref - act) ** 2), rtol=1e-12)
    np.testing.assert_allclose(s.cosine, (ref * act).sum() / np.sqrt((ref**2).sum() * (act**2).sum()), rtol=1e-12)
    assert s.max_abs_error == np.abs(ref - act).max()


@given(vectors, st.integers(-20, 20))
def test_sqnr_does_not_depend_on_a_power_of_two_scale(ref: np.ndarray, exponent: int) -> None:
    act = np.rint(ref)
    scaled = sqnr_db(np.ldexp(ref, exponent), np.ldexp(act, exponent))
    plain = sqnr_db(ref, act)
    assert scaled == plain or math.isclose(scaled, plain, abs_tol=1e-10)


@given(vectors, vectors)
def test_updates_merge(a: np.ndarray, b: np.ndarray) -> None:
    one = ErrorStatistics().updated(a, np.rint(a)).updated(b, np.rint(b))
    two = ErrorStatistics().updated(a, np.rint(a)).merged(ErrorStatistics().updated(b, np.rint(b)))
    assert one == two
    assert -1.0 <= one.cosine <= 1.0


def test_masked_elements_of_the_reference_count_for_nothing() -> None:
    masked = np.array([-np.inf, 3.0, np.nan, 4.0, np.inf])
    found = ErrorStatistics().updated_where_finite(masked, np.array([0.0, 3.0, 1.0, 4.5, np.inf]))
    assert (found.count, found.signal_energy, found.noise_energy) == (2, 25.0, 0.25)
    assert ErrorStatistics().updated_where_finite(masked, np.full(5, np.nan)).sqnr_db == -math.inf
    assert ErrorStatistics().updated_where_finite([1.0, 2.0], [1.0, 1.0]) == ErrorStatistics().updated([1, 2], [1, 1])
    with pytest.raises(InputError):
        ErrorStatistics().updated_where_finite([1.0, math.inf], [1.0])
