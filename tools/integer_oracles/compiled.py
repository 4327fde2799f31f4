"""Cases of whole layers: a quantized layer of the float dialect is lowered, compiled and run as a deploy file is.

What the formulas know is the layer's integers, its scales and the target. They say what becomes of each input: the
quantizer (N2, N3), the sums (N7, N8, N26), one step by scale_d · scale_w / scale_y or several (N12 to N19), and the way
back to float (N20).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from amctc.backends.deploy import export_deploy
from amctc.frontends.deploy import import_deploy
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.schema import OpKind
from amctc.session import compiled
from amctc.types import F32, I8, I32, Array, QuantizedType, TensorType
from tools.integer_oracles import formulas
from tools.integer_oracles.cases import Comparison, Generator, Row, any_profile, integers, run_graph
from tools.integer_oracles.fusions import LEAKY, RELU, SIX, is_fused, slope_of, unfused
from tools.integer_oracles.layers import Window, convolved, drawn_groups, spread
from tools.integer_oracles.numbers import F32 as SINGLE
from tools.integer_oracles.numbers import Number, each, number, product, rounded


class Layer(NamedTuple):
    """A drawn layer: its op, the shape of its data, its integer weight, and its sums as a function of integers.

    ``channels`` is where its result has output channels, ``weight_axis`` where its weight has them (``None`` without
    a weight); ``repeats`` is how often the weight's channels come in the result, which is grouped; ``divisor`` divides
    the scale of an average.
    """

    kind: OpKind
    shape: tuple[int, ...]
    weight: Array | None
    sums: Callable[[Array, int], Array]
    channels: int
    weight_axis: int | None = None
    repeats: int = 1
    divisor: int = 1


def conv(rng: Generator, activation: nn.Activation | None) -> Layer:
    """A convolution of any form."""
    window, (group, per_group, outputs) = Window(rng), drawn_groups(rng)
    weight = integers(rng, (group * outputs, per_group, *window.kernel))
    kind = nn.Conv(window.strides, window.pads, window.dilations, group, activation)
    shape = (1, group * per_group, *window.sizes)
    return Layer(kind, shape, weight, lambda q, zero: convolved(q, weight, window, group, zero), 1, 0)


def conv_transpose(rng: Generator, activation: nn.Activation | None) -> Layer:
    """A transposed convolution; one scale for the channels of the same number in every group."""
    window, (group, per_group, outputs) = Window(rng, dilated=False), drawn_groups(rng)
    weight = integers(rng, (group * per_group, outputs, *window.kernel))
    extra = tuple(int(rng.integers(0, s)) for s in window.strides)
    sizes = tuple(rng.integers(1, 4, window.rank).tolist())
    full = [s * (n - 1) + k + e for n, s, k, e in zip(sizes, window.strides, window.kernel, extra, strict=True)]
    pads = tuple(min(p, (n - 1) // 2) for p, n in zip(window.pads, full * 2, strict=True))
    kept = tuple(slice(b, n - e) for b, e, n in zip(pads, pads[window.rank :], full, strict=False))
    kind = nn.ConvTranspose(window.strides, pads, window.dilations, group, extra, activation)

    def sums(q: Array, zero: int) -> Array:
        return spread(q, weight, window.strides, full, group, zero)[(..., *kept)]

    return Layer(kind, (1, group * per_group, *sizes), weight, sums, 1, 1, group)


def gemm(rng: Generator, activation: nn.Activation | None) -> Layer:
    """A matrix product, the weight transposed or not."""
    inputs, outputs, transposed = int(rng.integers(1, 40)), int(rng.integers(1, 6)), bool(rng.random() < 0.5)
    matrix = integers(rng, (inputs, outputs))
    kind = nn.Gemm(trans_b=transposed, activation=activation)
    weight = matrix.T.copy() if transposed else matrix
    return Layer(kind, (3, inputs), weight, lambda q, zero: _product(q, matrix, zero), 1, 0 if transposed else 1)


def matmul(rng: Generator, activation: nn.Activation | None) -> Layer:
    """A stack of matrices by a constant one."""
    inputs, outputs = int(rng.integers(1, 40)), int(rng.integers(1, 6))
    matrix, rank = integers(rng, (inputs, outputs)), int(rng.integers(2, 5))
    kind = nn.MatMul(activation)
    return Layer(kind, (*(2,) * (rank - 1), inputs), matrix, lambda q, zero: _product(q, matrix, zero), rank - 1, 1)


def _product(q: Array, matrix: Array, zero: int) -> Array:
    return (q.astype(np.int64) - zero) @ matrix.astype(np.int64)


def average(rng: Generator, activation: nn.Activation | None) -> Layer:
    """An average that counts its padding."""
    window = Window(rng, dilated=False)
    window.pads = tuple(min(p, k - 1) for p, k in zip(window.pads, window.kernel * 2, strict=True))
    kind = nn.AveragePool(window.strides, window.pads, window.dilations, window.kernel, count_include_pad=True)
    ones = np.ones((2, 1, *window.kernel), np.int8)
    shape = (1, 2, *window.sizes)
    sums = lambda q, zero: convolved(q, ones, window, 2, zero)  # noqa: E731
    return Layer(kind, shape, None, sums, 1, divisor=math.prod(window.kernel))


def layer_between_quantizers(rng: Generator) -> Comparison:
    """The layer's result as float32, from float32 data."""
    draw = (conv, conv, conv_transpose, gemm, matmul, average)[rng.integers(6)]
    activation = None if draw is average else (None, RELU, SIX, LEAKY)[rng.integers(4)]
    layer, profile = draw(rng, activation), any_profile(rng, "requant", "requant_leaky", "dequant_overflow")
    data = QuantizedType.per_tensor(float(np.float32(rng.uniform(0.01, 0.2))), int(rng.integers(-128, 128)))
    x = (rng.integers(-300, 300, layer.shape) * data.scales[0] / 2).astype(np.float32)
    factor = float(np.float32(1) / np.float32(data.scales[0]))
    q = each(lambda v: formulas.quantized(profile, v, factor, data.zero_points[0], 8, False), x, dtype=np.int8)
    sums = layer.sums(q, data.zero_points[0])
    scales, bias = _parameters(rng, layer, sums, data)
    acc = np.clip(sums + bias, -(2**31), 2**31 - 1)
    steps = np.array([float(rounded(number(s) * number(data.scales[0]), SINGLE)) for s in scales])  # N11
    if len(steps) > 1:
        steps = np.tile(steps, layer.repeats).reshape(-1, *(1,) * (acc.ndim - 1 - layer.channels))
    reach = float(np.abs(acc * steps).max(initial=1e-3)) / layer.divisor
    out = QuantizedType.per_tensor(float(np.float32(reach / rng.uniform(60, 300))), int(rng.integers(-128, 128)))
    outward = float(np.float32(1) / np.float32(out.scales[0]))

    split = any(formulas.splits(float(s), layer.divisor) for s in steps.flat)

    def result(value: int, step: float) -> Number:
        joint = rounded(number(step) / layer.divisor, SINGLE)
        if is_fused(profile, activation, joint, outward, out.zero_points[0]):
            slope = slope_of(activation)
            scale = float(product(joint, number(outward), SINGLE))
            stored = formulas.requantized(value, scale, out.zero_points[0], slope, False)
        else:
            y = float(unfused(profile, value, step, layer.divisor, activation, split))
            stored = formulas.quantized(profile, y, outward, out.zero_points[0], 8, False)
        return formulas.antiquantized(stored, out.scales[0], -out.zero_points[0], profile.dequant_overflow)

    expected = each(result, acc, np.broadcast_to(steps, acc.shape), dtype=np.float32)
    lowered = (
        Pipeline.parse("to-ascend,pack-constants")
        .run(_graph(layer, data, out, scales, bias), Context(target=profile))
        .graph
    )
    if rng.random() < 0.5:
        lowered = import_deploy(export_deploy(lowered))  # N24: the file says the same
    actual = run_graph(compiled(lowered, profile), {"x": x}, profile)["y"]
    quantizers = f"{data} to {out}, weight scales {scales}"
    what = f"{layer.kind} of {list(layer.shape)}, {quantizers} on {profile.name} {profile.requant}"
    return Comparison(actual, expected, what)


