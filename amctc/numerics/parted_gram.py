"""The Gram matrix of a long input in parts: blocks on the diagonal, what lies between them taken as 0.

Memory and the time of rounding grow with the square and the cube of the length; a part bounds both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.numerics.second_order import quadratic_loss

Float64Array = npt.NDArray[np.float64]

LONGEST = 2304
"""Terms kept together: 3 × 3 windows of 256 channels, 40 MiB in float64."""


@dataclass(frozen=True)
class PartedGram:
    """E[x xᵀ] by terms: a matrix [k, k] for each slice."""

    parts: tuple[tuple[slice, Float64Array], ...]

    def loss(self, error: Float64Array) -> Float64Array:
        """eᵀ H e for each row of ``error`` [O, K]: [O]."""
        losses = (quadratic_loss(error[:, terms], gram) for terms, gram in self.parts)
        return np.asarray(np.sum([np.zeros(len(error)), *losses], axis=0))

    def within(self, terms: slice) -> PartedGram:
        """The matrix of some of the terms, numbered anew."""
        found = []
        for part, gram in self.parts:
            first, last = max(part.start, terms.start), min(part.stop, terms.stop)
            if first < last:
                inner = slice(first - part.start, last - part.start)
                found.append((slice(first - terms.start, last - terms.start), gram[inner, inner]))
        return PartedGram(tuple(found))

    def diagonal(self) -> Float64Array:
        """E[x²] of each term [K]."""
        return np.concatenate([np.zeros(0), *(np.diag(gram) for _, gram in self.parts)])


def parts_of(length: int, unit: int = 1) -> list[slice]:
    """The terms of a long sum in even parts of at most about :data:`LONGEST`, each of whole runs of ``unit`` terms."""
    count = max(1, -(-length // LONGEST))
    ends = [length * (i + 1) // count // unit * unit for i in range(count - 1)] + [length]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False) if begin < end or count == 1]
