"""Reductions and normalisations by statistics of the data, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amctc.kernels.float_normalization import group_norm, instance_norm, layer_norm
from amctc.kernels.float_pool import global_max_pool
from amctc.kernels.float_reduce import reduce_max, reduce_mean, reduce_sum

X = np.float32([[1, 2, 3], [4, 5, 9]])


def test_reductions() -> None:
    assert reduce_mean(X, axes=(1,), keepdims=False).tolist() == [2, 6]
    assert reduce_sum(X, axes=(-2,)).tolist() == [[5, 7, 12]]
    assert reduce_max(X, axes=(1, 0)).tolist() == [[9]]
    assert reduce_sum(X, axes=(0, 1), keepdims=False).shape == ()


def test_reductions_of_nothing() -> None:
    empty = np.zeros((2, 0), np.float32)
    assert reduce_sum(empty, axes=(1,), keepdims=False).tolist() == [0, 0]
    assert np.isnan(reduce_mean(empty, axes=(1,))).all()
    assert reduce_max(empty, axes=(1,), keepdims=False).tolist() == [-math.inf, -math.inf]
    assert np.isnan(reduce_max(np.float32([1, np.nan]), axes=(0,)))


@pytest.mark.parametrize("kernel", [reduce_mean, reduce_sum, reduce_max])
def test_the_layout_is_not_seen(kernel) -> None:
    x = np.random.default_rng(0).standard_normal((5, 7, 11)).astype(np.float32)
    for view in (np.asfortranarray(x), x.transpose(2, 0, 1).copy().transpose(1, 2, 0)):
        np.testing.assert_array_equal(kernel(view, axes=(0, 2)), kernel(x, axes=(0, 2)))


def test_float16_sums_are_rounded_once() -> None:
    x = np.full(4096, 1, np.float16)
    x[0] = 2048
    assert reduce_sum(x, axes=(0,), keepdims=False) == np.float16(2048 + 4095)  # in float16 it would stay 2048
    assert reduce_mean(x, axes=(0,)).dtype == np.float16


def test_normalisation_by_groups() -> None:
    """Deviations of 1 and 3 from the means 1 and 4 with eps 0: plus and minus one, then scaled."""
    x = np.float32([0, 2, 0, 2, 1, 7, 1, 7]).reshape(1, 4, 2)
    scale, bias = np.float32([1, 2, 1, 2]), np.float32([0, 0, 10, 10])
    expected = [[[-1, 1], [-2, 2], [9, 11], [8, 12]]]
    assert group_norm(x, scale, bias, groups=2, epsilon=0).tolist() == expected
    assert instance_norm(x, scale, bias, epsilon=0).tolist() == expected
    whole = group_norm(x, scale, bias, groups=1, epsilon=0)
    assert whole[0, 0, 0] == pytest.approx((0 - 2.5) / math.sqrt(7.25))
    assert layer_norm(x, scale[:2], None, axis=-1, epsilon=0).tolist() == [[[-1, 2]] * 4]


def test_a_constant_channel_normalises_to_the_bias() -> None:
    x = np.full((1, 2, 3), 7, np.float16)
    y = instance_norm(x, np.float16([5, 5]), np.float16([1, 2]), epsilon=1e-5)
    assert y.dtype == np.float16
    assert y.tolist() == [[[1] * 3, [2] * 3]]


def test_global_max_pool() -> None:
    assert global_max_pool(np.int8([[[[-3, -9]], [[5, 7]]]])).tolist() == [[[[-3]], [[7]]]]
    assert np.isnan(global_max_pool(np.float32([[[1, np.nan]]])))
