"""The types of activations from what was observed: the quantizer that replaces the clip of a Relu6 (N19)."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.intervals import Interval
from amctc.numerics.histogram import Histogram
from amctc.ops import quant
from amctc_passes.ranges.ranges import Scheme, relu6_is_relu

MIN_MAX = Scheme(8, False, "min-max", 99.99)


def seen(*values: float) -> quant.Observe:
    return quant.Observe.of(Histogram.empty().updated(values))


@pytest.mark.parametrize(("low", "high", "lowered"), [(0.0, 6.0, True), (-1.0, 6.0, False), (0.0, 7.0, False)])
def test_only_the_step_of_a_relu6_is_lowered(low: float, high: float, lowered: bool) -> None:
    """255 steps of 6/255 reach 6 by rounding; for a Relu6 they must stay below it, so that saturation is its clip."""
    elem = MIN_MAX.quantized_type(seen(0.0, 6.0), Interval(low, high))
    step = np.float32(6 / 255)
    assert elem.zero_points == (-128,)
    assert (np.float32(elem.scales[0]) < step) == lowered
    assert np.float32(elem.scales[0]) > np.float32(0.99999) * step
    assert relu6_is_relu(float(np.float32(1) / np.float32(elem.scales[0])), -128) == lowered
