"""Per-channel extremes: by hand, and independence of order and merging."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.errors import InputError
from amctc.numerics.per_channel import ChannelStatistics

images = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 3)), elements=st.floats(-100, 100, width=32)
)


def test_channels_by_hand() -> None:
    s = ChannelStatistics.empty(2).updated(np.array([[[1.0, -2.0], [3.0, 4.0]], [[0.5, 0.0], [-9.0, 2.0]]]))
    assert s.low.tolist() == [-2.0, -9.0]
    assert s.high.tolist() == [1.0, 4.0]
    assert s.absolute_max.tolist() == [2.0, 9.0]
    assert s.count == 4
    assert ChannelStatistics.empty(2).updated([[5.0, 6.0], [-1.0, 2.0]], axis=0).high.tolist() == [6.0, 2.0]


@given(images, images, images)
def test_order_and_merging_do_not_matter(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    empty = ChannelStatistics.empty(4)
    whole = empty.updated(a).updated(b).updated(c)
    parts = [empty.updated(x) for x in (c, a, b)]
    assert parts[0].merged(parts[1]).merged(parts[2]) == whole
    assert parts[0].merged(parts[1].merged(parts[2])) == whole
    assert hash(parts[2].merged(parts[0]).merged(parts[1])) == hash(whole)
    values = np.concatenate([x.swapaxes(0, 1).reshape(4, -1) for x in (a, b, c)], axis=1)
    np.testing.assert_array_equal(whole.low, values.min(axis=1))
    np.testing.assert_array_equal(whole.high, values.max(axis=1))
    np.testing.assert_array_equal(whole.absolute_max, np.abs(values).max(axis=1))
    assert whole.merged(empty) == whole == empty.merged(whole)


def test_bad_channels() -> None:
    s = ChannelStatistics.empty(3)
    assert s.updated(np.zeros((0, 3))) is s
    assert s != "statistics"
    for x in (np.zeros((2, 4)), np.zeros(3), np.full((1, 3), np.nan), np.full((1, 3), np.inf)):
        with pytest.raises(InputError):
            s.updated(x)
    with pytest.raises(InputError):
        s.merged(ChannelStatistics.empty(2))
    with pytest.raises(InputError):
        ChannelStatistics.empty(0)
    with pytest.raises(InputError):
        ChannelStatistics(np.zeros(2, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        s.low[0] = 1
    assert ChannelStatistics.empty(1).updated([[-0.0]]) == ChannelStatistics.empty(1).updated([[0.0]])