def _parameters(rng: Generator, layer: Layer, sums: Array, data: QuantizedType) -> tuple[Array, Array]:
    """Weight scales, one or one per channel, and an integer bias in the shape that it is added in."""
    if layer.weight is None or layer.weight_axis is None:
        return np.ones(1, np.float32), np.zeros(1, np.int64)
    count = layer.weight.shape[layer.weight_axis] if rng.random() < 0.7 else 1
    scales = rng.uniform(1e-3, 1e-2, count).astype(np.float32)
    bias = rng.integers(-4000, 4000, sums.shape[layer.channels]) * int(rng.random() < 0.7)
    return scales, bias.reshape(-1, *(1,) * (sums.ndim - 1 - layer.channels))


def _graph(layer: Layer, data: QuantizedType, out: QuantizedType, scales: Array, bias: Array) -> Graph:
    """quantize, dequantize, the layer on dequantized weight and bias, quantize, dequantize."""
    x = GraphInput("x", TensorType(layer.shape, F32))
    operands: list[Value] = [apply(quant.Dequantize(), apply(quant.Quantize(data), x))]
    if layer.weight is not None:
        elem = QuantizedType.per_tensor(float(scales[0]), 0, I8)
        if len(scales) > 1 and layer.weight_axis is not None:
            elem = QuantizedType.per_axis(scales, layer.weight_axis)
        operands.append(apply(quant.Dequantize(), const(layer.weight, elem)))
    if bias.any():
        steps = np.tile(scales * np.float32(data.scales[0]), layer.repeats)
        per_tensor = len(scales) == 1
        wide = QuantizedType.per_tensor(steps[0], 0, I32) if per_tensor else QuantizedType.per_axis(steps, 0, I32)
        operands.append(apply(quant.Dequantize(), const(bias.reshape(-1).astype(np.int32), wide)))
    y = apply(quant.Dequantize(), apply(quant.Quantize(out), apply(layer.kind, *operands)))
    return Graph((x,), (y,), ("y",))


ROWS = (Row("N8 N12 N17 N19 N24", "a compiled layer, from a deploy file or not", layer_between_quantizers, 2.0),)
