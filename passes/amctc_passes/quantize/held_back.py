"""Samples that choose, and samples held back that have the last word."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from amctc.calibrate.contraction import Contraction
from amctc.numerics.gram import Covariance
from amctc.numerics.parted_gram import PartedGram, parts_of
from amctc.types import Array

Float64Array = npt.NDArray[np.float64]

EVERY = 4
"""One sample of so many is held back."""


def held(samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the numbered ``samples`` are held back."""
    return np.asarray(samples % EVERY == EVERY - 1)


def held_columns(first: int, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """Which of ``columns``, as many for each of ``rows`` samples from number ``first`` on, are of samples held back."""
    return held((first + np.arange(rows)).repeat(columns // max(1, rows)))


@dataclass
class FoldMeans:
    """Mean columns [G, K] of what a layer reads, apart for each fold of the samples: one in :data:`EVERY`.

    ``totals`` [EVERY, G, K] are sums of ``counts`` [EVERY] columns.
    """

    totals: Float64Array
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, contraction: Contraction) -> FoldMeans:
        """Nothing yet, for a layer."""
        return cls(np.zeros((EVERY, contraction.groups, contraction.length)), np.zeros(EVERY, np.int64))

    def add(self, contraction: Contraction, x: Array, first: int) -> None:
        """Count in the rows ``x`` of samples from number ``first`` on."""
        if len(x):
            means, count = contraction.mean_columns(x)
            np.add.at(self.totals, (first + np.arange(len(x))) % EVERY, means * count)
            np.add.at(self.counts, (first + np.arange(len(x))) % EVERY, count)

    @property
    def value(self) -> Float64Array:
        """The mean over all samples; 0 without any."""
        return np.asarray(self.totals.sum(axis=0) / max(int(self.counts.sum()), 1))

    def of_fold(self, fold: int) -> Float64Array:
        """The mean over the samples of one fold."""
        return np.asarray(self.totals[fold] / max(int(self.counts[fold]), 1))

    def without(self, fold: int) -> Float64Array:
        """The mean over all other samples."""
        others = np.arange(EVERY) != fold
        return np.asarray(self.totals[others].sum(axis=0) / max(int(self.counts[others].sum()), 1))


@dataclass
class SplitGram:
    """E[x xᵀ] of rows [n, K], apart for rows of samples that choose and of those held back."""

    length: int
    unit: int = 1
    held_rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._parts = parts_of(self.length, self.unit)
        self._chosen, self._held = ([Covariance() for _ in self._parts] for _ in range(2))

    @property
    def longest(self) -> int:
        """Terms of the longest part."""
        return max(int(p.stop - p.start) for p in self._parts)

    def add(self, rows: Array, samples: npt.NDArray[np.int64]) -> None:
        """Count in ``rows`` of the numbered ``samples`` [n]."""
        back = held(samples)
        self.held_rows += int(back.sum())
        for covariances, picked in ((self._chosen, rows[~back]), (self._held, rows[back])):
            for covariance, terms in zip(covariances, self._parts, strict=True):
                covariance.add(np.ascontiguousarray(picked[:, terms].T, np.float32)[None])

    def to_choose(self) -> PartedGram:
        """By the samples that choose, shrunk where they are few."""
        return self._gram(self._chosen, shrunk=True)

    def to_judge(self) -> PartedGram:
        """By the samples held back, as they are."""
        return self._gram(self._held, shrunk=False)

    def _gram(self, covariances: list[Covariance], *, shrunk: bool) -> PartedGram:
        return PartedGram(tuple(
            (terms, c.matrix(1, terms.stop - terms.start, shrunk=shrunk)[0])
            for terms, c in zip(self._parts, covariances, strict=True)
        ))  # fmt: skip
