"""Samples that choose, and samples held back that have the last word."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from amctc.numerics.gram import Covariance
from amctc.numerics.parted_gram import PartedGram, parts_of
from amctc.types import Array

EVERY = 4
"""One sample of so many is held back."""


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
        back = samples % EVERY == EVERY - 1
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
