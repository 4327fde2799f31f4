"""Exact numbers, and the one place where they round: to a binary format, half to even."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Number: TypeAlias = Fraction | float
"""A finite number as a fraction; an infinity or NaN as a float."""


class Format(NamedTuple):
    """A binary floating-point format (IEEE 754): significand digits, exponent of the smallest step, largest number."""

    digits: int
    least_exponent: int
    largest: Fraction

    def step(self, value: Fraction) -> Fraction:
        """The spacing of the format's numbers at ``value``, which is not zero."""
        return _power(max(_exponent(value) - self.digits + 1, self.least_exponent))


F16 = Format(11, -24, Fraction(65504))
F32 = Format(24, -149, (2 - Fraction(1, 2**23)) * 2**127)
MULTIPLIER = Format(11, -136, (2 - Fraction(1, 2**10)) * 2**127)
"""The 1-8-10 multiplier of the fixpipe: float32 without its low 13 bits, subnormal numbers included (N12)."""


def number(value: Any) -> Number:
    """The exact value of a NumPy or Python number."""
    real = float(value)
    return Fraction(real) if math.isfinite(real) else real


def rounded(value: Number, to: Format) -> Number:
    """``value`` to the nearest number of a format, ties to even, an infinity beyond its largest."""
    if isinstance(value, float) or value == 0:
        return value
    step = to.step(value)
    result = round(value / step) * step  # a fraction rounds ties to even
    return result if abs(result) <= to.largest else math.copysign(math.inf, result)


def truncated(value: Number, to: Format) -> Number:
    """``value`` to the next number of a format toward zero."""
    if isinstance(value, float) or value == 0:
        return value
    step = to.step(value)
    return math.trunc(value / step) * step


def product(a: Number, b: Number, to: Format | None = None) -> Number:
    """a · b, exact or rounded once."""
    if isinstance(a, float) or isinstance(b, float):
        return float(a) * float(b)
    return a * b if to is None else rounded(a * b, to)


def total(a: Number, b: Number, to: Format | None = None) -> Number:
    """a + b, exact or rounded once."""
    if isinstance(a, float) or isinstance(b, float):
        return float(a) + float(b)
    return a + b if to is None else rounded(a + b, to)


def square_root(value: Fraction, to: Format) -> Number:
    """√value rounded once: an integer root of enough digits, and a last one that says whether it is exact."""
    scale = 2 * (64 + max(0, -_exponent(value)))
    shifted = value * 2**scale
    root = math.isqrt(shifted.numerator // shifted.denominator)
    inexact = Fraction(root) ** 2 != shifted
    return rounded(Fraction(2 * root + inexact, 2 ** (scale // 2 + 1)), to)


def to_float16(value: Number, overflow: str) -> Number:
    """One rounding to float16; beyond ±65504 ``"saturate"`` or an infinity (N12)."""
    result = rounded(value, F16)
    if overflow == "saturate" and isinstance(result, float):
        return result if math.isnan(result) else F16.largest * (1 if result > 0 else -1)
    return result


def to_integer(value: Number, low: int, high: int) -> int:
    """Round half to even, saturate; NaN gives 0 (N2, N6)."""
    if isinstance(value, float):
        return 0 if math.isnan(value) else (high if value > 0 else low)
    return min(max(round(value), low), high)


def each(formula: Callable[..., Any], *operands: Any, dtype: Any) -> Array:
    """``formula`` of the elements of broadcast arrays, one call each."""
    arrays = np.broadcast_arrays(*(np.asarray(o) for o in operands))
    flat = [formula(*elements) for elements in zip(*(a.reshape(-1).tolist() for a in arrays), strict=True)]
    with np.errstate(over="ignore"):
        return np.array([float(v) if isinstance(v, Fraction) else v for v in flat], dtype).reshape(arrays[0].shape)


@functools.cache
def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def _exponent(value: Fraction) -> int:
    """The e of 2^e ≤ |value| < 2^(e+1)."""
    magnitude = abs(value)
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if magnitude >= _power(guess) else guess - 1
