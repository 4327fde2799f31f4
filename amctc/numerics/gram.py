"""Second moments of the inputs of a layer, gathered batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


@dataclass
class Covariance:
    """Covariances [G, K, K] of columns [G, K, n] around a ``centre`` [G, K] near their mean, or around 0.

    Products are computed in float32 on the centred columns and summed in float64: a mean far from 0 would cost bits.
    """

    centre: Float64Array | None = None
    _gram: Float64Array | float = field(default=0.0, init=False)
    _sum: Float64Array | float = field(default=0.0, init=False)
    _count: int = field(default=0, init=False)

    def add(self, columns: npt.NDArray[np.float32]) -> None:
        """Count in some columns."""
        if self.centre is not None:
            columns = columns - self.centre[:, :, None].astype(np.float32)
            self._sum = self._sum + columns.sum(axis=2, dtype=np.float64)
        self._gram = self._gram + (columns @ columns.swapaxes(1, 2)).astype(np.float64)
        self._count += columns.shape[2]

    def absorb(self, other: Covariance) -> None:
        """Count in the columns of ``other``, gathered around the same centre."""
        self._gram, self._sum = self._gram + other._gram, self._sum + other._sum
        self._count += other._count

    def matrix(self, groups: int, length: int, *, shrunk: bool = True) -> Float64Array:
        """E[x xᵀ] [G, K, K], around the mean where there is a centre; 0 with less than two columns.

        Unless it is only to measure by, it is ``shrunk`` towards its diagonal by K / (K + n): n columns that are few
        beside K say little about correlations, and what is fitted to them would not hold for others (Ledoit and Wolf
        2004 give the reasons, and find such shares).
        """
        gram = np.broadcast_to(np.asarray(self._gram) / max(self._count, 1), (groups, length, length))
        if self.centre is not None:
            mean = np.broadcast_to(np.asarray(self._sum) / max(self._count, 1), (groups, length))
            gram = gram - mean[:, :, None] * mean[:, None, :]
        if self._count < 2:
            return np.zeros((groups, length, length))
        found = gram * (self._count / (self._count + length)) if shrunk else np.array(gram)
        diagonal = np.arange(length)
        found[:, diagonal, diagonal] = np.maximum(gram[:, diagonal, diagonal], 0.0)
        return np.asarray(found)


@dataclass
class CrossCovariance:
    """E[d xᵀ] [G, K, K] of differences d and columns x [G, K, n], around their means where there is a ``centre``."""

    centre: Float64Array | None = None
    _products: Float64Array | float = field(default=0.0, init=False)
    _sums: tuple[Float64Array | float, Float64Array | float] = field(default=(0.0, 0.0), init=False)
    _count: int = field(default=0, init=False)

    def add(self, differences: npt.NDArray[np.float32], columns: npt.NDArray[np.float32]) -> None:
        """Count in some columns."""
        if self.centre is not None:
            columns = columns - self.centre[:, :, None].astype(np.float32)
            sums = (a.sum(axis=2, dtype=np.float64) for a in (differences, columns))
            self._sums = self._sums[0] + next(sums), self._sums[1] + next(sums)
        self._products = self._products + (differences @ columns.swapaxes(1, 2)).astype(np.float64)
        self._count += columns.shape[2]

    def absorb(self, other: CrossCovariance) -> None:
        """Count in the columns of ``other``, gathered around the same centre."""
        self._products = self._products + other._products
        self._sums = self._sums[0] + other._sums[0], self._sums[1] + other._sums[1]
        self._count += other._count

    def matrix(self, length: int, *, shrunk: bool = True) -> Float64Array:
        """The covariance, unless it is only to measure by ``shrunk`` as :meth:`Covariance.matrix` shrinks."""
        products = np.asarray(self._products) / max(self._count, 1)
        if self.centre is not None:
            first, second = (np.asarray(s) / max(self._count, 1) for s in self._sums)
            products = products - first[:, :, None] * second[:, None, :]
        return np.asarray(products * (self._count / (self._count + length) if shrunk else 1.0))
