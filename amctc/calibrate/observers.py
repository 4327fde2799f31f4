"""Observers of several values: fed batch by batch, kept as arrays bit for bit, merged where that is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from amctc.calibrate.checkpoint import Collection
from amctc.errors import InputError
from amctc.numerics.histogram import Histogram
from amctc.numerics.moving_average import MovingAverageRange
from amctc.types import Array


@dataclass(frozen=True)
class Observers:
    """What calibration saw so far of some values, in their order; an immutable value.

    ``histograms``: one per value. ``averages``: one per value, or none where nobody asked for them. ``samples`` seen.
    """

    histograms: tuple[Histogram, ...]
    averages: tuple[MovingAverageRange, ...] = ()
    samples: int = 0

    @staticmethod
    def empty(values: int, bins: int, average: MovingAverageRange | None = None) -> Observers:
        """Observers that saw nothing; with ``average`` they also average ranges as it says."""
        return Observers((Histogram.empty(bins),) * values, () if average is None else (average,) * values)

    def updated(self, batch: Sequence[Histogram], samples: int) -> Observers:
        """These observers fed the next batch, of which the histogram of each value is known."""
        histograms = tuple(old.merged(new) for old, new in zip(self.histograms, batch, strict=True))
        averages = tuple(a.moved(h) for a, h in zip(self.averages, batch, strict=True)) if self.averages else ()
        return Observers(histograms, averages, self.samples + samples)

    def merged(self, other: Observers) -> Observers:
        """The observers of both sets of samples, the same in either order and however samples are cut into sets.

        Raises :class:`InputError` for observers of other values or bins, and :class:`UnsupportedError` where ranges
        were averaged: an average depends on the order of all batches.
        """
        if len(self.histograms) != len(other.histograms):
            counts = f"{len(self.histograms)} and {len(other.histograms)}"
            raise InputError(f"observers of {counts} values cannot be merged", remedy="observe the same values")
        if averages := self.averages or other.averages:
            averages[0].merged(averages[-1])
        merged = tuple(a.merged(b) for a, b in zip(self.histograms, other.histograms, strict=True))
        return Observers(merged, (), self.samples + other.samples)

    def state(self) -> dict[str, Array]:
        """All of it in arrays, to the last bit: see :meth:`restored`."""
        h, a = self.histograms, self.averages
        return {
            "samples": np.array(self.samples, np.int64),
            "counts": np.stack([x.counts for x in h]) if h else np.zeros((0, 2), np.int64),
            "integers": np.array([(x.exponent, x.count, x.zeros) for x in h], np.int64).reshape(-1, 3),
            "extremes": np.array([(x.low, x.high) for x in h], np.float64).reshape(-1, 2),
            "averaged ends": np.array([(x.low, x.high) for x in a], np.float64).reshape(-1, 2),
            "averaged batches": np.array([x.batches for x in a], np.int64),
        }

    def restored(self, found: Collection) -> Observers:
        """The observers whose :meth:`state` a collection holds; these, which saw nothing, say how many and which.

        Raises :class:`InputError` for a state of another form.
        """
        values, averages = len(self.histograms), len(self.averages)
        bins = self.histograms[0].counts.size if values else 2
        counts = found.array("counts", (values, bins), np.int64)
        integers = found.array("integers", (values, 3), np.int64).tolist()
        extremes = found.array("extremes", (values, 2), np.float64).tolist()
        ends = found.array("averaged ends", (averages, 2), np.float64).tolist()
        batches = found.array("averaged batches", (averages,), np.int64).tolist()
        histograms = tuple(
            Histogram(row, exponent, low, high, count, zeros)
            for row, (exponent, count, zeros), (low, high) in zip(counts, integers, extremes, strict=True)
        )
        moved = tuple(
            replace(average, low=low, high=high, batches=seen)
            for average, (low, high), seen in zip(self.averages, ends, batches, strict=True)
        )
        return Observers(histograms, moved, int(found.array("samples", (), np.int64)))
