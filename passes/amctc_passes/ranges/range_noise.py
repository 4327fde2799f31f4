"""What the range of a quantized tensor costs: noise over signal, apart for samples that choose and those held back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from amctc.calibrate.axes import batch_length
from amctc.types import Array, QuantizedType
from amctc_passes.ranges.quantized_tensors import QuantizedTensor

Float64Array = npt.NDArray[np.float64]


class Noise(NamedTuple):
    """Noise over signal, on the samples that choose and on those held back; NaN where nothing was seen."""

    chosen: float
    held_back: float

    def below(self, other: Noise) -> bool:
        """Whether both are; never where one is NaN."""
        return self.chosen < other.chosen and self.held_back < other.held_back


class RangeNoise(Protocol):
    """Measures what types cost."""

    def worth_searching(self, tensors: Sequence[QuantizedTensor]) -> Sequence[QuantizedTensor]:
        """Those whose ranges matter, in the order to search them in."""

    def alone(self, tensor: QuantizedTensor, elem: QuantizedType) -> Noise:
        """With ``tensor`` stored as ``elem`` and all else in float."""

    def in_place(self, tensor: QuantizedTensor, types: Mapping[QuantizedTensor, QuantizedType]) -> Noise:
        """With all tensors stored as ``types`` says; what says whether another type of ``tensor`` stays."""


def first_samples(batches: Iterable[Mapping[str, Array]], samples: int) -> Iterator[Mapping[str, Array]]:
    """Whole batches that hold at least ``samples`` samples, or all there are."""
    seen = 0
    for feeds in batches:
        yield feeds
        seen += batch_length(feeds)
        if seen >= samples:
            return


def energy(array: Array) -> float:
    """The sum of squares of what is finite: infinities may be masked positions."""
    return float(np.square(array, where=np.isfinite(array), out=np.zeros(array.shape)).sum())


def mean_share(totals: npt.ArrayLike) -> Noise:
    """The mean over several outputs of error energy over energy; ``totals`` are [outputs, 2, 2].

    The axes of ``totals``: outputs; samples that choose, held back; error, all.
    0 without error, NaN where there are no outputs or one was never seen.
    """
    error, signal = np.moveaxis(np.asarray(totals, np.float64).reshape(-1, 2, 2), 2, 0)
    if not error.size:
        return Noise(np.nan, np.nan)
    shares = np.divide(error, signal, out=np.where(error > 0, np.inf, np.nan), where=signal > 0)
    return Noise(*shares.mean(axis=0).tolist())
