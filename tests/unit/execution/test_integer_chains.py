"""What the executor ``numpy`` joins: residual sums with the quantizers that read them, held as float32 between."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.execution import plan_for
from amctc.execution.check import check_executor
from amctc.execution.listing import listed
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.ops import ascend, nn
from amctc.targets import load_profile
from amctc.types import F16, I8, Array, TensorType

A2 = load_profile("ascend910b1")
CHANNELS = 6


class Network:
    """Two residual blocks over one dequantized layer, each with two quantizers; ``multiplier`` is the dequantizers'."""

    def __init__(self, multiplier: float = 2e-3) -> None:
        rng = np.random.default_rng(3)
        self.x = GraphInput("x", TensorType((2, CHANNELS, 4, 5), I8))

        def layer(data: Value) -> Value:
            weight = rng.integers(-128, 128, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
            acc = apply(ascend.Conv((1, 1), (1,) * 4, (1, 1), 1, 0), data, const(weight))
            scale = np.float32(multiplier) * (1 + np.arange(CHANNELS, dtype=np.float32))
            return apply(ascend.Dequant(1, to=F16), acc, const(scale))

        self.begin = layer(self.x)
        self.first = apply(nn.Relu(), apply(nn.Add(), layer(apply(ascend.Quant(3.0, -7), self.begin)), self.begin))
        data = apply(ascend.Quant(0.37, -128), self.first)
        self.beside = apply(ascend.Quant(0.1, 5, sqrt_mode=True), self.first)
        self.second = apply(nn.Add(), self.first, layer(data))
        self.last = apply(ascend.Quant(0.5, 0), self.second)

    def graph(self, *more: Value) -> Graph:
        outputs = (self.last, self.beside, *more)
        return Graph((self.x,), outputs, tuple(f"y{i}" for i in range(len(outputs))))


def extremes(graph: Graph) -> list[dict[str, Array]]:
    """Batches of constant, alternating and drawn int8."""
    shape = [d for d in graph.inputs[0].type.dims if isinstance(d, int)]
    rng = np.random.default_rng(4)
    batches = (
        np.full(shape, 127),
        np.full(shape, -128),
        rng.choice((-128, 127), shape),
        rng.integers(-128, 128, shape),
    )
    return [{"x": b.astype(np.int8)} for b in (*batches, np.zeros(shape))]


def test_sums_are_held_and_quantized_on_the_way() -> None:
    network = Network()
    plan = plan_for(network.graph(), A2)
    assert [[op.kind.op_name.split(".")[1] for op in step.ops] for step in plan.steps] == [
        ["conv", "dequant", "quant"],
        ["conv", "dequant", "add", "relu", "quant", "quant"],
        ["conv", "dequant", "add", "quant"],
    ]
    assert [list(step.stored) for step in plan.steps] == [[network.begin], [network.first], []]
    assert [len(step.results) for step in plan.steps] == [2, 3, 1]
    sizes = [step.result_bytes for step in listed(plan).steps]
    assert sizes == [240 * n for n in (4 + 1, 4 + 1 + 1, 1)]


@pytest.mark.parametrize("multiplier", [2e-3, 2.0**-14, 2.0**-23, 1e-8, 40.0])
@pytest.mark.parametrize("overflow", ["saturate", "inf"])
def test_the_bits_are_those_of_the_parts(multiplier: float, overflow: str) -> None:
    """Whatever dequantizing gives: usual numbers, subnormal ones, zeros of both signs, infinities and NaNs."""
    profile = A2.replace_choice("dequant_overflow", overflow).replace_choice("island_overflow", overflow)
    graph = Network(multiplier).graph()
    check_executor(graph, profile, "numpy", extremes(graph))


def test_what_others_read_is_float16() -> None:
    """A sum that is an output, or that an op reads that is not joined, is what its type says."""
    network = Network()
    clipped = apply(nn.Clip(0.0, 6.0), network.first)
    for more in (network.first, clipped):
        graph = network.graph(more)
        plan = plan_for(graph, A2)
        assert [network.first in step.stored for step in plan.steps if network.first in step.results] == [False]
        assert plan.run(extremes(graph)[3])["y2"].dtype == np.float16
        check_executor(graph, A2, "numpy", extremes(graph))


def test_quantizers_in_float16_stay_apart() -> None:
    profile = A2.replace_choice("quant_mode", "fp16")
    graph = Network().graph()
    plan = plan_for(graph, profile)
    assert not any(isinstance(op.kind, ascend.Quant) for step in plan.steps if len(step.ops) > 1 for op in step.ops)
    check_executor(graph, profile, "numpy", extremes(graph))
