"""Small networks, samples and presets for searches."""

from __future__ import annotations

import numpy as np

from amctc.api import Samples
from amctc.calibrate.samples import from_iterable
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.mixed_precision.assembly import FLOAT
from amctc.mixed_precision.space import INT4, INT8
from amctc.ops import nn
from amctc.session import input_specs
from amctc.types import F32, TensorType

LAYERS = ("first", "second", "third")

OF_CONVOLUTIONS = (FLOAT, INT8, INT4)
"""What a convolution can have: integer weights under float data are for matrix products (N21)."""


def chain(*, groups: int = 1, channels: int = 32, exact: str = "", final: object = None) -> Graph:
    """Three 1 × 1 convolutions with relus between, the second one grouped; the weights of ``exact`` fit int4."""
    draw = np.random.default_rng(5)
    x = GraphInput("x", TensorType(("n", channels, 4, 4), F32))
    y: Value = x
    for name in LAYERS:
        group = groups if name == "second" else 1
        weight = draw.normal(0, 0.4, (channels, channels // group, 1, 1)).astype(np.float32)
        if name == exact:  # sevenths of the largest of each row
            weight = draw.integers(-7, 8, weight.shape).astype(np.float32) / 16
            weight[:, 0] = 7 / 16
        kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), group)
        y = apply(kind, y, const(weight), const(draw.normal(0, 0.1, channels).astype(np.float32)),
                  name=f"{name}.y", origins=(Origin(name, "Conv"),))  # fmt: skip
        if name != "third":
            y = apply(nn.Relu(), y, name=f"{name}.relu")
    y = apply(nn.Flatten(1), apply(nn.GlobalAveragePool(), y, name="pooled"), name="scores")
    return Graph((x,), (y if final is None else apply(final, y, name="final"),), ("y",))


def perceptron() -> Graph:
    """Two matrix products with a relu between, of 32 channels."""
    draw = np.random.default_rng(6)
    x = GraphInput("x", TensorType(("n", 32), F32))
    weights = [const(draw.normal(0, 0.4, (32, 32)).astype(np.float32)) for _ in range(2)]
    bias = const(draw.normal(0, 0.1, 32).astype(np.float32))
    y = apply(nn.MatMul(nn.Relu()), x, weights[0], bias, name="one.y", origins=(Origin("one", "MatMul"),))
    y = apply(nn.Gemm(trans_b=True), y, weights[1], name="two.y", origins=(Origin("two", "Gemm"),))
    return Graph((x,), (y,), ("y",))


def samples(graph: Graph, count: int = 16, *, labels: object = None) -> Samples:
    draw = np.random.default_rng(9)
    dims = graph.inputs[0].type.dims[1:]
    array = draw.normal(0, 1, (count, *(d for d in dims if isinstance(d, int)))).astype(np.float32)
    return from_iterable({graph.inputs[0].name: array}, input_specs(graph), labels=labels, batch_size=4)
