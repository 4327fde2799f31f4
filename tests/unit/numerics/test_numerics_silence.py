"""Overflow, underflow and NaN that a contract foresees raise nothing, even where the caller made NumPy strict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from amctc.numerics import affine, bias, error, fixed_point, hfmg, ifmr, linear, rounding, weight_only
from amctc.numerics._arrays import float32_array
from amctc.numerics.histogram import Histogram
from amctc.numerics.thresholds import mse

TINY, HUGE = np.float32(1e-45), np.float32(3e38)
EXTREME = np.float32([-np.inf, -HUGE, -TINY, 0, TINY, HUGE, np.inf, np.nan])

CALLS: tuple[tuple[Callable[[], object], object], ...] = (
    (lambda: float32_array([1e300, -1e300]), [np.inf, -np.inf]),
    (lambda: linear.quantize_linear(EXTREME, TINY, 0, low=-128, high=127), [-128, -128, -1, 0, 1, 127, 127, -128]),
    (lambda: linear.quantize_linear(EXTREME, HUGE, 0, low=-128, high=127), [-128, -1, 0, 0, 0, 1, 127, -128]),
    (lambda: linear.quantize_linear([TINY], np.float32([4.0]), 5, low=-128, high=127), [5]),
    (lambda: linear.dequantize_linear(np.int32([-(2**31), 2**31 - 1]), HUGE, 0), [-np.inf, np.inf]),
    (lambda: linear.dequantize_linear([1, -3], 1e-30, 0, dtype=np.float16), [0.0, 0.0]),
    (lambda: rounding.to_float16([1e-30, 1e30], "inf"), [0.0, np.inf]),
    (lambda: rounding.to_float16([1e-30, 1e30]), [0.0, 65504.0]),
    (lambda: fixed_point.requant_scale([1e-30], [1e-30]), [0.0]),
    (lambda: affine.affine_parameters(-1e-320, 0.0), (1.0, -128)),
    (lambda: affine.affine_parameters(0.0, 1e-320, symmetric=True), (1.0, 0)),
    (lambda: bias.quantize_bias([1e-320, 1e300], [1.0, 1e-20]), [0, 2**62]),
    (lambda: error.sqnr_db([1e300], [-1e300]), -np.inf),
    (lambda: ifmr.ifmr([TINY, 0.0], symmetric=True), (1.0, 0, 127.0, -128.0)),
    (lambda: hfmg.HfmgHistogram.empty(4).updated([2.0]).updated([3.0]).count, 2),
    (lambda: mse(Histogram.empty().updated([0.0])), (0.0, 0.0)),
    (lambda: weight_only.weight_only_parameters([[TINY, -TINY]], axis=1)[0].tolist(), [[1.0]]),
)  # fmt: skip


@pytest.mark.parametrize(("call", "expected"), CALLS)
def test_extremes_are_silent(call: Callable[[], object], expected: object) -> None:
    with np.errstate(all="raise"):
        result = call()
    np.testing.assert_array_equal(result, expected)
