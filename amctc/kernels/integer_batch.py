"""Exact int32 accumulators of the product of two computed int8 operands (N7)."""

from __future__ import annotations

import numpy as np

from amctc.errors import InputError
from amctc.kernels.accumulator import INT32_MAX, Array, Int8, Int32, OverflowCount
from amctc.numerics.exact_gemm import EXACT_FLOAT32, INT8_MAGNITUDE

LARGEST_PRODUCT = INT8_MAGNITUDE * INT8_MAGNITUDE
EXACT_DEPTH = EXACT_FLOAT32 // LARGEST_PRODUCT
"""Length of the sums of int8 products that float32 holds exactly, in any order: 1024 · 128 · 128 = 2^24."""


class BatchProduct(OverflowCount):
    """x (…, M, K) @ w (…, K, N) + bias (N), leading axes broadcast, both operands int8 and symmetric.

    No weight is known beforehand, so the proof of :mod:`amctc.numerics.exact_gemm` is by the operands' type alone: K is
    cut into chunks of :data:`EXACT_DEPTH`, whose float32 products are exact, and the chunks are added as integers.
    """

    def __init__(self, bias: Int32 | None = None, wrap: bool = False) -> None:
        super().__init__(True, wrap)
        self._bias = None if bias is None else bias.astype(np.int64)

    def __str__(self) -> str:
        return f"batched product, K in chunks of {EXACT_DEPTH}"

    def __call__(self, x: Int8, w: Int8, *_: Array | None) -> Int32:
        """int8 (…, M, K) and (…, K, N) -> int32 (…, M, N). Raises :class:`InputError` for operands that do not fit."""
        depth = x.shape[-1]
        if x.dtype != np.int8 or w.dtype != np.int8 or x.ndim < 2 or w.ndim < 2 or w.shape[-2] != depth:
            raise InputError(f"operands {x.dtype} {x.shape} and {w.dtype} {w.shape} of an int8 matrix product")
        largest_bias = 0 if self._bias is None else int(np.abs(self._bias).max(initial=0))
        fits = depth * LARGEST_PRODUCT + largest_bias <= INT32_MAX
        total = self._sums(x.astype(np.float32), w.astype(np.float32), np.int32 if fits else np.int64)
        if self._bias is not None:
            total += self._bias.astype(total.dtype)
        return total if fits else self.settled(total)

    @staticmethod
    def _sums(x: Array, w: Array, dtype: type[np.int32 | np.int64]) -> Array:
        """The products of the chunks of K, each exact in float32, added in a type that holds every sum."""
        total: Array = np.matmul(x[..., :EXACT_DEPTH], w[..., :EXACT_DEPTH, :]).astype(dtype)
        for start in range(EXACT_DEPTH, x.shape[-1], EXACT_DEPTH):
            chunk = slice(start, start + EXACT_DEPTH)
            total += np.matmul(x[..., chunk], w[..., chunk, :]).astype(dtype)
        return total
