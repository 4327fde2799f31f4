"""Scales by output error: which candidate, for which output."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from amctc.numerics.scale_search import NARROWEST, search_scales


def test_each_output_takes_its_own_share() -> None:
    """The error is the distance to a wanted scale: the nearest candidate wins, output by output."""
    full, wanted = np.array([1.0, 2.0, 4.0]), np.array([0.45, 2.0, 3.0])  # of shares 1, 0.95, … 0.45

    def trial(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.rint(10 * scales)[:, None].astype(np.int8), np.abs(scales - wanted)

    scales, codes = search_scales(full, trial, 12)
    np.testing.assert_allclose(scales, wanted, rtol=2.0**-24)
    assert (scales == scales.astype(np.float32)).all()
    assert codes[:, 0].tolist() == np.rint(10 * scales).tolist()


def test_full_range_where_nothing_depends_on_it() -> None:
    full = np.array([0.5, 3.0])
    scales, _ = search_scales(full, lambda s: (np.zeros((2, 1), np.int8), np.zeros(2)), 5)
    assert scales.tolist() == full.tolist()


def test_one_candidate_is_the_full_range() -> None:
    seen = []

    def trial(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(scales.tolist())
        return np.zeros((1, 2), np.int8), np.ones(1)

    search_scales(np.array([2.0]), trial, 1)
    assert seen == [[2.0]]
    search_scales(np.array([2.0]), trial, 3)
    np.testing.assert_allclose(np.ravel(seen[1:]), [2.0, 1.0 + NARROWEST, 2.0 * NARROWEST], rtol=2.0**-23)


@given(st.integers(0, 2**32 - 1))
def test_four_bits_of_a_normal_weight_clip_it(seed: int) -> None:
    """Under white inputs 256 normally distributed weights lose less when the largest ones are clipped."""
    w = np.random.default_rng(seed).normal(size=(8, 256))

    def trial(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = np.clip(np.rint(w / scales[:, None]), -8, 7).astype(np.int8)
        return codes, np.square(w - codes * scales[:, None]).sum(axis=1)

    full = np.abs(w).max(axis=1) / 7
    scales, codes = search_scales(full, trial, 12)
    error = np.square(w - codes * scales[:, None]).sum()
    assert error < trial(full)[1].sum()
    assert (scales <= full).all()
