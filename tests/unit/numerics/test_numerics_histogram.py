"""The streaming histogram: exact bins, order independence, extreme magnitudes."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics import _binning
from amctc.numerics.histogram import Histogram

any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
# values of very different magnitude next to each other, so that ranges grow by any number of doublings
wide = st.builds(lambda m, e: float(np.float32(math.ldexp(m, e))), st.integers(-9, 9), st.integers(-152, 124))
lists = st.lists(st.one_of(any_float32, wide), max_size=12)


def observed(values: object, bins: int = 64) -> Histogram:
    return Histogram.empty(bins).updated(np.asarray(values))


def expected_counts(values: list[float], bins: int) -> tuple[int, list[int]]:
    """Exponent and counts in exact rational arithmetic."""
    exponent = -149
    for v in values:
        while v and abs(Fraction(v)) >= Fraction(2) ** exponent:
            exponent += 1
    counts = [0] * bins
    for v in values:
        counts[math.floor(Fraction(v) / (Fraction(2) ** exponent / (bins // 2))) + bins // 2] += 1
    return exponent, counts


def test_counts_by_hand() -> None:
    h = observed([-4.0, -0.5, 0.0, 0.25, 1.0, 7.5, 7.9], bins=16)
    assert h.exponent == 3
    assert h.width == 1.0
    assert h.counts.tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 2]
    assert (h.low, h.high, h.count, h.zeros) == (-4.0, float(np.float32(7.9)), 7, 1)
    np.testing.assert_array_equal(h.edges, np.arange(-8.0, 9.0))


def test_growing_merges_pairs() -> None:
    h = observed([-1.0, 0.5, 1.5], bins=8)  # width 1/2
    grown = h.updated(np.array([7.0]))  # range 8, width 2
    assert grown.exponent == 3
    assert grown.counts.tolist() == [0, 0, 0, 1, 2, 0, 0, 1]


def test_a_power_of_two_lies_inside_the_range() -> None:
    for value in (1.0, -1.0, 8.0, 2.0**-140):
        h = observed([value])
        assert h.edges[0] <= value < h.edges[-1]
        assert h.counts.sum() == 1


def test_atom_at_the_upper_end_is_kept() -> None:
    relu6 = np.clip(np.linspace(-3, 9, 1001), 0, 6).astype(np.float32)
    h = observed(relu6, bins=4096)
    assert h.high == 6.0
    assert h.counts[np.searchsorted(h.edges, 6.0, side="right") - 1] == (relu6 == 6.0).sum()
    assert h.counts.sum() == h.count == relu6.size
    assert h.zeros == (relu6 == 0.0).sum()


@pytest.mark.parametrize("values", [[0.0], [-0.0], [-0.0, 0.0], [0.0] * 5])
def test_zeros_only(values: list[float]) -> None:
    h = observed(values)
    assert h.counts[h.half_bins] == h.zeros == h.count == len(values)
    assert (h.low, h.high) == (0.0, 0.0)
    assert not math.copysign(1.0, h.low) < 0
    assert h == observed(values[::-1])


def test_empty_updates_change_nothing() -> None:
    h = Histogram.empty(32)
    assert h.updated(np.empty((0, 3), np.float32)) is h
    assert (h.count, h.low, h.high, h.counts.sum()) == (0, 0.0, 0.0, 0)
    full = observed([1.0], bins=32)
    assert h.merged(full) == full == full.merged(h)
    assert h.merged(h) == h


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.int32])
def test_input_types(kind: type) -> None:
    values = np.array([[-100, 3], [0, 127]], kind)
    assert observed(values) == observed(values.astype(np.float32))


def test_noncontiguous_input() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert observed(values[::2, ::-3]) == observed([5.0, 2.0, 17.0, 14.0])


def test_huge_and_denormal_values() -> None:
    smallest, largest = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)
    h = observed([smallest, -smallest, largest, -largest])
    assert h.exponent == 128
    assert np.flatnonzero(h.counts).tolist() == [0, h.half_bins - 1, h.half_bins, 2 * h.half_bins - 1]
    assert (h.low, h.high) == (-largest, largest)
    tiny = observed([smallest, -smallest])
    assert tiny.exponent == -148
    assert tiny.merged(observed([1e38, -1e38])) == observed([1e38, smallest, -1e38, -smallest])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_bad_values_are_refused(bad: float) -> None:
    with pytest.raises(InputError):
        observed([1.0, bad])


def test_bad_shapes_are_refused() -> None:
    for bins in (0, 1, 48):
        with pytest.raises(InputError):
            Histogram.empty(bins)
    with pytest.raises(InputError):
        observed([1.0], 16).merged(observed([1.0], 32))
    with pytest.raises(InputError):
        Histogram(np.zeros(4, np.int64), 200, 0.0, 0.0, 0)


@settings(max_examples=200)
@given(lists, st.sampled_from([2, 8, 64]))
def test_counts_are_exact(values: list[float], bins: int) -> None:
    h = observed(np.array(values, np.float32), bins)
    exponent, counts = expected_counts(values, bins)
    assert h.counts.tolist() == counts
    assert h.exponent == exponent
    assert h.count == len(values)
    assert h.zeros == sum(v == 0 for v in values)
    if values:
        assert (h.low, h.high) == (min(values), max(values))


@settings(max_examples=200)
@given(lists, st.randoms(use_true_random=False), st.sampled_from([2, 16, 64]))
def test_order_and_merging_do_not_matter(values: list[float], random: object, bins: int) -> None:
    whole = observed(np.array(values, np.float32), bins)
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one_by_one = Histogram.empty(bins)
    for v in shuffled:
        one_by_one = one_by_one.updated(np.float32(v))
    cut = random.randint(0, len(values))  # type: ignore[attr-defined]
    left, right = observed(shuffled[:cut], bins), observed(shuffled[cut:], bins)
    for other in (one_by_one, left.merged(right), right.merged(left), left.updated(np.array(shuffled[cut:]))):
        assert other == whole
        assert hash(other) == hash(whole)


@given(lists, lists, lists)
def test_merging_is_associative(a: list[float], b: list[float], c: list[float]) -> None:
    x, y, z = observed(a), observed(b), observed(c)
    assert x.merged(y).merged(z) == x.merged(y.merged(z))


def test_many_chunks_equal_numpy() -> None:
    values = np.random.default_rng(0).standard_normal(2 * _binning._CHUNK + 1).astype(np.float32)
    h = observed(values, bins=4096)
    np.testing.assert_array_equal(h.counts, np.histogram(values.astype(np.float64), bins=h.edges)[0])


@given(st.lists(st.one_of(any_float32, wide), min_size=1, max_size=70), st.sampled_from([2, 4, 8, 64]))
def test_the_range_grows_from_chunk_to_chunk(values: list[float], bins: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_CHUNK", 8), ("_local", threading.local())):
            patch.setattr(_binning, name, value)
        h = observed(values, bins)
    exponent, counts = expected_counts(values, bins)
    assert (h.exponent, h.counts.tolist()) == (exponent, counts)
    assert (h.low, h.high) == (min(values) + 0.0, max(values) + 0.0)
    assert (h.count, h.zeros) == (len(values), values.count(0.0))


@pytest.mark.parametrize("value", [0.0, -0.0, 3.0, -3.0])
@pytest.mark.parametrize("bins", [256, 4096, 1 << 18])
def test_a_chunk_of_one_value_is_counted_in_full(value: float, bins: int) -> None:
    size = _binning._CHUNK + 1
    h = observed(np.full(size, value, np.float32), bins)
    assert (h.counts.max(), h.counts.sum(), h.zeros) == (size, size, size if value == 0.0 else 0)


def test_values_refused_leave_nothing_behind() -> None:
    values = np.ones(3 * _binning._CHUNK, np.float32)
    values[-1] = np.nan
    with pytest.raises(InputError):
        observed(values)
    assert observed([1.0, 2.0]) == observed([2.0]).merged(observed([1.0]))


def test_threads_count_beside_each_other() -> None:
    arrays = [np.random.default_rng(i).normal(size=300_000).astype(np.float32) for i in range(4)]
    alone = [observed(a) for a in arrays]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(observed, arrays * 3)) == alone * 3


@given(lists)
def test_dict_round_trip_through_json(values: list[float]) -> None:
    h = observed(values)
    assert Histogram.from_dict(json.loads(json.dumps(h.to_dict(), allow_nan=False))) == h


def test_malformed_dicts_are_refused() -> None:
    good = observed([1.0, 2.0]).to_dict()
    changes = {"bins": 1 << 40, "first": -1, "counts": [-1], "exponent": 999, "low": "x"}
    for name, value in changes.items():
        with pytest.raises(InputError):
            Histogram.from_dict(good | {name: value})
    for name in good:
        with pytest.raises(InputError):
            Histogram.from_dict({k: v for k, v in good.items() if k != name})


def test_it_is_an_immutable_value() -> None:
    source = np.zeros(8, np.int64)
    h = Histogram(source, 0, 0.0, 0.0, 0)
    source[0] = 7
    assert h.counts[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        h.counts[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        h.low = 1.0  # type: ignore[misc]
    assert h != "histogram"
    assert h != observed([1.0], 8)
    assert len({observed([1.0, 2.0]), observed([2.0, 1.0]), observed([2.0])}) == 2
