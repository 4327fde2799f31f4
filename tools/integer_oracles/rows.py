"""Cases of rows quantized as they come (N6) and of the epilogue of their products (N13)."""

from __future__ import annotations

import math

import numpy as np

from amctc.ir import Graph, GraphInput, apply, build, const
from amctc.ops import ascend
from amctc.targets import Profile
from amctc.types import F16, F32, Array, TensorType
from tools.integer_oracles import formulas
from tools.integer_oracles.cases import (
    Comparison,
    Generator,
    Given,
    Row,
    accumulators,
    any_profile,
    integers,
    positive_scales,
    run_graph,
    run_op,
)
from tools.integer_oracles.numbers import Number, each

HARD = (0.0, -0.0, 1e-45, 6e-8, 1e-12, 1.1e-12, 1e-40, 65504.0, 65520.0, 3.4e38, math.inf, -math.inf, math.nan)


def drawn_rows(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Rows of every size, on ties of their own steps too; rows of zeros, of one sign, of numbers hard to divide by."""
    sizes = np.exp2(rng.uniform(-30, 14, shape[:-1]))[..., None]
    x = rng.normal(size=shape) * sizes
    form = rng.integers(4)
    if form == 0:  # halves of steps: the largest is 127 of them
        x = rng.integers(-254, 255, shape) / 2.0 * np.exp2(np.floor(np.log2(sizes)))
        x[..., 0] = 127.0 * np.exp2(np.floor(np.log2(sizes[..., 0])))
    elif form == 1:
        x[rng.random(shape) < 0.3] = rng.choice(HARD)
    elif form == 2:
        x[rng.random(shape[:-1]) < 0.4] = 0.0
    with np.errstate(over="ignore"):
        return x.astype(np.float16 if rng.random() < 0.5 else np.float32)


def quantized_rows(profile: Profile, x: Array) -> tuple[Array, Array]:
    """The integers and steps of every row by the rule."""
    flat = [formulas.quantized_row(profile, row.tolist()) for row in x.reshape(-1, x.shape[-1])]
    q = np.array([q for q, _ in flat], np.int8).reshape(x.shape)
    with np.errstate(over="ignore"):
        return q, np.array([float(step) for _, step in flat], np.float32).reshape(x.shape[:-1])


def row_quantizer(rng: Generator) -> Comparison:
    """DynamicQuant by each of its three forms; integers and steps side by side."""
    profile = any_profile(rng, "dynamic_quant")
    shape = (*rng.integers(1, 4, rng.integers(1, 3)).tolist(), int(rng.choice([1, 2, 7, 40])))
    x = drawn_rows(rng, shape)
    given = GraphInput("x", TensorType(shape, F16 if x.dtype == np.float16 else F32))
    q, steps = build(ascend.DynamicQuant(), given).results
    found = run_graph(Graph((given,), (q, steps), ("q", "steps")), {"x": x}, profile)
    wanted, sizes = quantized_rows(profile, x)
    actual, expected = (
        np.concatenate([a.astype(np.float64), b[..., None]], axis=-1)
        for a, b in ((found["q"], found["steps"]), (wanted, sizes))
    )
    return Comparison(actual, expected, f"{profile.dynamic_quant} of {x.dtype} {x.tolist()}")


def row_dequantizer(rng: Generator) -> Comparison:
    """The epilogue with a step per row and a bias (N13), to float16 and on to float32."""
    profile = any_profile(rng, "dequant_overflow")
    shape = tuple(rng.integers(1, 5, rng.integers(2, 5)).tolist())
    acc, count = accumulators(rng, shape), shape[-1] if rng.random() < 0.7 else 1
    scale, rows = positive_scales(rng, count, -30, 4), positive_scales(rng, int(np.prod(shape[:-1])), -20, 4)
    rows = np.where(rng.random(rows.shape) < 0.1, np.float32(0), rows).reshape(shape[:-1])
    bias = None if rng.random() < 0.4 else rng.normal(size=shape[-1]).astype(np.float32)
    kind = ascend.DequantRows(F16 if rng.random() < 0.5 else F32)
    operands = [Given(acc), Given(scale, True), Given(rows), *([] if bias is None else [Given(bias, True)])]
    expected = _dequantized(profile, acc, scale, rows, bias).astype(kind.to.dtype)
    return Comparison(run_op(kind, operands, profile), expected, f"scale {scale}, rows {rows}, bias {bias}")


def _dequantized(profile: Profile, acc: Array, scale: Array, rows: Array, bias: Array | None) -> Array:
    overflow = profile.dequant_overflow

    def formula(a: int, s: float, row: float, b: float) -> Number:
        return formulas.dequantized_in_full(a, s, row, b, False, True, overflow)

    return each(formula, acc, scale, rows[..., None], 0.0 if bias is None else bias, dtype=np.float16)


def product_of_rows(rng: Generator) -> Comparison:
    """Rows quantized, multiplied by int8 weights of one step per column, dequantized: N6, N7, N13 in one graph."""
    profile, depth, columns = any_profile(rng), int(rng.choice([1, 5, 33, 300])), int(rng.integers(1, 7))
    shape = (*rng.integers(1, 4, rng.integers(1, 3)).tolist(), depth)
    x, turned = drawn_rows(rng, shape).astype(np.float16), bool(rng.random() < 0.5)
    weight = integers(rng, (columns, depth) if turned else (depth, columns))
    scale, bias = positive_scales(rng, columns, -12, -4), rng.normal(size=columns).astype(np.float32)
    given = GraphInput("x", TensorType(shape, F16))
    q, steps = build(ascend.DynamicQuant(), given).results
    acc = apply(ascend.MatMul(turned), q, const(weight))
    y = apply(ascend.DequantRows(F16), acc, const(scale), steps, const(bias))
    actual = run_graph(Graph((given,), (y,), ("y",)), {"x": x}, profile)["y"]
    integer, sizes = quantized_rows(profile, x)
    matrix = (weight.T if turned else weight).tolist()
    sums = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*matrix, strict=True)]
            for row in integer.reshape(-1, depth).tolist()]  # fmt: skip
    totals = np.array(sums, np.int64).reshape(*shape[:-1], columns)
    return Comparison(actual, _dequantized(profile, totals, scale, sizes, bias), f"{list(shape)} by {depth}×{columns}")


ROWS = (
    Row("N6", "DynamicQuant", row_quantizer, 2.0),
    Row("N13", "dequantization with a step per row", row_dequantizer),
    Row("N6 N7 N13", "product of rows quantized as they come", product_of_rows, 0.5),
)
