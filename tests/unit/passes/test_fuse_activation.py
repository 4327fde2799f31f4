"""fuse-activation: what becomes part of a layer, and when not."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn
from amctc.types import F32, TensorType

X = GraphInput("x", TensorType(("N", 3, 4, 4), F32))
M = GraphInput("x", TensorType(("N", 3), F32))
RNG = np.random.default_rng(9)


def w(*shape: int) -> Value:
    return const(RNG.standard_normal(shape).astype(np.float32))


LAYERS = {
    "conv": lambda: apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), X, w(2, 3, 1, 1), w(2)),
    "transpose": lambda: apply(nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1)), X, w(3, 2, 1, 1)),
    "gemm": lambda: apply(nn.Gemm(0.5, 2.0), M, w(3, 4), w(4)),
    "matmul": lambda: apply(nn.MatMul(), M, w(3, 4), w(4)),
    "matmul of two inputs": lambda: apply(nn.MatMul(), M, apply(nn.Transpose((1, 0)), M)),
}
ACTIVATIONS = [nn.Relu(), nn.LeakyRelu(0.25), nn.LeakyRelu(-2.0), nn.Clip(0.0, 6.0), nn.Clip(), nn.Clip(1.0, -1.0)]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_fuses_bit_for_bit(name: str, activation: nn.Activation, run, real) -> None:
    source = X if name in ("conv", "transpose") else M
    graph = Graph((source,), (apply(activation, LAYERS[name](), name="y"),), ("y",))
    result = run("fuse-activation", graph).graph
    (fused,) = (op for op in result.ops if isinstance(op.kind, nn.Layer))
    assert fused.kind.activation == activation
    assert fused.result is result.outputs[0]
    x = RNG.standard_normal([2, *graph.inputs[0].type.dims[1:]]).astype(np.float32)
    np.testing.assert_array_equal(real(graph, x=x)["y"], real(result, x=x)["y"])


@pytest.mark.parametrize("kind", [nn.Sigmoid(), nn.Tanh()])
def test_others_stay(kind: object, run) -> None:
    graph = Graph((M,), (apply(kind, LAYERS["gemm"]()),), ("y",))
    assert run("fuse-activation", graph).graph is graph


def test_only_the_first_of_two(run) -> None:
    graph = Graph((M,), (apply(nn.LeakyRelu(0.5), apply(nn.Clip(0.0, 6.0), LAYERS["gemm"]())),), ("y",))
    result = run("fuse-activation", graph).graph
    assert [op.kind.op_name for op in result.ops if op.operands] == ["nn.gemm", "nn.leaky_relu"]
    assert run("fuse-activation", result).graph is result


def test_layer_with_two_readers_stays(run) -> None:
    layer = LAYERS["gemm"]()
    for other in (apply(nn.Sigmoid(), layer), layer, apply(nn.Relu(), layer)):
        graph = Graph((M,), (apply(nn.Relu(), layer), other), ("a", "b"))
        assert run("fuse-activation", graph).graph is graph


def test_names_and_origins(run) -> None:
    layer = apply(nn.MatMul(), M, w(3, 4), name="inner", origins=(Origin("fc", "MatMul"),))
    y = apply(nn.Relu(), layer, name="outer", origins=(Origin("act", "Relu"),))
    op = run("fuse-activation", Graph((M,), (y,), ("y",))).graph.ops[-1]
    assert op.result.name == "outer"
    assert [o.name for o in op.origins] == ["fc", "act"]
