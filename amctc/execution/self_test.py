"""Do ONNX Runtime's integer kernels add up exactly on this machine?

Some do not: without VNNI instructions a kernel may add pairs of uint8 · int8 products in int16, which saturates without
a word. So before the first graph is given to them, they compute a few layers on extreme operands, and must give
what the kernels of :mod:`amctc.kernels` give.
"""

from __future__ import annotations

import functools

import numpy as np

from amctc.errors import UnsupportedError
from amctc.execution.segments import RuntimeSegments
from amctc.interp import Plan
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.ascend_table import ascend_table
from amctc.ops import ascend, nn
from amctc.targets import Profile, load_profile
from amctc.types import F16, I8, Array, TensorType

FIXPIPE_TARGET = "ascend910b1"
"""A target whose rules use every form of :mod:`amctc.execution.runtime_forms`."""

CHANNELS, SIZE = 67, 9
"""Odd, and above what one vector register holds, so that kernels meet whole blocks and remainders."""

BLOCKED = 64
"""Channels that make whole blocks, for kernels that take no others (:mod:`amctc.onnx_bridge.float_convs`)."""


@functools.cache
def runtime_is_exact() -> bool:
    """Whether ONNX Runtime passed, on this machine; tried once per process."""
    profile = load_profile(FIXPIPE_TARGET)
    try:
        return all(_passes(weight, profile) for weight in (127, -128, 1))
    except UnsupportedError:  # a runtime that lacks an operator cannot be used either
        return False


def _passes(weight: int, profile: Profile) -> bool:
    graph = self_test_graph(weight)
    fast = Plan(graph, ascend_table(profile), grouping=RuntimeSegments(profile))
    own = Plan(graph, ascend_table(profile))
    rng = np.random.default_rng(abs(weight))
    shape = (2, CHANNELS, SIZE, SIZE)
    extremes = [np.full(shape, 127), np.full(shape, -128), rng.choice((-128, 127), shape)]
    for data in (*extremes, rng.integers(-128, 128, shape)):
        feeds = {"x": data.astype(np.int8), "rows": data[:, :, 0, 0].astype(np.int8)}
        given, wanted = fast.run(feeds), own.run(feeds)
        if any(given[name].tobytes() != wanted[name].tobytes() for name in wanted):
            return False
    return True


def self_test_graph(weight: int) -> Graph:
    """Dense, depthwise, blocked and patch convolutions, a matrix product and a residual sum, of one extreme weight.

    Multipliers are such that random data spread over int8 and constant data saturate; half of them meet ties.
    """
    x = GraphInput("x", TensorType(("N", CHANNELS, SIZE, SIZE), I8))
    rows = GraphInput("rows", TensorType(("M", CHANNELS), I8))
    signs = np.random.default_rng(7).choice((-1, 1), (CHANNELS, CHANNELS, 3, 3))
    full = (signs if abs(weight) == 1 else np.full_like(signs, weight)).astype(np.int8)
    scale = 2.0**-4 if abs(weight) == 1 else 2.0**-11
    matrix = const(np.ascontiguousarray(full[:, :, 0, 0]))
    dense = _requantized(_conv(x, full), scale)
    depthwise = _requantized(_conv(dense, full[:, :1], group=CHANNELS), 8 * scale, relu=True)
    pointwise = _dequantized(_conv(depthwise, full[:, :, :1, :1], pad=0), 4 * scale)
    total = apply(nn.Relu(), apply(nn.Add(), pointwise, _dequantized(_conv(dense, full), scale)))
    whole = _requantized(_conv(x, full[:BLOCKED]), scale)
    outputs = {
        "dense": dense, "depthwise": depthwise, "sum": total, "quantized": apply(ascend.Quant(0.37, -3), total),
        "grouped": _dequantized(_conv(x, full[:, :1], group=CHANNELS), 4 * scale),
        "blocked": _dequantized(_conv(whole, full[:BLOCKED, :1], group=BLOCKED), 4 * scale),
        "matmul": _requantized(_matmul(rows, matrix), 4 * scale),
        "dequantized": _dequantized(_matmul(rows, matrix), 2.0**-30),
    }  # fmt: skip
    return Graph((x, rows), tuple(outputs.values()), tuple(outputs))


def _conv(x: Value, weight: Array, *, group: int = 1, pad: int = 1) -> Value:
    bias = const(np.arange(len(weight), dtype=np.int32) - len(weight) // 2)
    kind = ascend.Conv((1, 1), (pad,) * 4, (1, 1), group, offset_x=-5)
    return apply(kind, x, const(np.ascontiguousarray(weight)), bias)


def _matmul(x: Value, matrix: Value) -> Value:
    return apply(ascend.MatMul(offset_x=-5), x, matrix)


def _requantized(acc: Value, multiplier: float, *, relu: bool = False) -> Value:
    return apply(ascend.Requant(1, offset=-3, slope=0.0 if relu else 1.0), acc, _multipliers(acc, multiplier))


def _dequantized(acc: Value, multiplier: float) -> Value:
    return apply(ascend.Dequant(1, to=F16), acc, _multipliers(acc, multiplier))


def _multipliers(acc: Value, scale: float) -> Value:
    """One per channel: the power of two itself, which makes ties, and numbers of ten bits beside it."""
    count = acc.type.dims[1]
    assert isinstance(count, int)
    channels = np.arange(count)
    return const((scale * np.where(channels % 2, 1 + channels / 1024, 1)).astype(np.float32))
