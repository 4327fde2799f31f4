"""The rules around an accumulator (N2, N3, N6, N12 to N17, N20), one element at a time, in exact numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from amctc.targets import Profile
from tools.integer_oracles.numbers import (
    F16,
    F32,
    MULTIPLIER,
    Number,
    number,
    product,
    rounded,
    square_root,
    to_float16,
    to_integer,
    total,
    truncated,
)


def quantized(profile: Profile, x: float, scale: float, offset: int, bits: int, sqrt_mode: bool) -> int:
    """AscendQuant as a profile runs it (N2, N3)."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    factor = rounded(number(scale), F32)  # attributes are float32
    if profile.quant_mode == "fp16":
        return to_integer(_in_float16(profile, number(x), factor, offset, sqrt_mode), low, high)
    if sqrt_mode and profile.name == "ascend950":
        factor, sqrt_mode = product(factor, factor, F32), False
    value = product(number(x), factor, F32)
    if sqrt_mode:
        value = product(value, factor, F32)
    if offset:
        value = total(value, Fraction(offset), F32)
    return to_integer(value, low, high)


def quantized_row(profile: Profile, x: Sequence[float]) -> tuple[list[int], Number]:
    """DynamicQuant of one row: its integers and its step (N6)."""
    half = profile.dynamic_quant == "threshold_f16"
    row = [to_float16(number(v), "inf") if half else number(v) for v in x]
    largest = _largest(row)
    if profile.dynamic_quant == "reciprocal":
        factor = _quotient(Fraction(127), largest)
        return [to_integer(product(v, factor, F32), -128, 127) for v in row], _quotient(Fraction(1), factor)
    factor = Fraction(0) if largest <= rounded(Fraction(1, 10**12), F32) else _quotient(Fraction(127), largest)
    if half:
        factor = to_float16(factor, "inf")
    scaled = [to_float16(product(v, factor, None if half else F32), "inf") for v in row]
    return [_half_away(v) for v in scaled], product(largest, rounded(Fraction(1, 127), F32), F32)


def _largest(row: Sequence[Number]) -> Number:
    """The largest magnitude, NaN if there is one."""
    if any(isinstance(v, float) and math.isnan(v) for v in row):
        return math.nan
    return max((abs(v) for v in row), default=Fraction(0))


def _quotient(a: Fraction, b: Number) -> Number:
    """a / b for a > 0, rounded to float32; b is not negative."""
    if isinstance(b, float):
        return math.nan if math.isnan(b) else Fraction(0)
    return rounded(a / b, F32) if b else math.inf


def _half_away(value: Number) -> int:
    """Round to the nearest integer, halves away from zero, and saturate to int8; NaN gives 0."""
    if isinstance(value, float):
        return to_integer(value, -128, 127)
    nearest = math.floor(abs(value) + Fraction(1, 2))
    return min(max(nearest if value >= 0 else -nearest, -128), 127)


def _in_float16(profile: Profile, x: Number, scale: Number, offset: int, sqrt_mode: bool) -> Number:
    """N3: every step in float16; without a normal float16 for the scale, its root twice."""
    if not sqrt_mode and isinstance(scale, Fraction) and not Fraction(1, 2**14) <= scale <= 65504:
        scale, sqrt_mode = square_root(scale, F32), True
    overflow = profile.island_overflow
    factor, value = rounded(scale, F16), to_float16(x, overflow)
    for _ in range(2 if sqrt_mode else 1):
        value = to_float16(product(value, factor), overflow)
    return to_float16(total(value, rounded(Fraction(offset), F16)), overflow) if offset else value


def shifted(acc: int, field: int, any_shift: bool, reading: str) -> int:
    """N16: an arithmetic shift, saturated to int16, as soon as any channel has one."""
    if not any_shift:
        return acc
    return min(max(acc >> (field + 1 if field and reading == "n_plus_1" else field), -32768), 32767)


def multiplier(scale: float, choice: str) -> Number:
    """M1 of a float32 scale: its low 13 mantissa bits dropped, rounded away, or kept (N12)."""
    value = number(scale)
    if choice == "full":
        return value
    return truncated(value, MULTIPLIER) if choice == "truncate" else rounded(value, MULTIPLIER)


def dequantized(profile: Profile, acc: int, scale: float, divisor: int, relu: bool) -> Number:
    """AscendDequant of the fixpipe, and of vdeq_cast, which is taken to be the same (N12, N14)."""
    step = rounded(number(scale) / divisor, F32)  # of AveragePool the scale over the positions of a window (N26)
    accumulator = rounded(Fraction(acc), F32)
    factor: Number = Fraction(0) if relu and acc < 0 else multiplier(float(step), profile.dequant_multiplier)
    return to_float16(product(accumulator, factor, F32), profile.dequant_overflow)


def dequantized_by_vector_unit(
    profile: Profile, acc: int, scale: float, divisor: int, relu: bool, sqrt_mode: bool
) -> Number:
    """AscendDequant of the first generation (N15); ``sqrt_mode`` is chosen for all channels together."""
    step = rounded(number(scale) / divisor, F32)
    if sqrt_mode:
        assert isinstance(step, Fraction)
        step = square_root(step, F32)
    factor, overflow = rounded(step, F16), profile.dequant_overflow
    guard = Fraction(1, 2**17) if profile.dequant_guard == "shift17" else Fraction(1)
    half = to_float16(rounded(Fraction(acc), F32) * guard, overflow)  # 2^-17 is exact
    value = to_float16(product(product(half, factor), 1 / guard), overflow)
    if relu:
        value = max(value, Fraction(0))
    return to_float16(product(value, factor), overflow) if sqrt_mode else value


def splits(scale: float, divisor: int) -> bool:
    """Whether float16 has no normal number for a scale, so that its root is taken (N3, N15)."""
    step = rounded(number(scale) / divisor, F32)
    return not Fraction(1, 2**14) <= step <= 65504


def requantized(acc: int, scale: float, offset: int, slope: float, unsigned: bool) -> int:
    """AscendRequant (N17): the int9 clip and the rounding come before the offset."""
    positive = truncated(number(scale), MULTIPLIER)
    negative = truncated(product(rounded(number(slope), F32), positive, F32), MULTIPLIER)
    value = product(rounded(Fraction(acc), F32), negative if acc < 0 else positive, F32)
    clipped = min(max(value, Fraction(-256)), Fraction(255))
    low, high = (0, 255) if unsigned else (-128, 127)
    return min(max(round(clipped) + offset, low), high)


def antiquantized(q: int, scale: float, offset: int, overflow: str) -> Number:
    """AscendAntiQuant (N20): one product, which float32 rounds before float16 does."""
    return to_float16(product(Fraction(q + offset), rounded(number(scale), F32), F32), overflow)


def dequantized_in_full(
    acc: int, scale: float, token: float, bias: float, relu: bool, half: bool, overflow: str
) -> Number:
    """The full-scale epilogue (N13): a float32 rounding after each step, one cast at the end."""
    value = product(rounded(Fraction(acc), F32), number(scale), F32)
    value = total(product(value, number(token), F32), number(bias), F32)
    if relu and (isinstance(value, Fraction) or not math.isnan(value)):
        value = max(value, Fraction(0))
    return to_float16(value, overflow) if half else value
