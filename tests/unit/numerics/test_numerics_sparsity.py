"""Masks, the 2-of-4 wire form (N22), and prune records."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.errors import InputError
from amctc.numerics.sparsity import (
    SparseWeight,
    decode_two_of_four,
    encode_two_of_four,
    has_n_of_m,
    magnitude_mask,
    n_of_m_mask,
    pack_mask,
    unpack_mask,
)

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden vectors are not beside this checkout")
small = st.integers(-3, 3).map(float)
arrays = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3)), elements=small)


@given(arrays, st.floats(0, 1))
def test_magnitude_mask(w: np.ndarray, sparsity: float) -> None:
    mask = magnitude_mask(w, sparsity)
    assert mask.shape == w.shape
    assert abs((~mask).sum() - sparsity * w.size) <= 0.5
    kept, gone = np.flatnonzero(mask), np.flatnonzero(~mask)
    flat = np.abs(w.reshape(-1))
    for k, g in itertools.product(kept, gone):
        assert flat[k] > flat[g] or (flat[k] == flat[g] and k < g)


def test_magnitude_mask_of_int8() -> None:
    assert magnitude_mask(np.array([-128, 127, 1], np.int8), 2 / 3).tolist() == [True, False, False]
    for sparsity in (-0.1, 1.1, np.nan):
        with pytest.raises(InputError):
            magnitude_mask([1.0], sparsity)
    with pytest.raises(InputError):
        magnitude_mask([np.nan], 0.5)


@given(arrays, st.sampled_from([0, 1, 2, -1]), st.integers(1, 4))
def test_n_of_m(w: np.ndarray, axis: int, n: int) -> None:
    mask = n_of_m_mask(w, axis=axis, n=n)
    rows, kept = np.moveaxis(w, axis, -1), np.moveaxis(mask, axis, -1)
    for index in np.ndindex(rows.shape[:-1]):
        for at in range(0, rows.shape[-1], 4):
            group = np.abs(rows[index][at : at + 4])
            expected = sorted(range(group.size), key=lambda i, group=group: (-group[i], i))[:n]
            assert sorted(np.flatnonzero(kept[index][at : at + 4])) == sorted(expected)


@needs_golden
@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("sel4n2_*.npz") if "record" not in p.stem))
def test_golden_masks(name: str) -> None:
    """Also the ties, which the tool does not promise: it, too, keeps the first."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        axis = json.loads(str(data["params_json"]))["prune_axis"]
        np.testing.assert_array_equal(n_of_m_mask(data["in_weight"], axis=axis), data["out_mask"] == 1)


@needs_golden
@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("sel4n2_record_*.npz")))
def test_golden_records(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as data:
        mask = data["in_mask"]
        np.testing.assert_array_equal(pack_mask(mask), data["out_packed_int64"])
        np.testing.assert_array_equal(unpack_mask(data["out_packed_int64"], mask.shape), mask == 1)


def test_pack_by_hand() -> None:
    assert pack_mask([1, 0, 0, 0, 0, 0, 0, 1, 1]).tolist() == [0x8081]
    assert pack_mask([1] * 64 + [0, 1]).tolist() == [-1, 0x40]
    with pytest.raises(InputError):
        unpack_mask([1, 2], (64,))


@given(hnp.arrays(np.bool_, st.tuples(st.integers(0, 9), st.integers(1, 30))))
def test_pack_round_trip(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask), mask.shape), mask)


@pytest.mark.parametrize(
    ("group", "indices", "values"),
    [
        ([0, 0, 5, 6], (2, 2), (5, 6)),
        ([0, 5, 0, 6], (1, 2), (5, 6)),
        ([0, 5, 6, 0], (1, 1), (5, 6)),
        ([5, 0, 0, 6], (0, 2), (5, 6)),
        ([5, 0, 6, 0], (0, 1), (5, 6)),
        ([5, 6, 0, 0], (0, 0), (5, 6)),
        ([0, 0, 0, 6], (0, 2), (0, 6)),
        ([0, 0, 6, 0], (2, 1), (6, 0)),
        ([0, 6, 0, 0], (1, 0), (6, 0)),
        ([6, 0, 0, 0], (0, 0), (6, 0)),
        ([0, 0, 0, 0], (0, 0), (0, 0)),
    ],
)
def test_indices_of_every_pattern(group: list[int], indices: tuple[int, int], values: tuple[int, int]) -> None:
    """N22, all eleven patterns; the single third element is the case the vendor's pages disagree on."""
    sparse = encode_two_of_four(np.array([group], np.int8))
    assert tuple(sparse.indices[0]) == indices
    assert tuple(sparse.values[0]) == values
    other = encode_two_of_four(np.array([group], np.int8), lone_third="zero")
    assert tuple(other.indices[0]) == ((2, 0) if group == [0, 0, 6, 0] else indices)
    assert tuple(other.values[0]) == values


@settings(max_examples=60)
@given(arrays, st.sampled_from([0, 1, 2, -1]), st.sampled_from(["same", "zero"]))
def test_encode_round_trip(w: np.ndarray, axis: int, lone: str) -> None:
    w = np.where(n_of_m_mask(w, axis=axis), w, 0).astype(np.int8)
    sparse = encode_two_of_four(w, axis=axis, lone_third=lone)  # type: ignore[arg-type]
    assert sparse.values.shape[axis] == sparse.indices.shape[axis] == 2 * -(-w.shape[axis] // 4)
    assert sparse.values.dtype == np.int8
    decoded = decode_two_of_four(sparse, w.shape[axis], axis=axis)
    np.testing.assert_array_equal(decoded, w)


def test_bad_encodings() -> None:
    with pytest.raises(InputError, match="N22"):
        encode_two_of_four(np.array([[1, 1, 1, 0]]))
    sparse = encode_two_of_four(np.array([[1, 1, 0, 0]]))
    with pytest.raises(InputError):
        decode_two_of_four(sparse, 5)
    with pytest.raises(InputError):
        decode_two_of_four(SparseWeight(sparse.values, sparse.indices + np.uint8(3)), 4)
    with pytest.raises(InputError):
        n_of_m_mask(np.ones((2, 4)), n=5)
    with pytest.raises(InputError):
        n_of_m_mask(np.ones((2, 4)), axis=2)


def test_groups_lie_along_axis_1_unless_told() -> None:
    w = np.float32([[[1], [2], [3], [4]], [[4], [3], [2], [1]]])
    kept = [[[False], [False], [True], [True]], [[True], [True], [False], [False]]]
    assert n_of_m_mask(w).tolist() == kept
    assert has_n_of_m(w * np.array(kept))
    assert not has_n_of_m(w)
    sparse = encode_two_of_four(w * np.array(kept))
    assert sparse.values.tolist() == [[[3.0], [4.0]], [[4.0], [3.0]]]
    assert sparse.indices.tolist() == [[[2], [2]], [[0], [0]]]
    np.testing.assert_array_equal(decode_two_of_four(sparse, 4), w * np.array(kept))


def test_has_n_of_m() -> None:
    w = np.array([[1, 0, 0, 2, 3, -4]], np.float32)  # groups [1, 0, 0, 2] and [3, -4]
    assert has_n_of_m(w)
    assert not has_n_of_m(w, n=1)
    assert not has_n_of_m(np.ones((1, 3), np.int8))
    assert has_n_of_m(np.ones((3, 1), np.int8))  # one input channel
    assert not has_n_of_m(np.ones((3, 1), np.int8), axis=0)
