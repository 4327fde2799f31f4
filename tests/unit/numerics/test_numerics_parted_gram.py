"""Gram matrices in parts: losses, sub-matrices, and where the parts end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.numerics import parted_gram
from amctc.numerics.parted_gram import PartedGram, parts_of

RNG = np.random.default_rng(81)


def whole(parts: PartedGram, length: int) -> np.ndarray:
    matrix = np.zeros((length, length))
    for terms, gram in parts.parts:
        matrix[terms, terms] = gram
    return matrix


@given(st.integers(1, 60), st.integers(0, 3), st.integers(1, 20))
def test_losses_of_all_and_of_some_terms(length: int, first: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parted_gram, "LONGEST", 16)
        slices = parts_of(length)
    parts = []
    for terms in slices:
        x = RNG.normal(size=(terms.stop - terms.start, 30))
        parts.append((terms, x @ x.T))
    gram, error = PartedGram(tuple(parts)), RNG.normal(size=(3, length))
    matrix = whole(gram, length)
    np.testing.assert_allclose(gram.loss(error), np.einsum("ok,kl,ol->o", error, matrix, error), rtol=1e-9)
    np.testing.assert_array_equal(gram.diagonal(), np.diag(matrix))
    some = slice(min(first, length - 1), min(first + size, length))
    inner = whole(gram.within(some), some.stop - some.start)
    np.testing.assert_array_equal(inner, matrix[some, some])


@given(st.integers(1, 5000), st.sampled_from([1, 32, 64, 256]))
def test_parts_cover_all_terms_in_whole_runs(length: int, unit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parted_gram, "LONGEST", 512)
        parts = parts_of(length, unit)
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
    assert parts[-1].stop == length
    assert all(p.start % unit == 0 and p.start < p.stop for p in parts)
    assert max(p.stop - p.start for p in parts) <= 512 + 2 * unit


def test_short_sums_have_one_part() -> None:
    assert parts_of(2304) == [slice(0, 2304)]
    assert parts_of(2305) == [slice(0, 1152), slice(1152, 2305)]
    assert parts_of(0) == [slice(0, 0)]
