"""Values counted into the even bins of a range that doubles as they ask: what calibration takes beside inference."""

from __future__ import annotations

import threading
from math import frexp, isfinite
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, Float32Array, Int64Array

EMPTY_EXPONENT = -149
"""Exponent of a histogram that saw no value but zero: every non-zero float32 is at least 2**-149 and needs more."""

_COPIES = 4
_CHUNK = _COPIES * 0xFFFF  # elements counted at a time: what uint16 holds; read from memory once, then from cache
_INFINITY = np.uint32(0x7F800000)  # the bits of what is negative, infinite or NaN are not below these of +inf
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
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK]
        least, most, zero = tally.extremes(chunk)
        low, high, zeros = min(low, least), max(high, most), zeros + zero
        needed = max(exponent, _exponent(least, most))
        new = tally.counts(chunk, least, half.bit_length() - 1 - needed)
        counts = new if counts is None else grown(counts, needed - exponent) + new
        exponent = needed
    assert counts is not None
    counts.flags.writeable = False  # else whoever keeps it would copy it
    # Adding 0.0 turns -0.0 into 0.0: which zero comes first must not show in the result.
    return Binned(counts, exponent, low + 0.0, high + 0.0, zeros)


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
    return frexp(max(-low, high))[1] if low or high else EMPTY_EXPONENT


class _Tally:
    """Counts chunks of values, in memory that is used again; one for each thread.

    Counting is the product of a sparse matrix of one column with 1: the matrix has a 1 in row b for every element of
    bin b. :func:`numpy.bincount` does the same on int64, to which floats convert one by one, and looks for the extremes
    first; together that takes twice the time. Elements take turns in ``_COPIES`` ranges of bins: adding to the bin that
    was just added to waits for that sum, and half of what a ReLU gives is zero. Counts of 16 bits stay in L1 cache.
    """

    def __init__(self, half: int) -> None:
        self.half = half
        self._copies = _COPIES if _COPIES * 2 * half <= _CHUNK else 1
        kind = np.uint16 if self._copies == _COPIES else np.int32
        turns = np.arange(self._copies, dtype=np.int32) * (2 * half) + half
        self._offsets, self._last = np.tile(turns, _CHUNK // self._copies), np.int32(self._copies * 2 * half - 1)
        self._positions, self._zeros = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.bool_)
        parts = np.ones(_CHUNK, kind), np.zeros(_CHUNK, np.int32), np.array([0, _CHUNK], np.int32)
        self._matrix, self._one = csc_array(parts, shape=(self._copies * 2 * half, 1)), np.ones(1, kind)

    def extremes(self, chunk: Float32Array) -> tuple[float, float, int]:
        """The least and the greatest of ``chunk``, and how many are zero; :class:`InputError` for NaN or an infinity.

        The bits of floats without a sign are in the order of the values, and compared and counted faster.
        """
        bits = chunk.view(np.uint32)
        if (most := bits.max()) < _INFINITY:
            zeros = chunk.size - int(np.count_nonzero(bits))
            return 0.0 if zeros else float(chunk.min()), float(most.view(np.float32)), zeros
        low, high = float(chunk.min()), float(chunk.max())
        if not (isfinite(low) and isfinite(high)):
            raise InputError("calibration data holds NaN, an infinity or a value beyond float32",
                             remedy="check the model's input preprocessing and look for overflow in earlier layers",
                             )  # fmt: skip
        return low, high, int(np.count_nonzero(np.equal(chunk, 0.0, out=self._zeros[: chunk.size])))

    def counts(self, chunk: Float32Array, low: float, shift: int) -> Int64Array:
        """How many of ``chunk``, whose least value is ``low``, are in each of the bins floor(x · 2**shift) + half.

        A float32 multiplication by a power of two ≥ 1 is exact; a smaller factor could underflow and lose a sign, and
        one above 2**127 does not exist in float32, so those run in float64.
        """
        size, kind = chunk.size, np.dtype(np.float32 if 0 <= shift <= 127 else np.float64)
        position = np.multiply(chunk, kind.type(2.0**shift), out=self._positions[:size] if kind.itemsize == 4 else None)
        if low < 0.0:  # others are rounded down by the cast, towards zero
            np.floor(position, out=position)
        rows = self._matrix.indices[:size]
        np.copyto(rows, position, casting="unsafe")
        rows += self._offsets[:size]
        # Whoever changes the values meanwhile gets wrong counts, but does not make the product write elsewhere.
        np.bitwise_and(rows, self._last, out=rows)
        self._matrix.indptr[1] = size
        found: AnyArray = self._matrix @ self._one
        return np.asarray(found.reshape(self._copies, -1).sum(axis=0, dtype=np.int64))
