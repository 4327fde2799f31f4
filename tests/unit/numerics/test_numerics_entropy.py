"""The KL search: against the definition in plain loops, and what it does with outliers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.entropy import Divergences, entropy
from amctc.numerics.histogram import Histogram


def observed(values: object, bins: int = 4096) -> Histogram:
    return Histogram.empty(bins).updated(np.asarray(values, np.float32))


def plain_divergence(counts: list[int], lower: int, upper: int, levels: int) -> float:
    """The definition of the docstring, bin by bin."""
    total, bins = sum(counts), upper - lower
    inside = sum(counts[lower:upper])
    if not inside:
        return math.inf
    p = [float(c) for c in counts[lower:upper]]
    p[0] += sum(counts[:lower])
    p[-1] += sum(counts[upper:])
    in_use = sum(c > 0 for c in p)
    result = 0.0
    for level in range(levels):
        members = [j for j in range(bins) if j * levels // bins == level]
        mass = sum(counts[lower + j] for j in members)
        used = sum(p[j] > 0 for j in members)
        for j in members:
            if p[j] > 0:
                q = (1 - 1e-4) * mass / used / inside + 1e-4 / in_use
                result += p[j] / total * math.log(p[j] / total / q)
    return result


def plain_entropy(h: Histogram, bits: int, symmetric: bool) -> tuple[float, float]:
    counts, half = h.counts.tolist(), h.counts.size // 2
    counts[half] -= h.zeros
    width = 2.0**h.exponent / half
    start = math.floor(min(h.low, 0.0) / width) + half
    stop = math.floor(max(h.high, 0.0) / width) + half + 1
    best, least = (h.low, h.high), math.inf
    for i in range(max(half - start, stop - half), 0, -1):
        lower, upper = half - i, half + i
        if not symmetric:
            lower, upper = max(lower, start), min(upper, stop)
        if upper - lower < 2**bits:
            break
        divergence = plain_divergence(counts, lower, upper, 2**bits) if sum(counts) else 0.0
        if divergence < least - 1e-12:
            best, least = (max(h.low, -i * width), min(h.high, i * width)), divergence
    return best


def samples(kind: str, n: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(8)
    return {
        "normal": rng.standard_normal(n),
        "relu": np.maximum(rng.standard_normal(n), 0),
        "negative": -rng.gamma(2.0, 1.0, n),
        "laplace": rng.laplace(size=n),
        "sparse": rng.integers(-3, 9, 5).astype(np.float64),
        "offset": rng.uniform(5, 6, n),
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "relu", "negative", "laplace", "sparse", "offset"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [3, 4])
def test_search_equals_plain_loops(kind: str, symmetric: bool, bits: int) -> None:
    h = observed(samples(kind), bins=128)
    assert entropy(h, bits=bits, symmetric=symmetric) == plain_entropy(h, bits, symmetric)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=32, max_size=32), st.sampled_from([2, 3]), st.data())
def test_divergence_equals_plain_loops(counts: list[int], bits: int, data: st.DataObject) -> None:
    lower = data.draw(st.integers(0, 15))
    upper = data.draw(st.integers(max(17, lower + 2**bits), 32))
    h = Histogram(np.array(counts), 0, -1.0, 1.0, sum(counts))
    expected = plain_divergence(counts, lower, upper, 2**bits) if sum(counts) else 0.0
    actual = Divergences(h, bits)(np.array([lower]), np.array([upper]))[0]
    # 32 terms c·log(c)/T of at most log(1280) that cancel
    assert actual == pytest.approx(expected, abs=2.0**-52 * 32 * 10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40) | st.just(0), min_size=64, max_size=64), st.sampled_from([2, 3]))
def test_no_divergence_is_below_its_bound(counts: list[int], bits: int) -> None:
    h = Histogram(np.array(counts), 0, -1.0, 1.0, sum(counts))
    lower, upper = np.array([(i, j) for i in range(31) for j in range(max(33, i + 2**bits), 65)]).T
    divergences = Divergences(h, bits)
    # both are sums of 64 terms at the most, of logarithms below log(64 · 40 / 1e-4)
    rounding = 2.0**-52 * 64 * 20
    assert (divergences.bounds(lower, upper) <= divergences(lower, upper) + rounding).all()


@pytest.mark.parametrize("kind", ["normal", "relu", "negative", "laplace", "sparse", "offset"])
def test_candidates_passed_over_change_nothing(kind: str) -> None:
    h = observed(samples(kind))
    reach = np.arange(h.half_bins, 128, -1)
    divergences, ranges = Divergences(h, 8), (h.half_bins - reach, h.half_bins + reach)
    assert divergences.least(*ranges) == int(divergences(*ranges).argmin())


def test_nothing_is_lost_when_every_bin_has_a_level() -> None:
    h = Histogram(np.array([0, 0, 3, 1, 2, 5, 0, 0]), 0, -0.5, 0.49, 11)
    assert Divergences(h, 2)(np.array([2]), np.array([6]))[0] == pytest.approx(0.0, abs=1e-4)


def test_one_pair_of_bins_by_hand() -> None:
    """Two levels of two bins, nothing clipped: P = (3, 1, 2, 2)/8, Q = (2, 2, 2, 2)/8 up to the smoothing."""
    h = Histogram(np.array([3, 1, 2, 2]), 0, -1.0, 0.9, 8)
    expected = 3 / 8 * math.log(3 / 2) + 1 / 8 * math.log(1 / 2)
    assert Divergences(h, 1)(np.array([0]), np.array([4]))[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("outlier", [10.0, 60.0, 300.0, 1000.0])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_huge_outlier_is_clipped(outlier: float, symmetric: bool, sign: float) -> None:
    bulk = np.random.default_rng(3).standard_normal(50_000)
    h = observed(sign * np.append(bulk, outlier))
    low, high = entropy(h, symmetric=symmetric)
    bulk_low, bulk_high = sorted((sign * bulk.min(), sign * bulk.max()))
    assert min(-low, high) > 3.0
    # the narrowest candidate has 2**8 bins; once the bulk has levels of its own, some bins more make no difference
    assert max(-low, high) <= max(-bulk_low, bulk_high, (256 + 16) * h.width)
    assert max(-low, high) < outlier / 2


def test_one_sided_data_spend_all_levels_on_their_side() -> None:
    relu = observed(np.append(np.maximum(samples("normal", 50_000), 0), [40.0]))
    low, high = entropy(relu)
    assert low == 0.0
    assert 3.0 < high < 12.0
    mirrored = entropy(observed(-np.append(np.maximum(samples("normal", 50_000), 0), [40.0])))
    assert mirrored[1] == 0.0
    assert -12.0 < mirrored[0] < -3.0


def test_zeros_do_not_matter() -> None:
    values = samples("laplace")
    assert entropy(observed(values)) == entropy(observed(np.append(values, np.zeros(10**5))))


@pytest.mark.parametrize("values", [[0.0], [3.0], [-3.0, 5.0], [1e-45], [3e38, -3e38], [0.0, 6.0]])
@pytest.mark.parametrize("symmetric", [False, True])
def test_degenerate_data(values: list[float], symmetric: bool) -> None:
    h = observed(values)
    low, high = entropy(h, symmetric=symmetric)
    assert h.low <= low <= high <= h.high


@pytest.mark.parametrize("exponent", [-9, 12])
def test_ranges_scale_with_the_data(exponent: int) -> None:
    values, factor = samples("laplace"), 2.0**exponent
    assert entropy(observed(values * factor)) == tuple(end * factor for end in entropy(observed(values)))


def test_too_many_codes_is_the_observed_range() -> None:
    h = observed(samples("laplace"))
    assert entropy(h, bits=16) == (h.low, h.high)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no data"):
        entropy(Histogram.empty())
    with pytest.raises(InputError):
        entropy(observed([1.0]), bits=1)
