"""Cases of what the target's graph compiler fuses, and of what it leaves (N17, N18, N19, N26).

A small graph goes through ``fuse-requant`` and is run. The formulas decide by themselves what is fused, and compute
either the one step of N17 or the steps of N12 to N15 and N2 to N3.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.ops import ascend, nn
from amctc.pipeline import Context, Pipeline
from amctc.targets import Profile
from amctc.types import F16, I8, I32, Array, TensorType
from tools.integer_oracles import formulas
from tools.integer_oracles.cases import Comparison, Generator, Row, accumulators, any_profile, run_graph
from tools.integer_oracles.numbers import F32 as SINGLE
from tools.integer_oracles.numbers import Number, each, number, product, rounded, to_float16, total

RELU, SIX, LEAKY = nn.Relu(), nn.Clip(0.0, 6.0), nn.LeakyRelu(0.25)


def _fused_and_run(graph: Graph, profile: Profile, feeds: dict[str, Array]) -> Array:
    """Outputs of the graph as the target compiles it, one after the other."""
    compiled = Pipeline.parse("fuse-requant").run(graph, Context(target=profile)).graph
    found = run_graph(compiled, feeds, profile)
    return np.concatenate([found[name].reshape(-1).astype(np.float64) for name in graph.output_names])


def unfused(
    profile: Profile, acc: int, scale: float, divisor: int, activation: object, split: bool | None = None
) -> Number:
    """AscendDequant and the activation, in float16; ``split`` says that the root of some channel's scale is taken."""
    if profile.epilogue == "f16_vector":
        split = formulas.splits(scale, divisor) if split is None else split
        value = formulas.dequantized_by_vector_unit(profile, acc, scale, divisor, False, split)
    else:
        value = formulas.dequantized(profile, acc, scale, divisor, False)
    if activation is RELU or activation is SIX:
        value = max(value, Fraction(0))
    if activation is LEAKY and value < 0:  # a quarter, rounded once; -inf stays
        value = number(np.float16(float(value) * 0.25))
    return min(value, Fraction(6)) if activation is SIX else value


def slope_of(activation: object) -> float:
    """What the requantization multiplies negative accumulators by, beside the scale (N17)."""
    return 1.0 if activation is None else 0.25 if activation is LEAKY else 0.0


def is_fused(profile: Profile, activation: object, step: Number, factor: float, offset: int) -> bool:
    """Whether a target makes one step of dequantize, activation and its only quantizer (N17, N19)."""
    if profile.requant != "int9" or (activation is LEAKY and profile.requant_leaky != "slope"):
        return False
    if activation is SIX and rounded(Fraction(127 - offset) / Fraction(factor), SINGLE) >= 6:
        return False
    return product(step, number(factor), SINGLE) >= Fraction(float(np.finfo(np.float32).tiny))


def requantization(rng: Generator) -> Comparison:
    """Dequantize, an activation, and one or more quantizers: one step where N19 says so, else all of them."""
    profile = any_profile(rng, "requant", "requant_leaky", "dequant_overflow")
    acc = accumulators(rng, (2, 3, 2, 2))
    top = float(rng.choice([0.5, 5.9, 6.0, 6.1, 40.0]))
    largest = max(1.0, float(np.abs(acc.astype(np.float64)).max()))
    scale = float(np.float32(top / largest * rng.uniform(0.5, 2)))
    divisor, activation = int(rng.choice([1, 1, 4, 9])), (None, RELU, SIX, LEAKY)[rng.integers(4)]
    offset = int(rng.integers(-128, 100))
    factor = float(np.float32((127 - offset) / top))
    if rng.random() < 0.15:
        factor = float(np.float32((127 - offset) / 6))  # just at the border of relu6
    other = float(np.float32(factor * 1.5)) if rng.random() < 0.25 else factor  # of a second reader
    float_reader = bool(rng.random() < 0.15)

    x = GraphInput("acc", TensorType(acc.shape, I32))
    y: Value = apply(ascend.Dequant(1, F16, divisor=divisor), x, const(np.float32([scale])))
    y = y if activation is None else apply(activation, y)
    outputs: list[Value] = [apply(ascend.Quant(f, offset), y) for f in (factor, other)]
    names = [f"q{i}" for i in range(len(outputs))]
    if float_reader:
        outputs, names = [*outputs, apply(nn.Identity(), y)], [*names, "float"]
    actual = _fused_and_run(Graph((x,), tuple(outputs), tuple(names)), profile, {"acc": acc})

    step = rounded(number(scale) / divisor, SINGLE)
    fused = factor == other and not float_reader and is_fused(profile, activation, step, factor, offset)
    slope = slope_of(activation)

    def result(value: int, quantizer: float) -> int:
        if fused:
            joint = product(step, number(quantizer), SINGLE)
            return formulas.requantized(value, float(joint), offset, slope, False)
        return formulas.quantized(
            profile, float(unfused(profile, value, scale, divisor, activation)), quantizer, offset, 8, False
        )

    expected = [each(lambda a, f=f: result(a, f), acc, dtype=np.float64).reshape(-1) for f in (factor, other)]
    if float_reader:
        expected.append(
            each(lambda a: unfused(profile, a, scale, divisor, activation), acc, dtype=np.float64).reshape(-1)
        )
    chosen = f"{profile.name} {profile.requant} {profile.requant_leaky} {profile.dequant_overflow}"
    what = (
        f"scale {scale}/{divisor}, {activation}, quantizers {factor} {other} offset {offset}, {float_reader=}, {chosen}"
    )
    return Comparison(actual, np.concatenate(expected), what)


