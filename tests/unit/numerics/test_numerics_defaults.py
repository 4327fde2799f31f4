"""What functions do unless told otherwise: 8 bits, asymmetric activations, symmetric weights, channels along axis 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from amctc.numerics.affine import affine_parameter_arrays, affine_parameters, weight_scales
from amctc.numerics.entropy import entropy
from amctc.numerics.hfmg import HfmgHistogram, hfmg_from_histogram
from amctc.numerics.histogram import Histogram
from amctc.numerics.ifmr import ifmr, ifmr_from_histogram
from amctc.numerics.linear import quantize_weight
from amctc.numerics.per_channel import ChannelStatistics
from amctc.numerics.second_order import round_second_order
from amctc.numerics.thresholds import min_max, mse, percentile
from amctc.numerics.weight_only import quantize_weight_only, weight_only_parameters

X = np.random.default_rng(0).standard_t(2.5, 20_000).astype(np.float32)  # heavy tails: every search clips, by bits
SEEN, TOOLS = Histogram.empty().updated(X), HfmgHistogram.empty().updated(X)
ROWS = X[:64].reshape(4, 16)


def rounded(**options: Any) -> list[int]:
    scales, zeros = weight_only_parameters(ROWS, axis=1)
    return quantize_weight_only(8 * ROWS, scales, zeros, axis=1, **options).ravel().tolist()


SEARCHES: tuple[Callable[..., object], ...] = (
    lambda **options: entropy(SEEN, **options),
    lambda **options: hfmg_from_histogram(SEEN, **options),
    TOOLS.range,
    lambda **options: ifmr_from_histogram(SEEN, **options),
    lambda **options: ifmr(X, **options),
    lambda **options: mse(SEEN, **options),
    lambda **options: affine_parameters(-1.0, 3.0, **options),
    lambda **options: tuple(p.tolist() for p in affine_parameter_arrays(-np.ones(2), np.arange(2.0), **options)),
)
WEIGHTS: tuple[Callable[..., object], ...] = (
    lambda **options: weight_scales(ROWS, axis=0, **options).tolist(),
    lambda **options: tuple(p.tolist() for p in weight_only_parameters(ROWS, axis=1, **options)),
)


@pytest.mark.parametrize("search", SEARCHES)
def test_activations_have_eight_bits_and_a_zero_point(search: Callable[..., object]) -> None:
    assert search() == search(bits=8) == search(bits=8, symmetric=False)
    assert search() != search(bits=9)


@pytest.mark.parametrize("search", SEARCHES[3:])  # the first choose as the tool does, or one bound for both sides
def test_activations_are_symmetric_where_told(search: Callable[..., object]) -> None:
    assert search() != search(symmetric=True)


@pytest.mark.parametrize("parameters", WEIGHTS)
def test_weights_have_eight_bits(parameters: Callable[..., object]) -> None:
    assert parameters() == parameters(bits=8)
    assert parameters() != parameters(bits=9)


def test_integers_saturate_at_eight_bits() -> None:
    assert quantize_weight([-200.0, 200.0], [1.0], axis=None).tolist() == [-128, 127]
    assert round_second_order([[-200.0, 200.0]], np.eye(2), [1.0]).tolist() == [[-128, 127]]
    assert rounded() == rounded(bits=8)
    assert (min(rounded()), max(rounded())) == (-128, 127)


def test_weights_are_symmetric_and_whole() -> None:
    scales, zeros = weight_only_parameters(ROWS, axis=1)
    assert scales.shape == (4, 1)
    assert not zeros.any()
    assert weight_only_parameters(ROWS, axis=1, symmetric=False)[1].any()


def test_the_extra_negative_code_is_used() -> None:
    assert weight_scales([-128.0, 127.0], axis=None) == [1.0]
    assert weight_scales([-128.0, 127.0], axis=None, sign_aware=False) == [np.float32(128 / 127)]


def test_channels_lie_along_axis_1() -> None:
    assert ChannelStatistics.empty(16).updated(ROWS) == ChannelStatistics.empty(16).updated(ROWS, axis=1)


def test_percentiles_and_extremes() -> None:
    assert percentile(SEEN, 100.0) == min_max(SEEN) == (float(X.min()), float(X.max()))
    low, high = percentile(SEEN, 99.0)
    assert abs(low - np.quantile(X, 0.01)) <= SEEN.width
    assert abs(high - np.quantile(X, 0.99)) <= SEEN.width
