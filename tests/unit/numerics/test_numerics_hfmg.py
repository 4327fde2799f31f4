"""HFMG: the existing tool's vectors, its loss as an integral, re-binning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics._even_bins import EvenBins
from amctc.numerics.affine import affine_parameters
from amctc.numerics.hfmg import HfmgHistogram, hfmg_from_histogram
from amctc.numerics.histogram import Histogram

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"


@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("hfmg_*.npz")))
def test_golden(name: str) -> None:
    """Counts and range exactly; the tool divides a float32 difference, we round once: at most one ulp in the scale."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        parameters = json.loads(str(data["params_json"]))
        h = HfmgHistogram.empty(parameters["nbins"])
        for batch in data["in_batches"]:
            h = h.updated(batch)
        np.testing.assert_array_equal(h.counts, data["out_hist"])
        assert [h.low, h.high] == data["out_hist_range"].tolist()
        bits, symmetric = parameters["num_bits"], not parameters["with_offset"]
        low, high = h.range(bits, symmetric)
        left, right = data["out_search_range"][data["out_l2_loss"].argmin()]
        width = (h.high - h.low) / parameters["nbins"]
        assert low == pytest.approx(h.low + left * width, rel=1e-6, abs=1e-6)
        assert high == pytest.approx(h.low + (right + 1) * width, rel=1e-6, abs=1e-6)
        scale, zero_point = affine_parameters(low, high, bits=bits, symmetric=symmetric)
        np.testing.assert_array_max_ulp(scale, data["out_scale"][()], maxulp=1)
        assert zero_point == data["out_offset"]


def test_counts_by_hand() -> None:
    h = HfmgHistogram.empty(4).updated([0.0, 1.0, 1.5, 4.0])
    assert h.counts.tolist() == [1, 2, 0, 1]
    assert (h.low, h.high, h.count) == (0.0, 4.0, 4)
    # Now bins of 2: bin 0 and 1 go to the first, 3 to the second (its upper edge, 4, is the start of the third, so
    # the share that lies below the edge, all of it, stays).
    grown = h.updated([8.0])
    assert grown.counts.tolist() == [3, 1, 0, 1]
    assert (grown.low, grown.high) == (0.0, 8.0)


def test_order_matters() -> None:
    """What the docstring warns of: [0, 5] then [0, 8] re-bins, [0, 8] first does not."""
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0, 5, 500), rng.uniform(0, 8, 500)
    one, other = HfmgHistogram.empty(64).updated(a).updated(b), HfmgHistogram.empty(64).updated(b).updated(a)
    assert one.counts.sum() == other.counts.sum() == 1000
    assert one.counts.tolist() != other.counts.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8), min_size=1, max_size=4))
def test_totals_and_extremes_are_kept(batches: list[list[float]]) -> None:
    h = HfmgHistogram.empty(16)
    for batch in batches:
        h = h.updated(batch)
    values = [v for batch in batches for v in batch]
    assert h.count == len(values)
    assert (h.low, h.high) == (min(values), max(values))
    low, high = h.range()
    slack = 1e-6 * max(abs(h.low), abs(h.high), 1e-30)
    assert h.low - slack <= low <= high <= h.high + slack


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3), st.integers(0, 5)), min_size=1, max_size=4),
    st.floats(-2, 4),
    st.floats(0.1, 3),
    st.integers(1, 6),
)
def test_loss_is_the_integral_of_the_squared_distance(
    bins: list[tuple[float, float, int]], first: float, step: float, levels: int
) -> None:
    """Against the exact integral of (x - level)² cell by cell; bins are laid one after the other."""
    lower, upper, counts, at = [], [], [], 0.0
    for gap, width, count in bins:
        lower.append(at + gap)
        upper.append(at + gap + width)
        counts.append(float(count))
        at = upper[-1]
    expected = 0.0
    grid = [first + k * step for k in range(levels)]
    for a, b, count in zip(lower, upper, counts, strict=True):
        for k, v in enumerate(grid):
            left = max(a, v - step / 2) if k else a
            right = min(b, v + step / 2) if k < levels - 1 else b
            if b - a > 1e-9 and right > left:
                expected += count / (b - a) * ((right - v) ** 3 - (left - v) ** 3) / 3
        if b - a <= 1e-9:
            expected += count * min((a - v) ** 2 for v in grid)
    loss = EvenBins(np.array(lower), np.array(upper), np.array(counts)).rounding_loss(
        np.array([first]), np.array([step]), np.array([float(levels)])
    )[0]
    assert loss == pytest.approx(expected, abs=1e-6 * (1 + expected))


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30, 1e-40])
def test_constant_data(value: float) -> None:
    h = HfmgHistogram.empty(64).updated(np.full(9, value)).updated([value])
    assert h.counts[32] == 10
    assert h.range() == pytest.approx((value, value), rel=1e-6, abs=1e-40)


