"""IFMR: the existing tool's vectors, its formula in plain loops, and how close the streaming form is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.affine import affine_parameters
from amctc.numerics.histogram import Histogram
from amctc.numerics.ifmr import ifmr, ifmr_from_histogram, search_ratios

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
NAMES = sorted(p.stem for p in GOLDEN.glob("ifmr_*.npz"))


def load(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = {key: data[key] for key in data.files}
    p = json.loads(str(arrays["params_json"]))
    options = {key: p[key] for key in ("max_percentile", "min_percentile", "search_start", "search_end", "search_step")}
    return {"bits": p["num_bits"], "symmetric": not p["with_offset"], **options}, arrays


def bounds(low: float, high: float, ratio: float, bits: int, symmetric: bool) -> tuple[float, float, float]:
    """Clipping bounds and scale of a candidate, from the calibration formulas."""
    if not symmetric:
        scale = (ratio * high - low) / (2**bits - 1)
        return low, ratio * high, scale if scale >= 2.0**-23 else 1.0
    bound = ratio * max(-low, high)
    scale = bound / (2 ** (bits - 1) - (0 if -low > high else 1))
    return -bound, bound, scale if scale >= 2.0**-23 else 1.0


def rms(values: np.ndarray, low: float, high: float, scale: float) -> float:
    return float(np.sqrt(np.mean((np.rint(np.clip(values, low, high) / scale) * scale - values) ** 2)))


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    options, data = load(name)
    ratios = search_ratios(options["search_start"], options["search_end"], options["search_step"])
    np.testing.assert_array_equal(ratios, data["out_ratios"])
    result = ifmr(data["in_batches"], **options)
    assert result.scale == data["out_scale"]
    assert result.offset == data["out_offset"]
    assert result.clip_max == data["out_clip_max"]
    assert result.clip_min == data["out_clip_min"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_from_the_histogram(name: str) -> None:
    """The scale is within 6 % of the tool's and the error on the raw data within 3 % or a bin."""
    options, data = load(name)
    values = data["in_batches"].astype(np.float64).reshape(-1)
    h = Histogram.empty().updated(values)
    low, high = ifmr_from_histogram(h, **options)
    bits, symmetric = options["bits"], options["symmetric"]
    scale, zero_point = affine_parameters(low, high, bits=bits, symmetric=symmetric)
    assert float(scale) == pytest.approx(float(data["out_scale"]), rel=0.06)
    assert abs(zero_point - float(data["out_offset"])) <= 0.06 * 2 ** (bits - 1)
    chosen = rms(values, *bounds(low, high, 1.0, bits, symmetric))
    assert chosen <= 1.03 * math.sqrt(data["out_losses"].min()) + h.width


def test_default_ratios() -> None:
    ratios = search_ratios()
    assert ratios.size == 61
    assert ratios[0] == np.float32(0.7)
    np.testing.assert_allclose(ratios, 0.7 + 0.01 * np.arange(61), rtol=0, atol=1.2e-7)
    assert ratios[-1] == np.float32(1.3)


def test_full_pairs_of_vectors_and_the_rest_round_differently() -> None:
    """Of 25 ratios 16 fill a pair of 8-lane vectors; base and lane are rounded apart there, and at once after them."""
    i = np.arange(25)
    base = np.float32([0.1, 0.1 + 0.08]).astype(np.float64)[i[:16] // 8]
    vectors = (base + (i[:16] % 8) * 0.01).astype(np.float32)
    rest = (0.1 + 0.01 * i[16:]).astype(np.float32)
    np.testing.assert_array_equal(search_ratios(0.1, 0.35), np.append(vectors, rest))


def test_any_shape_of_data_will_do() -> None:
    x = np.float32([[0.0, 1.5], [2.0, -0.75]])
    assert ifmr(x) == ifmr(x.reshape(-1))


def test_by_hand() -> None:
    """2 bits, codes of 1.0 at ratio 1: 0, 1, 2, 3 are exact, so nothing can be better and 1 is the first exact one."""
    result = ifmr([0.0, 1.0, 2.0, 3.0], bits=2, search_start=0.5, search_end=1.5, search_step=0.25)
    assert result == (1.0, -2, 3.0, 0.0)
    assert ifmr_from_histogram(
        Histogram.empty().updated([0.0, 1.0, 2.0, 3.0]), bits=2, search_start=0.5, search_end=1.5, search_step=0.25
    ) == (0.0, 3.0)


def test_percentile_counts_from_the_end() -> None:
    """Of 100 values at 0.97 the start is the 3rd largest, 97; with one candidate the scale is its."""
    x = np.arange(100.0)
    result = ifmr(x, max_percentile=0.97, search_start=1.0, search_end=1.1, search_step=0.5)
    assert result.scale == np.float32(97) / np.float32(255)
    h = Histogram.empty().updated(x)
    _, high = ifmr_from_histogram(h, max_percentile=0.97, search_start=1.0, search_end=1.1, search_step=0.5)
    assert abs(high - 97.0) <= h.width


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30), st.booleans(), st.sampled_from([2, 4]))
def test_no_candidate_is_better(values: list[float], symmetric: bool, bits: int) -> None:
    x = np.array(values, np.float64)
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    ratios = search_ratios().astype(np.float64)
    losses = [rms(x, *bounds(low, high, k, bits, symmetric)) for k in ratios]
    scale = float(ifmr(values, bits=bits, symmetric=symmetric).scale)
    scales = np.array([bounds(low, high, k, bits, symmetric)[2] for k in ratios])
    near = np.isclose(scales, scale, rtol=1e-5)
    assert near.any()
    # float32 rounding of a value next to a tie may choose the other of two equally near levels: no loss, so only
    # the rounding of the products, a few units of the largest value, separates the two computations
    assert min(np.array(losses)[near]) <= min(losses) + 2.0**-22 * max(np.abs(x).max(), 1.0) * 1.3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.booleans(), st.sampled_from([2, 4]))
def test_histogram_form_is_two_bins_from_the_best(values: list[float], symmetric: bool, bits: int) -> None:
    x = np.array(values, np.float64)
    h = Histogram.empty(256).updated(values)
    low, high = ifmr_from_histogram(h, bits=bits, symmetric=symmetric)
    chosen = rms(x, *bounds(low, high, 1.0, bits, symmetric))
    start = min(h.low, 0.0), max(h.high, 0.0)
    best = min(rms(x, *bounds(*start, float(k), bits, symmetric)) for k in search_ratios())
    assert chosen <= best + 2 * h.width + 2.0**-20 * np.abs(x).max()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", [[0.0], [1e-40], [-3.0], [1e-9, -2e-9], [3e38, 0.0]])
def test_degenerate_data(values: list[float], symmetric: bool) -> None:
    if max(values) > 1e38 and symmetric:
        with pytest.raises(InputError):
            ifmr([3e38, -3e38])
        return
    result = ifmr(values, symmetric=symmetric, search_end=1.0)
    assert np.isfinite(result.scale)
    assert result.scale > 0
    assert all(map(math.isfinite, ifmr_from_histogram(Histogram.empty().updated(values), search_end=1.0)))


def test_bad_input() -> None:
    for x in ([], [np.nan], [np.inf, 1.0]):
        with pytest.raises(InputError):
            ifmr(x)
    for options in ({"max_percentile": 0.0}, {"min_percentile": 1.5}, {"search_step": 0.0}, {"search_end": 0.5}):
        with pytest.raises(InputError):
            ifmr([1.0], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        ifmr_from_histogram(Histogram.empty())
