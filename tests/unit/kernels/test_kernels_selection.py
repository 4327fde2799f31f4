"""Kernels that choose elements, against arrays written out by hand; they keep every element type."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import InputError
from amctc.kernels import selection
from amctc.ops.shapes import slice_range

X = np.arange(6, dtype=np.int8).reshape(2, 3)


def test_split_into_unequal_and_empty_parts() -> None:
    first, none, last = selection.split(X, axis=-1, sizes=(1, 0, 2))
    np.testing.assert_array_equal(first, [[0], [3]])
    assert none.shape == (2, 0)
    np.testing.assert_array_equal(last, [[1, 2], [4, 5]])
    with pytest.raises(InputError, match="parts of"):
        selection.split(X, axis=1, sizes=(1, 1))


@pytest.mark.parametrize(
    ("start", "end", "step", "positions"),
    [
        (1, 4, 1, [1, 2, 3]),
        (-3, 100, 1, [2, 3, 4]),
        (-100, 2, 1, [0, 1]),
        (3, 1, 1, []),
        (0, 5, 2, [0, 2, 4]),
        (4, 0, -1, [4, 3, 2, 1]),  # the end is not taken
        (-1, -(2**63), -1, [4, 3, 2, 1, 0]),
        (2**63 - 1, -6, -2, [4, 2, 0]),  # the end is clamped to before element 0
        (-100, -200, -1, [0]),  # a backward slice starts at element 0 at the least; NumPy takes none
        (-2, -1, -1, []),
    ],
)
def test_slice_positions(start: int, end: int, step: int, positions: list[int]) -> None:
    assert list(slice_range(5, start, end, step)) == positions
    x = np.arange(10, 15)
    sliced = selection.slice_axes(x, starts=(start,), ends=(end,), axes=(0,), steps=(step,))
    np.testing.assert_array_equal(sliced, x[positions] if positions else x[:0])


def test_slice_of_nothing_and_of_two_axes() -> None:
    assert list(slice_range(0, -1, -9, -1)) == []
    both = selection.slice_axes(X, starts=(-1, 0), ends=(-9, 3), axes=(0, -1), steps=(-1, 2))
    np.testing.assert_array_equal(both, [[3, 5], [0, 2]])


def test_gather_counts_from_either_end_and_refuses_what_is_not_there() -> None:
    np.testing.assert_array_equal(selection.gather(X, np.asarray([-1, 0]), axis=1), [[2, 0], [5, 3]])
    assert selection.gather(X, np.asarray(1), axis=0).tolist() == [3, 4, 5]
    assert selection.gather(X, np.zeros((2, 0), np.int64), axis=1).shape == (2, 2, 0)
    assert selection.gather(X, np.asarray([[0]]), axis=1).dtype == np.int8
    for index in (3, -4):
        with pytest.raises(InputError, match="an axis of 3 elements"):
            selection.gather(X, np.asarray([0, index]), axis=1)


def test_pad() -> None:
    np.testing.assert_array_equal(
        selection.pad(X, pads=(1, -1, 0, 2), value=9.0), [[9, 9, 9, 9], [1, 2, 9, 9], [4, 5, 9, 9]]
    )
    np.testing.assert_array_equal(selection.pad(X[0], pads=(2, 1), mode="reflect"), [2, 1, 0, 1, 2, 1])
    np.testing.assert_array_equal(selection.pad(X[0], pads=(1, 3), mode="edge"), [0, 0, 1, 2, 2, 2, 2])
    assert selection.pad(X, pads=(0, 1, 0, 0), value=-128.0).dtype == np.int8
    assert selection.pad(np.float16([1]), pads=(1, 0), value=-1e30).tolist() == [-np.inf, 1]
    assert selection.pad(np.float32(3), pads=(), mode="edge") == 3
    assert selection.pad(np.int64([1]), pads=(1, 0), value=2**53 + 1).tolist() == [2**53 + 1, 1]
    with pytest.raises(InputError, match="reflect"):
        selection.pad(X[0], pads=(3, 0), mode="reflect")
    with pytest.raises(InputError, match="edge"):
        selection.pad(X[0, :0], pads=(1, 0), mode="edge")


def test_axes_of_size_one() -> None:
    assert selection.unsqueeze(X, axes=(0, -1)).shape == (1, 2, 3, 1)
    assert selection.squeeze(X[:1, None], axes=(0, -2)).shape == (3,)
    with pytest.raises(InputError, match="are not all 1"):
        selection.squeeze(X, axes=(0,))
    np.testing.assert_array_equal(selection.expand(X[:, :1], shape=(2, 1, 3)), [[[0] * 3, [3] * 3]] * 2)
    assert selection.expand(X, shape=(1,)).shape == (2, 3)
