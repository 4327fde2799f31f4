"""Two four-bit integers in a byte, the even index low (N4)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.numerics.int4 import pack_int4, unpack_int4

EVEN = st.tuples(*[st.integers(0, 3).map(lambda n: 2 * n)] * 3)
values = hnp.arrays(np.int8, EVEN, elements=st.integers(-8, 7))


def test_by_hand() -> None:
    # 1 | (-2 & 15) << 4 = 0xE1, 7 | (-8 & 15) << 4 = 0x87, -1 & 15 | 0 << 4 = 0x0F
    packed = pack_int4(np.int8([[1, -2, 7, -8, -1, 0]]), 1)
    assert packed.dtype == np.int8
    assert packed.view(np.uint8).tolist() == [[0xE1, 0x87, 0x0F]]
    assert unpack_int4(packed, 1).tolist() == [[1, -2, 7, -8, -1, 0]]
    assert unpack_int4(packed, 1).dtype == np.int8


def test_along_the_first_axis() -> None:
    packed = pack_int4(np.int64([[1, 2], [3, 4]]), 0)
    assert packed.view(np.uint8).tolist() == [[0x31, 0x42]]
    assert unpack_int4(packed, 0).tolist() == [[1, 2], [3, 4]]


def test_unpacking_takes_bytes_as_unsigned_too() -> None:
    assert unpack_int4(np.uint8([0x8F]), 0).tolist() == [-1, -8]


@given(values, st.sampled_from([0, 1, 2, -1]))
def test_unpacking_undoes_packing(x: np.ndarray, axis: int) -> None:
    packed = pack_int4(x, axis)
    assert packed.shape[axis] == x.shape[axis] // 2
    assert packed.flags.c_contiguous
    back = unpack_int4(packed, axis)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_both_orders_of_axes_hold_the_same_bytes(axis: int) -> None:
    x = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    np.testing.assert_array_equal(pack_int4(x, axis), pack_int4(x.T, 1 - axis % 2).T)
