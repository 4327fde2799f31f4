"""Values counted into the even bins of a range that doubles as they ask: what calibration takes beside inference."""

from __future__ import annotations

import threading
from math import isfinite
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, Float32Array, Int64Array

EMPTY_EXPONENT = -149
"""Exponent of a histogram that saw no value but zero: every non-zero float32 is at least 2**-149 and needs more."""

_CHUNK = 1 << 17  # elements counted at a time: read from memory once, then from cache
_COPIES = 2
_MOST = 1 << 13  # chunks whose counts int32 holds
_local = threading.local()


class Binned(NamedTuple):
    """``counts`` int64 [2 * half] over [-2**exponent, 2**exponent), the extremes, how many values are zero."""

    counts: Int64Array
    exponent: int
    low: float
    high: float
    zeros: int


def binned(values: Float32Array, half: int) -> Binned:
    """``values`` [n], n > 0, counted into 2 * ``half`` bins of the smallest range they allow.

    Raises :class:`InputError` where one is NaN or infinite. The range of what was counted doubles on the way: the
    result is that of counting at the end, as :mod:`amctc.numerics.histogram` shows.
    """
    tally: _Tally | None = getattr(_local, "tally", None)
    if tally is None or tally.half != half:
        tally = _local.tally = _Tally(half)
    counts: Int64Array | None = None
    exponent, zeros, low, high = EMPTY_EXPONENT, 0, float("inf"), -float("inf")
    tally.clear()  # an error may have left something
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK]
        least, most = float(chunk.min()), float(chunk.max())
        if not (isfinite(least) and isfinite(most)):
            raise InputError("calibration data holds NaN, an infinity or a value beyond float32",
                             remedy="check the model's input preprocessing and look for overflow in earlier layers",
                             )  # fmt: skip
        low, high = min(low, least), max(high, most)
        needed = max(exponent, _exponent(least, most))
        if start and (needed > exponent or tally.full):
            counts = grown(tally.taken(counts), needed - exponent)
        exponent = needed
        zeros += tally.add(chunk, least, half.bit_length() - 1 - exponent)
    # Adding 0.0 turns -0.0 into 0.0: which zero comes first must not show in the result.
    return Binned(tally.taken(counts), exponent, low + 0.0, high + 0.0, zeros)


def grown(counts: Int64Array, doublings: int) -> Int64Array:
    """``counts`` after the range doubled ``doublings`` times: neighbours merged, the result in the middle."""
    half = counts.size // 2
    # After log2(half) merges each sign is one bin, and further ones change nothing.
    merged = 1 << min(doublings, half.bit_length() - 1)
    if merged == 1:
        return counts
    kept = half // merged
    found = np.zeros_like(counts)
    found[half - kept : half + kept] = counts.reshape(2 * kept, merged).sum(axis=1)
    return found


def _exponent(low: float, high: float) -> int:
    # frexp: |x| = m · 2**e with m < 1, so 2**e is the smallest power of two strictly above |x|.
    return int(np.frexp(max(-low, high))[1]) if low or high else EMPTY_EXPONENT


class _Tally:
    """Counts chunks of values, in memory that is used again; one for each thread.

    Counting is the product of a sparse matrix of one column with 1: the matrix has a 1 in row b for every element of
    bin b. :func:`numpy.bincount` does the same on int64, to which floats convert one by one, and looks for the extremes
    first; together that takes twice the time. Elements take turns in ``_COPIES`` ranges of bins: adding to the bin that
    was just added to waits for that sum, and half of what a ReLU gives is zero.
    """

    def __init__(self, half: int) -> None:
        self.half = half
        copies = _COPIES if _COPIES * 2 * half <= _CHUNK else 1
        self._offsets = np.tile(np.arange(copies, dtype=np.int32) * (2 * half) + half, _CHUNK // copies)
        self._positions, self._zeros = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.bool_)
        parts = np.ones(_CHUNK, np.int32), np.zeros(_CHUNK, np.int32), np.array([0, _CHUNK], np.int32)
        self._matrix = csc_array(parts, shape=(copies * 2 * half, 1))
        self._one, self._last = np.ones(1, np.int32), np.int32(copies * 2 * half - 1)
        self._new: AnyArray = np.zeros(0, np.int32)
        self._chunks = 0

    def add(self, chunk: Float32Array, low: float, shift: int) -> int:
        """Count ``chunk``, whose least value is ``low``, into bins floor(x · 2**shift) + half; gives how many are zero.

        A float32 multiplication by a power of two ≥ 1 is exact; a smaller factor could underflow and lose a sign, and
        one above 2**127 does not exist in float32, so those run in float64.
        """
        size, kind = chunk.size, np.dtype(np.float32 if 0 <= shift <= 127 else np.float64)
        factor, rows = kind.type(2.0**shift), self._matrix.indices[:size]
        if low >= 0.0:  # a cast rounds towards zero, which is down
            np.multiply(chunk, factor, out=rows, dtype=kind, casting="unsafe")
        else:
            position = np.multiply(chunk, factor, out=None if kind.itemsize == 8 else self._positions[:size])
            np.copyto(rows, np.floor(position, out=position), casting="unsafe")
        rows += self._offsets[:size]
        # Whoever changes the values meanwhile gets wrong counts, but does not make the product write elsewhere.
        np.bitwise_and(rows, self._last, out=rows)
        self._matrix.indptr[1] = size
        found: AnyArray = self._matrix @ self._one
        self._new = found if not self._chunks else self._new + found
        self._chunks += 1
        return int(np.count_nonzero(np.equal(chunk, 0.0, out=self._zeros[:size])))

    @property
    def full(self) -> bool:
        """Whether int32 might not hold the counts of one more chunk."""
        return self._chunks >= _MOST

    def clear(self) -> None:
        """Forget what was counted."""
        self._chunks = 0

    def taken(self, counts: Int64Array | None) -> Int64Array:
        """``counts`` and what was counted since, which is forgotten."""
        self._chunks = 0
        first, last = self._new[: 2 * self.half], self._new[2 * self.half :]
        found: Int64Array = np.add(first, last, dtype=np.int64) if last.size else first.astype(np.int64)
        if counts is not None:
            found += counts
        found.flags.writeable = False  # else whoever keeps it would copy it
        return found
