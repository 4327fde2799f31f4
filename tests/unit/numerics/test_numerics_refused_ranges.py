"""What observers and range searches refuse, word for word: finding, rule, remedy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from amctc.errors import InputError, UnsupportedError
from amctc.numerics import affine, entropy, equalization, error, hfmg, ifmr, moving_average, per_channel, thresholds
from amctc.numerics.histogram import Histogram

STORED = Histogram.empty(8).updated([1.0, 2.0]).to_dict()


def not_finite(what: str, count: int, rule: str = "") -> str:
    label = f" [{rule}]" if rule else ""
    remedy = "check the model and the calibration data for overflow"
    return f"{what} holds {count} values that are NaN or infinite{label}; {remedy}"


REFUSED: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: affine.affine_parameters(np.nan, 1.0), not_finite("the lower end of a quantization range", 1)),
    (lambda: affine.affine_parameters(0.0, np.inf), not_finite("the upper end of a quantization range", 1)),
    (lambda: affine.affine_parameters(1.0, 0.5), "a quantization range has its lower end above its upper end"),
    (lambda: affine.affine_parameters(-3e38, 1e200), not_finite("the scale of a quantization range", 1)),
    (lambda: affine.weight_scales([1.0, np.nan, np.inf], axis=None), not_finite("the weight", 2, "N10")),
    (lambda: entropy.entropy(Histogram.empty()), "no range can be chosen: no data was observed; run calibration first"),
    (lambda: equalization.equalizing_factors([1.0], 1.5, [1]), "a strength of 1.5 is not in (0, 1]"),
    (lambda: equalization.ChannelWidths.of([[np.inf, 1.0]], 0), not_finite("calibration data", 1)),
    (lambda: equalization.ChannelWidths.of([[-np.inf, np.nan, np.inf]], 0), not_finite("calibration data", 3)),
    (lambda: error.sqnr_db([1.0], [1.0, 2.0]), "reference of shape (1,) compared with (2,)"),
    (lambda: error.sqnr_db([np.nan], [1.0]), not_finite("the reference", 1)),
    (lambda: hfmg.HfmgHistogram.empty(3), "HFMG needs at least 4 bins, not 3"),
    (lambda: hfmg.HfmgHistogram.empty().updated([np.nan]), not_finite("calibration data", 1)),
    (lambda: hfmg.HfmgHistogram.empty().updated([-3e38, 3e38]),
     "HFMG cannot divide the range [-3.0000000054977558e+38, 3.0000000054977558e+38] in float32"),
    (lambda: hfmg.HfmgHistogram.empty().range(), "no range can be chosen: no data was observed; run calibration first"),
    (lambda: Histogram.empty(3), "a histogram has a power of two of bins, at least 2, not shape (3,)"),
    (lambda: Histogram.empty(1), "a histogram has a power of two of bins, at least 2, not shape (1,)"),
    (lambda: Histogram(np.zeros(4, np.int64), 129, 0.0, 0.0, 0), "histogram exponent 129 is outside the float32 range"),
    (lambda: Histogram(np.zeros(4, np.int64), -150, 0.0, 0.0, 0),
     "histogram exponent -150 is outside the float32 range"),
    (lambda: Histogram.empty().updated([1.0, np.inf]),
     "calibration data holds NaN, an infinity or a value beyond float32; check the model's input "
     "preprocessing and look for overflow in earlier layers"),
    (lambda: Histogram.empty(4).merged(Histogram.empty(8)), "histograms of 4 and 8 bins cannot be merged"),
    (lambda: Histogram.from_dict(STORED | {"bins": 1 << 21}), "a stored histogram of 2097152 bins is refused"),
    (lambda: Histogram.from_dict(STORED | {"first": 8}), "a stored histogram has negative or misplaced counts"),
    (lambda: Histogram.from_dict(STORED | {"first": -1}), "a stored histogram has negative or misplaced counts"),
    (lambda: Histogram.from_dict(STORED | {"counts": [-1]}), "a stored histogram has negative or misplaced counts"),
    (lambda: Histogram.from_dict({}), "malformed histogram: KeyError('counts')"),
    (lambda: ifmr.search_ratios(1.3, 0.7), "an IFMR search from 1.3 to 0.7 by 0.01 has no candidates"),
    (lambda: ifmr.search_ratios(0.7, 1.3, 0.0), "an IFMR search from 0.7 to 1.3 by 0.0 has no candidates"),
    (lambda: ifmr.ifmr([]), "no range can be chosen: no data was observed"),
    (lambda: ifmr.ifmr([np.nan]), not_finite("calibration data", 1)),
    (lambda: ifmr.ifmr([1.0], max_percentile=0.0), "an IFMR percentile is in (0, 1], not 0.0"),
    (lambda: ifmr.ifmr([1.0], min_percentile=1.5), "an IFMR percentile is in (0, 1], not 1.5"),
    (lambda: ifmr.ifmr([-3e38, 3e38]), "the range of the data is beyond float32"),
    (lambda: ifmr.ifmr_from_histogram(Histogram.empty()),
     "no range can be chosen: no data was observed; run calibration first"),
    (lambda: moving_average.MovingAverageRange(rate=0.0), "a moving average moves by a rate in (0, 1], not 0.0"),
    (lambda: moving_average.MovingAverageRange(p=50.0), "a percentile is in (50, 100], not 50.0"),
    (lambda: moving_average.MovingAverageRange().updated([np.inf]), not_finite("calibration data", 1)),
    (lambda: moving_average.MovingAverageRange().range(),
     "no range can be chosen: no data was observed; run calibration first"),
    (lambda: per_channel.ChannelStatistics(np.zeros(2), np.zeros(3)), "channel extremes of shapes (2,) and (3,)"),
    (lambda: per_channel.ChannelStatistics.empty(0), "statistics of 0 channels"),
    (lambda: per_channel.ChannelStatistics.empty(2).updated(np.ones((1, 3))),
     "axis 1 of shape (1, 3) does not hold 2 channels"),
    (lambda: per_channel.ChannelStatistics.empty(2).updated(np.ones((1, 2)), axis=2),
     "axis 2 of shape (1, 2) does not hold 2 channels"),
    (lambda: per_channel.ChannelStatistics.empty(1).updated([[np.nan, np.inf, 1.0]], 0),
     not_finite("calibration data", 2)),
    (lambda: per_channel.ChannelStatistics.empty(2).merged(per_channel.ChannelStatistics.empty(3)),
     "statistics of 2 and 3 channels cannot be merged"),
    (lambda: thresholds.min_max(Histogram.empty()),
     "no range can be chosen: no data was observed; run calibration with at least one sample"),
    (lambda: thresholds.percentile(Histogram.empty().updated([1.0]), 50.0), "a percentile is in (50, 100], not 50.0"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals_say_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (hfmg.HfmgHistogram.empty(),
         "HFMG histograms cannot be merged: they depend on the order of all batches; merge histograms and use "
         "hfmg_from_histogram"),
        (moving_average.MovingAverageRange(),
         "averages of ranges cannot be merged: they depend on the order of all batches; feed all batches to one "
         "observer, or choose ranges by histograms"),
    ],
)  # fmt: skip
def test_what_depends_on_order_cannot_be_merged(
    statistics: hfmg.HfmgHistogram | moving_average.MovingAverageRange, message: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        statistics.merged(statistics)  # type: ignore[arg-type]
    assert str(caught.value) == message
