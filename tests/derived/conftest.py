"""Small networks of the usual kinds, built by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn
from amctc.types import F32, Array, TensorType


class Builder:
    """Applies layers with drawn weights under the node names an exporter would give."""

    def __init__(self, seed: int) -> None:
        self._rng, self._count = np.random.default_rng(seed), 0

    def weights(self, *shape: int) -> Array:
        return (self._rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)

    def constant(self, array: Array, name: str) -> Value:
        return const(np.asarray(array, np.float32), name=f"{name}_{self._count}")

    def apply(self, kind: Any, *operands: Value) -> Value:
        self._count += 1
        op_type = type(kind).__name__
        origins = (Origin(f"{op_type.lower()}{self._count}", op_type),)
        return apply(kind, *operands, name=f"v{self._count}", origins=origins)

    def conv(self, x: Value, out: int, kernel: int = 3, *, stride: int = 1, group: int = 1, bias: bool = True) -> Value:
        channels, pad = x.type.dims[1], kernel // 2
        assert isinstance(channels, int)
        parameters = [self.constant(self.weights(out, channels // group, kernel, kernel), "w")]
        parameters += [self.constant(self.weights(out), "b")] if bias else []
        return self.apply(nn.Conv((stride,) * 2, (pad,) * 4, (1, 1), group), x, *parameters)

    def norm(self, x: Value) -> Value:
        channels = x.type.dims[1]
        assert isinstance(channels, int)
        gamma = self._rng.uniform(0.5, 1.5, channels) * self._rng.choice((-1, 1, 1), channels)
        arrays = [gamma, self.weights(channels), self.weights(channels), self._rng.uniform(0.5, 1.5, channels)]
        return self.apply(nn.BatchNorm(), x, *(self.constant(a, "bn") for a in arrays))

    def relu(self, x: Value) -> Value:
        return self.apply(nn.Relu(), x)

    def dense(self, x: Value, columns: int, **factors: Any) -> Value:
        rows = x.type.dims[1]
        assert isinstance(rows, int)
        w, b = self.constant(self.weights(rows, columns), "w"), self.constant(self.weights(columns), "b")
        return self.apply(nn.Gemm(**factors), x, w, b)


def conv_bn_relu(n: Builder, x: Value) -> Value:
    y = n.relu(n.norm(n.conv(x, 8, bias=False)))
    return n.relu(n.norm(n.conv(y, 4, stride=2)))


def depthwise(n: Builder, x: Value) -> Value:
    y = n.apply(nn.Clip(0.0, 6.0), n.norm(n.conv(x, 8, 1)))
    y = n.apply(nn.Clip(0.0, 6.0), n.norm(n.conv(y, 8, group=8)))
    return n.norm(n.conv(y, 6, 1))


def residual(n: Builder, x: Value) -> Value:
    trunk = n.relu(n.conv(x, 4))
    branch = n.conv(n.relu(n.conv(trunk, 4)), 4)
    return n.conv(n.relu(n.apply(nn.Add(), branch, trunk)), 4, 1)


def concat(n: Builder, x: Value) -> Value:
    y = n.relu(n.conv(x, 4, 1))
    joined = n.apply(nn.Concat(1), n.relu(n.conv(y, 4, 1)), n.relu(n.conv(y, 4, 3)))
    return n.conv(joined, 4, 1)


def max_pool(n: Builder, x: Value) -> Value:
    pooled = n.apply(nn.MaxPool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2)), n.relu(n.conv(x, 6)))
    return n.conv(n.apply(nn.AveragePool((1, 1), (1, 1, 1, 1), (1, 1), (3, 3)), pooled), 4)


def classifier(n: Builder, x: Value) -> Value:
    y = n.apply(nn.GlobalAveragePool(), n.relu(n.conv(x, 8)))
    y = n.relu(n.dense(n.apply(nn.Flatten(), y), 6, alpha=0.5, beta=2.0))
    y = n.apply(nn.Add(), n.apply(nn.MatMul(), y, n.constant(n.weights(6, 5), "w")), n.constant(n.weights(5), "b"))
    return n.apply(nn.Softmax(), y)


def transposed(n: Builder, x: Value) -> Value:
    y = n.relu(n.conv(x, 4))
    w, b = n.constant(n.weights(4, 3, 2, 2), "w"), n.constant(n.weights(6), "b")
    y = n.norm(n.apply(nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1), 2), y, w, b))
    return n.conv(n.apply(nn.LeakyRelu(0.1), y), 3)


def averaged(n: Builder, x: Value) -> Value:
    """Average pools with one divisor: int8 in, int8 out."""
    y = n.apply(nn.AveragePool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2)), n.relu(n.conv(x, 6)))
    return n.apply(nn.AveragePool((1, 1), (1, 1, 1, 1), (1, 1), (3, 3), count_include_pad=True), n.conv(y, 4))


def attention(n: Builder, x: Value) -> Value:
    """Products of two computed sides."""
    rows = n.apply(nn.Reshape((0, 3, 64)), x)
    queries, keys, values = (n.apply(nn.MatMul(), rows, n.constant(n.weights(64, 8), "w")) for _ in range(3))
    scores = n.apply(nn.Softmax(-1), n.apply(nn.MatMul(), queries, n.apply(nn.Transpose((0, 2, 1)), keys)))
    return n.apply(nn.MatMul(), scores, values)


def grouped(n: Builder, x: Value) -> Value:
    y = n.apply(nn.LeakyRelu(0.2), n.norm(n.conv(n.conv(x, 8, 1), 12, group=4)))
    return n.apply(nn.Sigmoid(), n.conv(n.apply(nn.Identity(), y), 4, group=2))


def shared(n: Builder, x: Value) -> Value:
    """One value read by two layers, one weight read by two layers, a dead clip, a constant expression."""
    y = n.relu(n.conv(x, 4))
    w = n.constant(n.weights(4, 4, 1, 1), "w")
    pointwise = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    a, b = n.apply(pointwise, y, w), n.apply(pointwise, n.apply(nn.Clip(0.0, np.inf), y), w)
    scale = n.apply(nn.Add(), n.constant(n.weights(1, 4, 1, 1), "c"), n.constant(np.ones((1, 4, 1, 1)), "c"))
    return n.conv(n.apply(nn.Mul(), n.apply(nn.Add(), a, b), scale), 3)


NETWORKS: tuple[Callable[[Builder, Value], Value], ...] = (
    conv_bn_relu, depthwise, residual, concat, max_pool, classifier, transposed, averaged, attention, grouped,
    shared,
)  # fmt: skip


@pytest.fixture(params=NETWORKS, ids=lambda f: f.__name__)
def network(request: pytest.FixtureRequest) -> Graph:
    """A float network ``image`` [N, 3, 8, 8] -> ``y``."""
    image = GraphInput("image", TensorType(("N", 3, 8, 8), F32))
    builder = Builder(NETWORKS.index(request.param))
    return Graph((image,), (request.param(builder, image),), ("y",), request.param.__name__)


@pytest.fixture
def samples() -> list[dict[str, Array]]:
    """Three batches of images for the networks."""
    rng = np.random.default_rng(7)
    return [{"image": rng.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
