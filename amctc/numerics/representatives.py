"""Few rows that stand for many: k-centre and k-means on feature vectors, and how well what was chosen covers the rest.

Distances are Euclidean. Everything is deterministic: ties go to the first row, draws come from a seed. Memory is that
of the features and a distance per row, beside the products of a few thousand rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import require_finite
from amctc.numerics.threads import single_threaded_blas

Float64Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_ROWS = 4096  # whose distances to all centres are in memory at a time
_ROUNDS = 50  # of Lloyd's algorithm, which mostly settles before


@dataclass(frozen=True)
class Coverage:
    """The distance of rows to the nearest chosen one: the mean over all rows, and the largest."""

    mean: float
    largest: float


def k_center(features: npt.ArrayLike, count: int, seed: int = 0) -> Indices:
    """``count`` rows whose farthest other row is near: each is the row farthest from those before it.

    The first is the one nearest the mean, so ``seed`` changes nothing. The largest distance is at most twice the least
    possible (Gonzalez 1985; Sener and Savarese 2018 choose training samples so).
    """
    rows = _rows(features, count)
    with single_threaded_blas():
        return _farthest_first(rows, [_nearest_to(rows, rows.mean(axis=0))], count)


def k_means(features: npt.ArrayLike, count: int, seed: int = 0) -> Indices:
    """``count`` rows, each the nearest to the mean of a cluster: of all rows, or not far from it, the mean is near.

    Lloyd's algorithm from centres drawn by k-means++ (Arthur and Vassilvitskii 2007). A row is chosen once: clusters of
    equal rows leave places over, which go to the rows farthest from what is chosen.
    """
    rows = _rows(features, count)
    with single_threaded_blas():
        centres = rows[_spread_draw(rows, count, np.random.default_rng(seed))].astype(np.float64)
        for _ in range(_ROUNDS):
            labels = _assigned(rows, centres)[0]
            moved = _means(rows, labels, centres)
            if np.array_equal(moved, centres):
                break
            centres = moved
        return _farthest_first(rows, _medoids(rows, centres), count)


METHODS: dict[str, Callable[[npt.ArrayLike, int, int], Indices]] = {"k-center": k_center, "k-means": k_means}
"""By name: (features [N, D], count, seed) → the chosen rows, in rising order."""


def coverage(features: npt.ArrayLike, chosen: npt.ArrayLike) -> Coverage:
    """How near the ``chosen`` rows are to all of ``features`` [N, D]."""
    rows = np.asarray(features)
    with single_threaded_blas():
        distances = np.sqrt(_assigned(rows, rows[np.asarray(chosen)])[1])
    return Coverage(float(distances.mean()), float(distances.max()))


def _rows(features: npt.ArrayLike, count: int) -> npt.NDArray[np.float32]:
    rows = np.asarray(features, np.float32)
    if rows.ndim != 2 or not 1 <= count <= len(rows):
        raise InputError(f"{count} representatives of features of shape {list(rows.shape)}")
    require_finite(rows, "the features of the samples")
    return rows


def _farthest_first(rows: npt.NDArray[np.float32], chosen: list[int], count: int) -> Indices:
    """``chosen`` and, until there are ``count``, the row farthest from all chosen."""
    distances = np.full(len(rows), np.inf)
    for index in chosen:
        distances = np.minimum(distances, _squares_to(rows, rows[index]))
    distances[chosen] = -1.0
    while len(chosen) < count:
        index = int(distances.argmax())
        distances = np.minimum(distances, _squares_to(rows, rows[index]))
        chosen = [*chosen, index]
        distances[chosen] = -1.0
    return np.sort(np.array(chosen, np.int64))


def _spread_draw(rows: npt.NDArray[np.float32], count: int, rng: np.random.Generator) -> list[int]:
    """k-means++: rows drawn by their squared distance to those drawn before."""
    drawn = [int(rng.integers(len(rows)))]
    distances = _squares_to(rows, rows[drawn[0]])
    while len(drawn) < count:
        total = np.cumsum(distances)
        index = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        drawn.append(min(index, len(rows) - 1))
        distances = np.minimum(distances, _squares_to(rows, rows[drawn[-1]]))
    return drawn


def _assigned(rows: npt.NDArray[np.float32], centres: npt.NDArray[np.floating]) -> tuple[Indices, Float64Array]:
    """For each row the first of the nearest centres, and the squared distance to it."""
    labels, squares = np.empty(len(rows), np.int64), np.empty(len(rows))
    centres = np.asarray(centres, np.float64)
    norms = np.square(centres).sum(axis=1)
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS].astype(np.float64)
        nearest = (norms - 2.0 * (part @ centres.T)).argmin(axis=1)
        labels[first : first + _ROWS] = nearest
        # Anew from the difference: what is left of large norms would not be 0 for a row that is a centre.
        squares[first : first + _ROWS] = np.square(part - centres[nearest]).sum(axis=1)
    return labels, squares


def _means(rows: npt.NDArray[np.float32], labels: Indices, centres: npt.NDArray[np.floating]) -> Float64Array:
    """The mean of the rows of each centre; one without rows stays."""
    sums, counts = np.zeros(centres.shape), np.bincount(labels, minlength=len(centres))
    np.add.at(sums, labels, rows)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)


def _medoids(rows: npt.NDArray[np.float32], centres: npt.NDArray[np.floating]) -> list[int]:
    """The rows nearest to centres, each once."""
    return list(dict.fromkeys(_nearest_to(rows, centre) for centre in centres))


def _nearest_to(rows: npt.NDArray[np.float32], point: npt.NDArray[np.floating]) -> int:
    return int(_squares_to(rows, point).argmin())


def _squares_to(rows: npt.NDArray[np.float32], point: npt.NDArray[np.floating]) -> Float64Array:
    """Squared distances of all rows to a point."""
    squares = np.empty(len(rows))
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS].astype(np.float64) - np.asarray(point, np.float64)
        squares[first : first + _ROWS] = np.square(part).sum(axis=1)
    return squares
