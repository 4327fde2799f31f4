"""Cases of what is computed when a model is compiled (N1, N4, N8 to N11, N18, N22), and in float16 (N21, N26)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from amctc.ir import Graph, GraphInput, apply
from amctc.numerics import affine, fixed_point, int4, sparsity
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Pipeline
from amctc.types import F32, I8, QuantizedType, TensorType
from tools.integer_oracles.cases import Comparison, Generator, Given, Row, any_profile, positive_scales, run_op
from tools.integer_oracles.numbers import F16 as HALF
from tools.integer_oracles.numbers import F32 as SINGLE
from tools.integer_oracles.numbers import MULTIPLIER, each, number, product, rounded, to_float16, total, truncated


def quantizer_attributes(rng: Generator) -> Comparison:
    """What to-ascend makes of a quantizer and a dequantizer: 1/scale_d in float32, and minus the offset (N1, N20)."""
    scale, zero = float(positive_scales(rng, 1, -100, 100)[0]), int(rng.integers(-128, 128))
    x = GraphInput("x", TensorType((2, 3), F32))
    stored = apply(quant.Quantize(QuantizedType.per_tensor(scale, zero, I8)), x)
    lowered = Pipeline.parse("to-ascend").run(Graph((x,), (apply(quant.Dequantize(), stored),), ("y",))).graph
    kinds = [op.kind for op in lowered.ops]
    actual = [v for k in kinds if isinstance(k, ascend.Quant | ascend.AntiQuant) for v in (k.scale, k.offset)]
    expected = [float(rounded(1 / Fraction(scale), SINGLE)), zero, scale, -zero]
    return Comparison(np.array(actual), np.array(expected), f"scale {scale}, offset {zero}")


def nibbles(rng: Generator) -> Comparison:
    """Two int4 to a byte, the even index in the low nibble (N4)."""
    values = rng.integers(-8, 8, (3, 2 * int(rng.integers(1, 9)))).astype(np.int8)
    axis = int(rng.integers(2))
    if axis == 0:
        values = values.T.copy()
    rows = values if axis else values.T
    packed = np.array(
        [[low % 16 + 16 * (high % 16) for low, high in zip(r[::2], r[1::2], strict=True)] for r in rows.tolist()]
    )
    signed = ((packed + 128) % 256 - 128).astype(np.int8)
    actual = int4.pack_int4(values, axis)
    both = np.concatenate([actual.reshape(-1), int4.unpack_int4(actual, axis).reshape(-1)])
    expected = np.concatenate([(signed if axis else signed.T).reshape(-1), values.reshape(-1)])
    return Comparison(both, expected, f"{list(values.shape)} along {axis}")


def bias_integers(rng: Generator) -> Comparison:
    """RNE(bias / (scale_w · scale_d)), the product in float32: ties, and quotients up to the ends of int32 (N9)."""
    weights, activation = positive_scales(rng, 20, -30, 2), positive_scales(rng, 1, -20, 5)[0]
    steps = affine.accumulator_scale(weights, activation)
    reach = 2.0 ** rng.uniform(1, 31)
    bias = ((rng.integers(-int(reach), int(reach) + 1, 20) + rng.choice([0, 0.5, 0.25])) * steps).astype(np.float32)
    exact_steps = [rounded(Fraction(float(w)) * Fraction(float(activation)), SINGLE) for w in weights]
    expected = [round(Fraction(float(b)) / Fraction(s)) for b, s in zip(bias, exact_steps, strict=True)]
    actual = np.concatenate([steps.astype(np.float64), affine.quantize_bias(bias, steps).astype(np.float64)])
    return Comparison(actual, np.array([*map(float, exact_steps), *expected]), f"biases {bias}, steps {steps}")


def headroom(rng: Generator) -> Comparison:
    """|bias′| + 128 · Σ|w| < 2^31 with bias′ = bias_i32 − offset_d · Σw (N8, N9)."""
    weight = rng.integers(-128, 128, (30, 9)).astype(np.int64)
    sums, sizes, zero = weight.sum(axis=1), np.abs(weight).sum(axis=1), int(rng.integers(-128, 128))
    edge = 2**31 - 128 * sizes
    bias = (rng.choice([-1, 1], 30) * edge + zero * sums + rng.integers(-1, 2, 30)).astype(np.int64)
    rows = zip(bias.tolist(), sums.tolist(), sizes.tolist(), strict=True)
    expected = np.array([abs(b - zero * s) + 128 * a < 2**31 for b, s, a in rows])
    return Comparison(affine.has_headroom(bias, sums, sizes, zero), expected, f"bias {bias}, offset {zero}")


def weights(rng: Generator) -> Comparison:
    """Weight scales by the sign of the largest magnitude, and their integers (N10)."""
    w = (rng.normal(size=(4, 9)) * np.exp2(rng.uniform(-26, 8, (4, 1)))).astype(np.float32)
    if rng.random() < 0.3:
        w = np.round(w * 64) / np.float32(64)
    per_channel = bool(rng.random() < 0.6)
    rows = w.tolist() if per_channel else [w.reshape(-1).tolist()]
    scales, codes = [], []
    for row in rows:
        largest = max(row, key=abs)
        largest = max(abs(v) for v in row) if max(row) >= -min(row) else largest
        scale = rounded(Fraction(abs(largest)) / (128 if largest < 0 else 127), SINGLE)
        scale = scale if scale >= Fraction(float(np.float32(1.192092896e-7))) else Fraction(1)
        scales.append(float(scale))
        assert isinstance(scale, Fraction)
        codes += [min(max(round(rounded(Fraction(v) / scale, SINGLE)), -128), 127) for v in row]
    axis = 0 if per_channel else None
    found = affine.weight_scales(w, axis=axis)
    actual = [*found.tolist(), *affine.quantize_weight(w, found, axis=axis).reshape(-1).tolist()]
    return Comparison(np.array(actual), np.array([*scales, *codes]), f"weight {w.tolist()}, per channel {per_channel}")


def parameter_words(rng: Generator) -> Comparison:
    """Both 64-bit words, bit by bit, and what is read back (N11)."""
    scales = positive_scales(rng, 6, -140, 120)
    bits = [int(s.view(np.uint32)) for s in scales]
    shift, short, offset_w = rng.integers(0, 256, 6), rng.integers(0, 16, 6), rng.integers(-128, 128, 6)
    offset, signed = rng.integers(-256, 256, 6), bool(rng.random() < 0.5)
    dequant = [b | int(n) << 32 | (int(o) & 0xFF) << 40 for b, n, o in zip(bits, shift, offset_w, strict=True)]
    requant = [
        (b & 0xFFFFE000) | int(n) << 32 | (int(o) & 0x1FF) << 37 | signed << 46
        for b, n, o in zip(bits, short, offset, strict=True)
    ]
    first = fixed_point.pack_dequant(scales, shift, offset_w)
    second = fixed_point.pack_requant(scales, offset, signed, short)
    multiplier, read_offset, read_signed, read_short = fixed_point.unpack_requant(second)
    actual = [*first, *second, *(a for part in fixed_point.unpack_dequant(first) for a in part),
              *multiplier, *read_offset, *read_signed, *read_short]  # fmt: skip
    expected = [*dequant, *requant, *scales, *shift, *offset_w,
                *(float(truncated(number(s), MULTIPLIER)) for s in scales), *offset, *[signed] * 6, *short]  # fmt: skip
    return Comparison(np.array(actual, object), np.array(expected, object), f"scales {scales}")


def multipliers(rng: Generator) -> Comparison:
    """deq_scale · quant_scale in float32, 13 bits dropped (N18, N12)."""
    a, b = positive_scales(rng, 20, -60, 20), positive_scales(rng, 20, -60, 20)
    expected = each(lambda x, y: truncated(product(number(x), number(y), SINGLE), MULTIPLIER), a, b, dtype=np.float32)
    return Comparison(fixed_point.requant_scale(a, b), expected, f"{a} · {b}")


def two_of_four(rng: Generator) -> Comparison:
    """Indices and slots of every pattern of two among four (N22)."""
    w = rng.integers(-128, 128, (int(rng.integers(1, 6)), 4)).astype(np.int8)
    for row in w:
        row[rng.permutation(4)[: rng.integers(2, 5)]] = 0
    lone = str(rng.choice(["same", "zero"]))
    values, indices = [], []
    for row in w.tolist():
        kept = [i for i, v in enumerate(row) if v]
        first = next((i for i in kept if i <= 2), 0)
        last = next((i for i in reversed(kept) if i >= 1), 1) - 1
        if kept == [3]:
            values += [0, row[3]]
        else:
            values += [row[kept[0]] if kept else 0, row[kept[1]] if len(kept) == 2 else 0]
        indices += [first, 0 if kept == [2] and lone == "zero" else last]
    sparse = sparsity.encode_two_of_four(w.reshape(1, -1), lone_third=lone)  # type: ignore[arg-type]
    dense = sparsity.decode_two_of_four(sparse, w.size)
    actual = np.concatenate([sparse.values.reshape(-1), sparse.indices.reshape(-1), dense.reshape(-1)])
    return Comparison(actual.astype(np.int64), np.array([*values, *indices, *w.reshape(-1)]), f"{w.tolist()} {lone}")


def weight_only(rng: Generator) -> Comparison:
    """x · ((w + offset) · scale) + b with one term to a sum, so that no order of additions is at stake (N21)."""
    profile = any_profile(rng, "weight_only_type", "island_overflow")
    half, depth, columns = bool(rng.random() < 0.6), int(rng.integers(1, 9)), int(rng.integers(1, 6))
    group = int(rng.choice([0, 0, 2, 3]))
    groups = -(-depth // group) if group else 1
    w = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
    scales = positive_scales(rng, groups * columns, -14, 3).reshape(groups, columns)
    offsets = (
        rng.integers(-128, 129, scales.shape).astype(np.int32)
        if rng.random() < 0.6
        else np.zeros_like(scales, np.int32)
    )
    row = int(rng.integers(depth))
    x = np.zeros((3, depth), np.float16 if half else np.float32)
    x[:, row] = rng.normal(size=3) * float(rng.choice([1.0, 1000.0]))
    bias = rng.normal(size=columns).astype(x.dtype) if rng.random() < 0.5 else None
    narrow = half and profile.weight_only_type == "input"

    def formula(value: float, integer: int, scale: float, offset: int, added: float) -> object:
        step = rounded(number(scale), HALF) if narrow else number(scale)
        weight = product(Fraction(integer + offset), step, SINGLE)
        weight = rounded(weight, HALF) if narrow else weight
        y = total(product(number(value), weight, SINGLE), number(added), SINGLE)
        return to_float16(y, profile.island_overflow) if half else y

    at = row // group if group else 0
    added = np.zeros(columns, x.dtype) if bias is None else bias
    expected = each(formula, x[:, row : row + 1], w[row], scales[at], offsets[at], added, dtype=x.dtype)
    shape = scales.shape if group else (columns,)
    operands = [Given(x), Given(w, True), Given(scales.reshape(shape), True), Given(offsets.reshape(shape), True),
                None if bias is None else Given(bias, True)]  # fmt: skip
    kind = ascend.WeightQuantMatMul(False, group)
    actual = run_op(kind, operands, profile)
    return Comparison(actual, expected, f"{kind}, scales {scales}, offsets {offsets} on {profile.name} {x.dtype}")


def residual_sum(rng: Generator) -> Comparison:
    """Addition in float16: one rounding of the exact sum (N26)."""
    profile = any_profile(rng, "island_overflow")
    a, b = (
        rng.integers(0, 1 << 16, 40).astype(np.uint16).view(np.float16)
        if rng.random() < 0.6
        else (rng.normal(size=40) * np.exp2(rng.uniform(-20, 15, 40))).astype(np.float16)
        for _ in range(2)
    )
    overflow = profile.island_overflow

    def formula(left: float, right: float) -> object:
        exact = total(number(left), number(right))
        return to_float16(exact, overflow)

    finite = np.isfinite(a) & np.isfinite(b)  # masks of infinities go through an addition as they are
    a, b = a[finite], b[finite]
    expected = each(formula, a, b, dtype=np.float16)
    return Comparison(run_op(nn.Add(), [Given(a), Given(b)], profile), expected, f"{profile.name} {overflow}")


def half_product(rng: Generator) -> Comparison:
    """A float16 matrix product: float32 sums, here of numbers that add up exactly, and one rounding (N26)."""
    profile = any_profile(rng, "island_overflow")
    shift = float(2.0 ** rng.integers(-12, 8))
    x = (rng.integers(-60, 61, (3, 9)) * shift).astype(np.float16)
    w = rng.integers(-60, 61, (9, 4)).astype(np.float16)
    sums = [
        [sum(Fraction(a) * Fraction(b) for a, b in zip(r, c, strict=True)) for c in w.T.tolist()] for r in x.tolist()
    ]
    rows = [[float(to_float16(v, profile.island_overflow)) for v in row] for row in sums]
    actual = run_op(nn.MatMul(), [Given(x), Given(w, True)], profile)
    return Comparison(actual, np.array(rows, np.float16), f"{profile.name} {profile.island_overflow}")


ROWS = (
    Row("N1 N20", "attributes of AscendQuant and AscendAntiQuant", quantizer_attributes, 0.1),
    Row("N4", "int4 nibbles", nibbles, 0.3),
    Row("N9", "int32 bias", bias_integers),
    Row("N8 N9", "accumulator headroom", headroom, 0.3),
    Row("N10", "weight scales and integers", weights),
    Row("N11", "parameter words", parameter_words, 0.3),
    Row("N18", "requantization multiplier", multipliers, 0.5),
    Row("N21", "weight-only matrix product", weight_only),
    Row("N22", "4:2 indices", two_of_four, 0.5),
    Row("N26", "float16 addition", residual_sum, 0.5),
    Row("N26", "float16 matrix product", half_product, 0.3),
)
