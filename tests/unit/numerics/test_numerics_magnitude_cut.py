"""One magnitude threshold over several arrays: the same choice as one sort of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.errors import InputError
from amctc.numerics.magnitude_cut import cut_mask, magnitude_cut

few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 3e-45, 3e38, -2.5])
arrays = st.lists(hnp.arrays(np.float32, st.integers(1, 9), elements=few), min_size=1, max_size=4)


def masks(weights: list[np.ndarray], sparsity: float) -> list[list[bool]]:
    cut = magnitude_cut([lambda w=w: w for w in weights], sparsity)
    found = []
    for w in weights:
        mask, cut = cut_mask(w, cut)
        assert mask.shape == w.shape
        found.append(mask.tolist())
    return found


def test_by_hand() -> None:
    # Six weights, half go: 3, 2 and the first of the two that equal 1 stay.
    weights = [np.array([[3.0, 1.0]], np.float32), np.array([0.5, -1.0, -2.0, 0.0], np.float32)]
    assert masks(weights, 0.5) == [[[True, True]], [False, False, True, False]]
    assert masks(weights, 0.0) == [[[True, True]], [True] * 4]
    assert masks(weights, 1.0) == [[[False, False]], [False] * 4]


@given(arrays, st.floats(0, 1))
def test_as_one_sort(weights: list[np.ndarray], sparsity: float) -> None:
    flat = np.abs(np.concatenate(weights))
    kept = flat.size - round(sparsity * flat.size)
    expected = np.zeros(flat.size, bool)
    expected[sorted(range(flat.size), key=lambda i: (-flat[i], i))[:kept]] = True
    assert [m for row in masks(weights, sparsity) for m in row] == expected.tolist()


def test_refusals() -> None:
    for sparsity in (-0.1, 1.1, np.nan):
        with pytest.raises(InputError, match="sparsity"):
            magnitude_cut([lambda: np.ones(1, np.float32)], sparsity)
    with pytest.raises(InputError, match="NaN or infinite"):
        magnitude_cut([lambda: np.array([np.inf])], 0.5)
