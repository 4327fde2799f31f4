"""Cases of quantizers, dequantizers and requantizers (N2, N3, N12 to N17, N20) on every target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amctc.kernels.integer_epilogue import dequantize_full_scale
from amctc.ops import ascend
from amctc.targets import Profile
from amctc.types import F16, F32, I4, I8, I16, Array
from tools.integer_oracles import formulas
from tools.integer_oracles.cases import (
    Comparison,
    Generator,
    Given,
    Row,
    accumulators,
    any_profile,
    positive_scales,
    run_op,
)
from tools.integer_oracles.numbers import Number, each


def quantizer(rng: Generator) -> Comparison:
    """AscendQuant on ties, subnormal numbers, infinities and NaN; all scales, offsets and storage types."""
    profile = any_profile(rng, "quant_mode", "island_overflow")
    to = (I8, I8, I8, I4, I16)[rng.integers(5)]
    scale = float(positive_scales(rng, 1, -148 if rng.random() < 0.1 else -30, 30)[0])
    offset = int(rng.integers(-(1 << (to.bits - 1)), 1 << (to.bits - 1))) if rng.random() < 0.7 else 0
    sqrt_mode = bool(rng.random() < 0.2)
    step = 1 / scale if not sqrt_mode else 1 / scale**2
    x = (rng.integers(-600, 600, 40) / 2 * rng.choice([1.0, 1.0, 1 + 2**-12, 0.3])) * step
    if rng.random() < 0.2:
        x = np.concatenate([x, [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 65504.0, 65520.0, 3.4e38]])
    with np.errstate(over="ignore"):
        data = x.astype(np.float16 if rng.random() < 0.3 else np.float32)
    kind = ascend.Quant(scale, offset, to, sqrt_mode)
    expected = each(
        lambda v: formulas.quantized(profile, v, scale, offset, to.bits, sqrt_mode), data, dtype=to.dtype
    )  # fmt: skip
    return Comparison(run_op(kind, [Given(data)], profile), expected, f"{kind} on {profile.name}, {profile.quant_mode}")


def _per_channel(rng: Generator) -> tuple[Array, int, tuple[int, ...]]:
    """Accumulators, the axis of their channels, and the shape that parameters of the channels broadcast in."""
    shape = tuple(rng.integers(1, 6, rng.integers(1, 5)).tolist())
    axis = int(rng.integers(len(shape)))
    return accumulators(rng, shape), axis, tuple(n if i == axis else 1 for i, n in enumerate(shape))


def _scales_for(rng: Generator, acc: Array, count: int, top: float) -> Array:
    """Scales that bring accumulators to about ``top``, or of any size."""
    if rng.random() < 0.3:
        return positive_scales(rng, count)
    largest = max(1.0, float(np.abs(acc.astype(np.float64)).max(initial=1)))
    scales = (top / largest * rng.uniform(0.2, 2.0, count)).astype(np.float32)
    return np.exp2(np.floor(np.log2(scales))).astype(np.float32) if rng.random() < 0.3 else scales


def dequantizer(rng: Generator) -> Comparison:
    """AscendDequant, parameters plain or packed with a shift, relu and the divisor of pools, every choice of a chip."""
    profile = any_profile(rng, "dequant_multiplier", "dequant_overflow", "dequant_guard", "shift_field")
    acc, axis, around = _per_channel(rng)
    count = acc.shape[axis] if rng.random() < 0.7 else 1
    scales = _scales_for(rng, acc, count, float(rng.choice([1.0, 300.0, 70000.0])))
    divisor, relu = int(rng.choice([1, 1, 4, 9, 49])), bool(rng.random() < 0.4)
    fields = rng.integers(0, 20, count) if rng.random() < 0.25 else np.zeros(count, np.int64)
    parameter = scales
    if fields.any() or rng.random() < 0.3:
        words = [int(s.view(np.uint32)) | int(n) << 32 for s, n in zip(scales, fields, strict=True)]  # N11
        parameter = np.array(words, np.uint64)
    kind = ascend.Dequant(axis, F16 if rng.random() < 0.5 else F32, relu, divisor)
    actual = run_op(kind, [Given(acc), Given(parameter, True)], profile)
    formula = _dequantizing(profile, kind, scales, bool(fields.any()))
    shape = around if count > 1 else (1,)
    expected = each(formula, acc, scales.reshape(shape), fields.reshape(shape), dtype=kind.to.dtype)
    chosen = f"{profile.dequant_multiplier}, {profile.dequant_overflow}, {profile.dequant_guard}, {profile.shift_field}"
    return Comparison(actual, expected, f"{kind}, scales {scales}, shifts {fields} on {profile.name}: {chosen}")


def _dequantizing(
    profile: Profile, kind: ascend.Dequant, scales: Array, any_shift: bool
) -> Callable[[int, float, int], Number]:
    """The rule of a profile, for an accumulator, its scale and its shift."""
    split = any(formulas.splits(float(s), kind.divisor) for s in scales)

    def formula(acc: int, scale: float, field: int) -> Number:
        acc = formulas.shifted(acc, field, any_shift, profile.shift_field)
        if profile.epilogue == "f16_vector":
            return formulas.dequantized_by_vector_unit(profile, acc, scale, kind.divisor, kind.relu, split)
        return formulas.dequantized(profile, acc, scale, kind.divisor, kind.relu)

    return formula


def requantizer(rng: Generator) -> Comparison:
    """AscendRequant, with offsets of the whole int9, so that the clip before the offset shows (N17)."""
    profile = any_profile(rng, "shift_field")
    acc, axis, around = _per_channel(rng)
    count = acc.shape[axis] if rng.random() < 0.7 else 1
    scales = _scales_for(rng, acc, count, float(rng.choice([90.0, 250.0, 2000.0])))
    slope = float(rng.choice([1.0, 1.0, 0.0, 0.1, 0.5, 1e-6, rng.random()]))
    shape = around if count > 1 else (1,)
    packed = bool(rng.random() < 0.5)
    offsets = rng.integers(-256, 256, count)
    fields = rng.integers(0, 16, count) if packed and rng.random() < 0.3 else np.zeros(count, np.int64)
    unsigned = packed and bool(rng.random() < 0.3)
    parameter, kind = scales, ascend.Requant(axis, int(offsets[0]), slope)
    if packed:
        words = (
            (int(s.view(np.uint32)) & 0xFFFFE000) | int(n) << 32 | (int(o) & 0x1FF) << 37 | (not unsigned) << 46
            for s, n, o in zip(scales, fields, offsets, strict=True)
        )
        parameter = np.array(list(words), np.uint64)
    else:
        offsets = np.full(count, kind.offset)
    actual = run_op(kind, [Given(acc), Given(parameter, True)], profile)
    any_shift = bool(fields.any())

    def formula(acc: int, scale: float, offset: int, field: int) -> int:
        acc = formulas.shifted(acc, field, any_shift, profile.shift_field)
        return formulas.requantized(acc, scale, offset, slope, unsigned)

    parameters = (p.reshape(shape) for p in (scales, offsets, fields))
    expected = each(formula, acc, *parameters, dtype=np.uint8 if unsigned else np.int8)
    return Comparison(actual, expected, f"{kind}, scales {scales}, offsets {offsets}, shifts {fields}")


def antiquantizer(rng: Generator) -> Comparison:
    """AscendAntiQuant of int8, int4 and int16 (N20)."""
    profile = any_profile(rng, "dequant_overflow")
    stored = (I8, I4, I16)[rng.integers(3)]
    half = 1 << (stored.bits - 1)
    q = rng.integers(-half, half, (3, 17)).astype(stored.dtype)
    scale, offset = float(positive_scales(rng, 1, -30, 12)[0]), int(rng.integers(-half, half + 1))
    kind = ascend.AntiQuant(scale, offset, F16 if rng.random() < 0.5 else F32)
    overflow = profile.dequant_overflow
    expected = each(lambda v: formulas.antiquantized(v, scale, offset, overflow), q, dtype=kind.to.dtype)
    return Comparison(run_op(kind, [Given(q, elem=stored)], profile), expected, f"{kind} on {profile.name} {overflow}")


def full_scale(rng: Generator) -> Comparison:
    """The epilogue without truncation, with scales per token and a float bias (N13), the kernel alone."""
    acc = accumulators(rng, (3, 5))
    scales = _scales_for(rng, acc, 5, 300.0)
    token, bias = (None if rng.random() < 0.4 else a for a in (positive_scales(rng, 3, -4, 4), rng.normal(size=5)))
    relu, half = (bool(rng.random() < 0.5) for _ in range(2))
    overflow = str(rng.choice(["saturate", "inf"]))
    added = None if bias is None else bias.astype(np.float32)
    actual = dequantize_full_scale(
        acc, scales, token_scale=None if token is None else token[:, None], bias=added, relu=relu,
        dtype=np.float16 if half else np.float32, overflow=overflow,  # type: ignore[arg-type]
    )  # fmt: skip
    expected = each(
        lambda a, s, t, b: formulas.dequantized_in_full(a, s, t, b, relu, half, overflow),
        acc, scales, np.float32(1) if token is None else token[:, None], 0.0 if added is None else added,
        dtype=np.float16 if half else np.float32,
    )  # fmt: skip
    return Comparison(actual, expected, f"scales {scales}, token {token}, bias {added}, relu {relu}, {overflow}")


ROWS = (
    Row("N2 N3", "AscendQuant", quantizer, 2.0),
    Row("N11 N12 N14 N15 N16", "AscendDequant", dequantizer, 2.0),
    Row("N11 N12 N16 N17", "AscendRequant", requantizer, 2.0),
    Row("N13", "full-scale dequantization", full_scale),
    Row("N20", "AscendAntiQuant", antiquantizer),
)
