"""Ranges averaged over batches: exponential moving averages of the extremes or of percentiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError, UnsupportedError
from amctc.numerics._arrays import float32_array, require_finite
from amctc.numerics.histogram import Histogram
from amctc.numerics.thresholds import percentile


@dataclass(frozen=True)
class MovingAverageRange:
    """An exponential moving average of the range of each batch; an immutable value.

    The first batch sets the range, each later one moves either end by ``rate`` of its difference:
    end += rate · (end of the batch - end), in float64 (the moving-average observer of quantization-aware training,
    Jacob et al. 2018, section 3.1). The range of a batch is its extremes, or with ``p`` below 100 the range that
    leaves (100 - p) % of its values outside at either end (:func:`amctc.numerics.thresholds.percentile`).

    **The result depends on the order of the batches and on how the data are cut into batches**, and two averages
    cannot be merged: use :class:`amctc.numerics.histogram.Histogram` where that matters.

    ``rate`` in (0, 1]; ``p`` in (50, 100]; ``low``, ``high``: the average so far, 0 without data; ``batches`` seen.
    """

    rate: float = 0.01
    p: float = 100.0
    low: float = 0.0
    high: float = 0.0
    batches: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise InputError(f"a moving average moves by a rate in (0, 1], not {self.rate}")
        if not 50.0 < self.p <= 100.0:
            raise InputError(f"a percentile is in (50, 100], not {self.p}")

    def updated(self, x: npt.ArrayLike) -> MovingAverageRange:
        """This average moved towards one more batch (any shape); an empty batch changes nothing.

        Raises InputError for NaN and infinite values.
        """
        values = float32_array(x).reshape(-1)
        if not values.size:
            return self
        require_finite(values, "calibration data")
        if self.p == 100.0:
            return self._moved_to(float(values.min()), float(values.max()))
        return self.moved(Histogram.empty().updated(values))

    def moved(self, batch: Histogram) -> MovingAverageRange:
        """This average moved towards one more batch, of which only the histogram is known."""
        return self._moved_to(*percentile(batch, self.p)) if batch.count else self

    def merged(self, other: MovingAverageRange) -> NoReturn:
        """Always :class:`UnsupportedError`: where the batches of ``other`` stood among these is not known any more."""
        raise UnsupportedError("averages of ranges cannot be merged: they depend on the order of all batches",
                               remedy="feed all batches to one observer, or choose ranges by histograms")  # fmt: skip

    def _moved_to(self, low: float, high: float) -> MovingAverageRange:
        if self.batches:
            low, high = _moved(self.low, low, self.rate), _moved(self.high, high, self.rate)
        return replace(self, low=low, high=high, batches=self.batches + 1)

    def range(self) -> tuple[float, float]:
        """The average (low, high); InputError without data."""
        if not self.batches:
            raise InputError("no range can be chosen: no data was observed", remedy="run calibration first")
        return self.low, self.high


def _moved(end: float, target: float, rate: float) -> float:
    # The clip keeps rounding from carrying an end past its target; a rate of 1 forgets all but the last batch.
    return float(np.clip(end + rate * (target - end), min(end, target), max(end, target)))