def test_bad_input() -> None:
    with pytest.raises(InputError):
        HfmgHistogram.empty(3)
    with pytest.raises(InputError, match="no data"):
        HfmgHistogram.empty().range()
    h = HfmgHistogram.empty().updated([1.0, 2.0])
    assert h.updated([]) is h
    for bad in ([np.nan], [np.inf], [3e38]):
        with pytest.raises(InputError):
            h.updated(bad)
    with pytest.raises(InputError):
        h.range(bits=1)
    with pytest.raises(ValueError, match="read-only"):
        h.counts[0] = 1


# ------------------------------------------------------------------------------------------------ streaming histogram


def test_streaming_by_hand() -> None:
    """100 values in each of four bins of an eighth, three empty bins, one value in the eighth bin.

    The upper end gives up its one value first, which leaves seven bins, then the empty bins and a full one, which
    leaves three. With seven one value of 401 is clipped, by half a bin; with three a quarter of them are.
    """
    values = np.concatenate([np.linspace(0, 0.4999, 400), [0.999]])
    assert hfmg_from_histogram(Histogram.empty(16).updated(values)) == (0.0, 0.875)


@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("hfmg_*.npz")))
def test_streaming_is_within_a_bin_of_either_histogram(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as data:
        bins = json.loads(str(data["params_json"]))["nbins"]
        tool, h = HfmgHistogram.empty(bins), Histogram.empty()
        for batch in data["in_batches"]:
            tool, h = tool.updated(batch), h.updated(batch)
    bin_of_tool = (tool.high - tool.low) / bins
    np.testing.assert_allclose(hfmg_from_histogram(h), tool.range(), rtol=0, atol=bin_of_tool + h.width)


@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1), min_size=1, max_size=5), st.permutations(range(5)),
    st.sampled_from((4, 8)),
)  # fmt: skip
def test_streaming_does_not_depend_on_order(data: list[list[float]], order: list[int], bits: int) -> None:
    def found(batches: list[list[float]]) -> tuple[float, float]:
        h = Histogram.empty(256)
        for batch in batches:
            h = h.updated(batch)
        low, high = hfmg_from_histogram(h, bits=bits)
        assert h.low <= low <= high <= h.high
        return low, high

    assert found(data) == found([data[i] for i in order if i < len(data)])


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_streaming_constant_data(value: float) -> None:
    h = Histogram.empty().updated(np.full(9, value))
    assert hfmg_from_histogram(h) == (h.low, h.high)


def test_streaming_bad_input() -> None:
    with pytest.raises(InputError, match="no data"):
        hfmg_from_histogram(Histogram.empty())
    for values in ([1.0], [0.0, 1.0]):
        with pytest.raises(InputError):
            hfmg_from_histogram(Histogram.empty().updated(values), bits=1)
    with pytest.raises(InputError, match="cannot divide"):
        hfmg_from_histogram(Histogram.empty().updated([-3e38, 3e38]))
