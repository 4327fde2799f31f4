"""The uint64 parameter words (N11, N17, N18)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.fixed_point import pack_dequant, pack_requant, requant_scale, unpack_dequant, unpack_requant

scale32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def test_dequant_word_by_hand() -> None:
    word = pack_dequant(np.float32([1.0]), shift=5, offset_w=-2)
    assert word.dtype == np.uint64
    assert int(word[0]) == 0x3F800000 | 5 << 32 | 0xFE << 40
    assert int(pack_dequant(np.float32(0.5))) == 0x3F000000


def test_requant_word_by_hand() -> None:
    word = int(pack_requant(np.float32(1.0 + 2.0**-20), -200, signed=True, shift=3))
    assert word == 0x3F800000 | 3 << 32 | (-200 & 0x1FF) << 37 | 1 << 46
    assert word >> 36 & 1 == 0  # MCB
    assert int(pack_requant(np.float32(1.0), 255, signed=False)) == 0x3F800000 | 255 << 37


@given(scale32, st.integers(0, 255), st.integers(-128, 127))
def test_dequant_round_trip(scale: float, shift: int, offset: int) -> None:
    back = unpack_dequant(pack_dequant(np.array([scale], np.float32), np.array([shift]), np.array([offset], np.int8)))
    assert back[0].view(np.uint32)[0] == np.array([scale], np.float32).view(np.uint32)[0]
    assert (back[1][0], back[2][0]) == (shift, offset)
    assert back[0].dtype == np.float32


@given(scale32, st.integers(-256, 255), st.booleans(), st.integers(0, 15))
def test_requant_round_trip_loses_only_the_dropped_bits(scale: float, offset: int, signed: bool, shift: int) -> None:
    multiplier, back_offset, back_signed, back_shift = unpack_requant(
        pack_requant(np.array([scale], np.float32), offset, signed, shift)
    )
    kept = np.array([scale], np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    assert multiplier.view(np.uint32)[0] == kept[0]
    assert (back_offset[0], bool(back_signed[0]), back_shift[0]) == (offset, signed, shift)


def test_words_are_per_channel() -> None:
    scales = np.float32([0.25, 0.5, 2.0])
    np.testing.assert_array_equal(unpack_dequant(pack_dequant(scales, 1, [0, 1, -1]))[2], [0, 1, -1])
    np.testing.assert_array_equal(unpack_requant(pack_requant(scales, np.array([-1, 0, 1])))[0], scales)
    # a strided view packs as its values
    np.testing.assert_array_equal(pack_dequant(np.repeat(scales, 2)[::2]), pack_dequant(scales))


def test_fields_out_of_range_are_refused() -> None:
    for arguments in ((1.0, 256, 0), (1.0, -1, 0), (1.0, 0, 128), (np.nan, 0, 0), (np.inf, 0, 0), (1e39, 0, 0)):
        with pytest.raises(InputError, match="N11"):
            pack_dequant(*arguments)
    with pytest.raises(InputError):
        pack_dequant(1.0, 0.5)
    for offset in (-257, 256):
        with pytest.raises(InputError):
            pack_requant(1.0, offset)
    with pytest.raises(InputError):
        pack_requant(1.0, 0, shift=16)
    with pytest.raises(InputError):
        unpack_dequant(np.zeros(1, np.int64))


def test_requant_scale_rounds_the_product_then_truncates() -> None:
    a, b = np.float32(1 + 2.0**-10), np.float32(1 + 2.0**-11)
    # (1 + 2**-10)(1 + 2**-11) = 1 + 2**-10 + 2**-11 + 2**-21; ten bits are kept: 1 + 2**-10
    assert requant_scale(a, b) == 1 + 2.0**-10
    # just below 2 as an exact product, 2 in float32: truncating the exact product would give 2 - 2**-10
    c, d = np.float32(1 + 13 * 2.0**-12), np.float32(2 / (1 + 13 * 2.0**-12))
    assert Fraction(float(c)) * Fraction(float(d)) < 2
    assert requant_scale(c, d) == 2.0
    with pytest.raises(InputError, match="N18"):
        requant_scale(1e30, 1e30)