def joined(rng: Generator) -> Comparison:
    """Concatenation in front of a quantizer: int8 where the channels of each part fill blocks of 32 (N19)."""
    profile = any_profile(rng, "requant")
    channels = rng.choice([16, 32, 64], 2).tolist()
    parts, offset, factor = [], int(rng.integers(-128, 128)), float(np.float32(rng.uniform(1, 20)))
    accs = [accumulators(rng, (1, c, 1, 2)) for c in channels]
    scales = [float(np.float32(8 / max(1.0, float(np.abs(a.astype(np.float64)).max())))) for a in accs]
    inputs = [GraphInput(f"acc{i}", TensorType(a.shape, I32)) for i, a in enumerate(accs)]
    for x, scale in zip(inputs, scales, strict=True):
        parts.append(apply(ascend.Dequant(1, F16), x, const(np.float32([scale]))))
    y = apply(ascend.Quant(factor, offset, I8), apply(nn.Concat(1), *parts))
    feeds = {x.name: a for x, a in zip(inputs, accs, strict=True)}
    actual = _fused_and_run(Graph(tuple(inputs), (y,), ("y",)), profile, feeds)
    fused = profile.requant == "int9" and all(c % 32 == 0 for c in channels)

    def result(value: int, scale: float) -> int:
        if fused:
            joint = product(number(scale), number(factor), SINGLE)
            return formulas.requantized(value, float(joint), offset, 1.0, False)
        return formulas.quantized(profile, float(unfused(profile, value, scale, 1, None)), factor, offset, 8, False)

    expected = [
        each(lambda a, s=s: result(a, s), acc, dtype=np.float64).reshape(-1)
        for acc, s in zip(accs, scales, strict=True)
    ]
    return Comparison(
        actual, np.concatenate(expected), f"{channels} channels, scales {scales}, {factor} on {profile.name}"
    )


def residual(rng: Generator) -> Comparison:
    """The sum of two layers in float16, an activation or a slope per channel, and a quantizer (N26)."""
    profile = any_profile(rng, "dequant_overflow", "island_overflow")
    accs = [accumulators(rng, (2, 3, 2, 2)) for _ in range(2)]
    tops = [float(np.abs(a.astype(np.float64)).max(initial=1)) for a in accs]
    scales = [float(np.float32(rng.choice([1.0, 30.0, 60000.0]) / top)) for top in tops]
    activation, slopes = (None, RELU, SIX, nn.PRelu())[rng.integers(4)], rng.normal(size=(3, 1, 1)).astype(np.float16)
    offset, factor = int(rng.integers(-128, 128)), float(np.float32(rng.uniform(0.5, 40)))
    inputs = [GraphInput(f"acc{i}", TensorType(a.shape, I32)) for i, a in enumerate(accs)]
    parts = [apply(ascend.Dequant(1, F16), x, const(np.float32([s]))) for x, s in zip(inputs, scales, strict=True)]
    y: Value = apply(nn.Add(), *parts)
    if activation is not None:
        y = apply(activation, y, const(slopes)) if isinstance(activation, nn.PRelu) else apply(activation, y)
    graph = Graph(tuple(inputs), (apply(ascend.Quant(factor, offset), y),), ("y",))
    actual = _fused_and_run(graph, profile, {x.name: a for x, a in zip(inputs, accs, strict=True)})

    def result(first: int, second: int, slope: float) -> int:
        left, right = (unfused(profile, a, s, 1, None) for a, s in zip((first, second), scales, strict=True))
        value = _added(left, right, profile.island_overflow)
        if isinstance(activation, nn.PRelu):
            value = to_float16(product(value, number(slope)), profile.island_overflow) if value < 0 else value
        if activation is RELU or activation is SIX:
            value = max(value, Fraction(0))
        value = min(value, Fraction(6)) if activation is SIX else value
        return formulas.quantized(profile, float(value), factor, offset, 8, False)

    expected = each(result, *accs, slopes, dtype=np.float64).reshape(-1)
    chosen = f"{profile.name} {profile.dequant_overflow} {profile.island_overflow}"
    return Comparison(actual, expected, f"scales {scales}, {activation} {slopes.tolist()}, {factor} {offset}, {chosen}")


def _added(a: Number, b: Number, overflow: str) -> Number:
    """The float16 sum; an infinity that comes in is passed on, whatever becomes of finite ones that overflow."""
    exact = total(a, b)
    infinite = isinstance(a, float) or isinstance(b, float)
    return exact if infinite else to_float16(exact, overflow)


ROWS = (
    Row("N17 N18 N19 N26", "fused and unfused requantization", requantization),
    Row("N2 N3 N12 N15 N26", "sum of two layers before a quantizer", residual),
    Row("N19", "concatenation before a quantizer", joined, 0.3),
)
