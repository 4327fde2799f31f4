"""Channel ranges and the factors that even them out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.errors import InputError
from amctc.numerics.equalization import HALF_TRUSTED, STRONGEST, ChannelWidths, equalizing_factors

FLOATS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3)),
                    elements=st.floats(-100, 100, width=32))  # fmt: skip


def test_room_by_hand() -> None:
    # Widest: [-4, 8]. Channel 1 may grow by 2 until -4; channel 2 by 8 until 8; channel 3 was always 0.
    seen = ChannelWidths.of(np.float32([[-4.0, 8.0], [-2.0, 1.0], [0.5, 1.0], [0.0, 0.0]]), axis=0)
    assert seen.room().tolist() == [1.0, 2.0, 8.0, np.inf]
    assert seen.count == 2


def test_factors_by_hand() -> None:
    assert equalizing_factors([1.0, 4.0, np.inf], 1.0, np.inf).tolist() == [1.0, 4.0, 1.0]
    assert equalizing_factors([4.0, 1e9], 0.5, np.inf).tolist() == [2.0, STRONGEST**0.5]
    assert equalizing_factors([16.0, 16.0], 0.5, [HALF_TRUSTED, 3 * HALF_TRUSTED]).tolist() == [2.0, 16.0**0.375]
    assert equalizing_factors([16.0], 1.0, 0)[0] < 1.01, "nothing was seen"


def test_room_below_a_bound() -> None:
    seen = ChannelWidths.of(np.float32([[0.0, 6.0], [0.0, 1.5], [-1.0, 0.0], [0.0, 7.0]]), axis=0)
    assert seen.room_below(6.0).tolist() == [1.0, 4.0, np.inf, 1.0]


@given(FLOATS, FLOATS)
def test_merging_is_seeing_all(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        a, b = a[:, :1], b[:, :1]
    size = min(a.shape[2], b.shape[2])
    a, b = a[:, :, :size], b[:, :, :size]
    together = ChannelWidths.of(np.concatenate([a, b]), 1)
    merged = ChannelWidths.of(a, 1).merged(ChannelWidths.of(b, 1))
    assert (merged.low == together.low).all()
    assert (merged.high == together.high).all()
    assert merged.count == together.count


@given(FLOATS)
def test_no_channel_outgrows_the_widest(x: np.ndarray) -> None:
    seen = ChannelWidths.of(x, 1)
    grown = x.astype(np.float64) * equalizing_factors(seen.room(), 1.0, np.inf)[:, None]
    low, high = seen.low.min(), seen.high.max()
    assert grown.min(initial=0) >= low * (1 + 1e-12)
    assert grown.max(initial=0) <= high * (1 + 1e-12)


def test_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        ChannelWidths.of(np.float32([[1.0, np.nan]]), 0)
    with pytest.raises(InputError, match="infinite"):
        ChannelWidths.of(np.float32([[1.0, np.inf]]), 0)
    for strength in (0.0, 1.5, -1.0):
        with pytest.raises(InputError, match="strength"):
            equalizing_factors([1.0], strength, 1)
