"""Exact integer matrix products through floating-point BLAS (N7).

NumPy multiplies integer matrices without BLAS, 15 to 200 times slower than sgemm. Yet sgemm on small integers is exact
whenever no partial sum can leave the integers that float32 represents without gaps:

**Proof.** Let every activation satisfy |x| ≤ A (128 for int8) and let column n of the weight satisfy
``A · Σ_k |w_kn| + |bias_n| ≤ 2**24``. Every product x·w is an integer of magnitude at most A·|w|. Whatever order,
blocking or fused multiply-add BLAS uses, each value it computes is a sum of a subset of the products (and the bias),
an integer of magnitude at most 2**24 by the triangle inequality. All such integers are float32 numbers, so each
operation's exact result is representable and IEEE 754 returns it unrounded. By induction the final sum is exact.

The bound depends on the weights alone, so it is checked once, when a layer is packed; K ≤ 1024 always passes for int8.
Where it fails, K is cut into the longest chunks that satisfy it, and the exact chunk sums are added as integers.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, BoolArray, Float32Array, Int32Array, Int64Array

EXACT_FLOAT32 = 1 << 24
"""float32 has a 24-bit significand: every integer up to this magnitude is representable (IEEE 754)."""

INT8_MAGNITUDE = 128
"""Largest magnitude of an int8 activation."""

_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1
_ROWS_AT_ONCE = 256  # rows of a weight scanned together by k_splits: bounds its temporaries


def exact_in_float32(
    abs_weight_sum: npt.ArrayLike, bias: npt.ArrayLike, activation_magnitude: int = INT8_MAGNITUDE
) -> BoolArray:
    """Per channel: does one float32 product with the bias stay exact? ``activation_magnitude``·Σ|w| + |bias| ≤ 2**24.

    ``abs_weight_sum`` and ``bias`` are integers [N]; the proof is in the module's docstring.
    """
    bound = activation_magnitude * np.asarray(abs_weight_sum, np.int64) + np.abs(np.asarray(bias, np.int64))
    return np.asarray(bound <= EXACT_FLOAT32, dtype=np.bool_)


def k_splits(weight: AnyArray, bias: AnyArray | None = None, activation_magnitude: int = INT8_MAGNITUDE) -> list[int]:
    """Boundaries ``[0, …, K]`` of the fewest consecutive chunks of K whose float32 products are exact.

    ``weight`` is (K, N) integers, ``bias`` (N,) or None. Where the bound of :func:`exact_in_float32` holds no cut is
    made. Nor is one when only the bias breaks it: a cut would not help, the bias is then added as an integer. Chunks
    are greedy, each as long as all columns permit, which gives the fewest.

    Raises InputError when a single product could exceed the bound.
    """
    rows = weight.shape[0]
    if bias is not None and exact_in_float32(_abs_sum(weight), bias, activation_magnitude).all():
        return [0, rows]
    largest_sum = EXACT_FLOAT32 // activation_magnitude
    boundaries = [0]
    while boundaries[-1] < rows:
        boundaries.append(_longest_chunk(weight, boundaries[-1], largest_sum))
    return boundaries if rows else [0, 0]


def _longest_chunk(weight: AnyArray, start: int, largest_sum: int) -> int:
    """The end of the longest run of rows from ``start`` with Σ|w| ≤ ``largest_sum`` in every column."""
    total = np.zeros(weight.shape[1], np.int64)
    for first in range(start, weight.shape[0], _ROWS_AT_ONCE):
        sums = np.cumsum(np.abs(weight[first : first + _ROWS_AT_ONCE].astype(np.int64)), axis=0) + total
        over = (sums > largest_sum).any(axis=1)
        if over.any():
            end = first + int(over.argmax())
            if end == start:
                raise InputError("one product alone exceeds the exact range of float32", rule="N7")
            return end
        total = sums[-1]
    return int(weight.shape[0])


def _abs_sum(weight: AnyArray) -> Int64Array:
    return np.asarray(np.abs(weight.astype(np.int16)).sum(axis=0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """An integer weight (K, N) and bias (N,) prepared once for exact products with many activations.

    ``weight`` is int8, ``bias`` int32 or int64 with N8's fold already applied, or None. ``activation_magnitude`` bounds
    the |activations|: 128 for int8, 255 for uint8.

    ``splits`` are the chunks of K (:func:`k_splits`); ``exact_with_bias`` tells that one float32 product, bias
    included, is exact; ``can_overflow`` whether some input could leave int32.
    """

    weight: InitVar[AnyArray]
    bias: InitVar[AnyArray | None] = None
    activation_magnitude: int = INT8_MAGNITUDE
    matrix: Float32Array = field(init=False)
    bias_i64: Int64Array = field(init=False)
    splits: tuple[int, ...] = field(init=False)
    exact_with_bias: bool = field(init=False)
    can_overflow: bool = field(init=False)

    def __post_init__(self, weight: AnyArray, bias: AnyArray | None) -> None:
        if weight.ndim != 2 or weight.dtype != np.int8:
            raise InputError(
                f"a packed weight is an int8 matrix, not {weight.dtype} of shape {weight.shape}", rule="N7"
            )
        columns = weight.shape[1]
        biases = np.zeros(columns, np.int64) if bias is None else np.asarray(bias, np.int64)
        if biases.shape != (columns,):
            raise InputError(f"bias of shape {biases.shape} for {columns} columns", rule="N7")
        abs_sum = _abs_sum(weight)
        bound = self.activation_magnitude * abs_sum + np.abs(biases)
        fixed = {
            "matrix": np.ascontiguousarray(weight, dtype=np.float32),
            "bias_i64": biases,
            "splits": tuple(k_splits(weight, biases, self.activation_magnitude)),
            "exact_with_bias": bool((bound <= EXACT_FLOAT32).all()),
            "can_overflow": bool((bound > _INT32_MAX).any()),
        }
        for name, value in fixed.items():
            object.__setattr__(self, name, value)
        self.matrix.flags.writeable = False

    def matmul(self, x: AnyArray, *, wrap: bool = False) -> tuple[Int32Array, int]:
        """Exact ``x @ weight + bias`` (M, N) as int32, and how many sums left int32 (N7).

        Those are saturated, or with ``wrap`` taken modulo 2^32. ``x`` is (M, K): int8, or float32 that already holds
        integers within ``activation_magnitude``.
        """
        if self.exact_with_bias:
            result = np.empty((x.shape[0], self.matrix.shape[1]), np.int32)
            self.matmul_into(x, result, np.empty(result.size, np.float32))
            return result, 0
        if not self.can_overflow:
            return self._sum_of_chunks(x, np.dtype(np.int32)), 0
        total = self._sum_of_chunks(x, np.dtype(np.int64))
        outside = int(np.count_nonzero((total < _INT32_MIN) | (total > _INT32_MAX)))
        kept = total if wrap else np.clip(total, _INT32_MIN, _INT32_MAX)
        return kept.astype(np.int32), outside  # NumPy casts integers modulo 2^32

    def matmul_into(self, x: AnyArray, out: Int32Array, scratch: Float32Array) -> None:
        """:meth:`matmul` into ``out`` where one product is exact (``exact_with_bias``).

        ``scratch`` is float32 of at least M · N elements in one dimension.
        """
        product = scratch[: out.size].reshape(out.shape)
        np.matmul(x.astype(np.float32, copy=False), self.matrix, out=product)
        # One pass adds and converts, a cache line at a time: f32 + f32 is an exact integer, so the cast loses nothing.
        np.add(product, self.bias_i64.astype(np.float32), out=out, casting="unsafe")

    def sums_into(self, x: AnyArray, out: Float32Array) -> None:
        """:meth:`matmul` into ``out`` (M, N) as float32, where one product is exact (``exact_with_bias``)."""
        np.matmul(x.astype(np.float32, copy=False), self.matrix, out=out)
        out += self.bias_i64.astype(np.float32)

    def _sum_of_chunks(self, x: AnyArray, dtype: np.dtype[np.int32] | np.dtype[np.int64]) -> AnyArray:
        """The chunks' products, each exact in float32, added to the bias in an integer type that holds every sum.

        A partial sum is bounded like the whole one, so int32 serves when ``can_overflow`` is False.
        """
        values = x.astype(np.float32, copy=False)
        total: AnyArray = np.empty((x.shape[0], self.matrix.shape[1]), dtype)
        total[...] = self.bias_i64
        for start, end in zip(self.splits, self.splits[1:], strict=False):
            total += np.matmul(values[:, start:end], self.matrix[start:end]).astype(dtype)
        return total
