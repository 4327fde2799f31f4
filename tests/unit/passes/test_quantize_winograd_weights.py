"""quantize-winograd-weights: integers that few bits hold, by hand, and the room that a kernel transform finds."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, Array, QuantizedType, TensorType

RNG = np.random.default_rng(1)
THREE = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1))
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""G of F(2, 3): Lavin and Gray 2016, equation 8."""


def layer(kind: nn.Conv, weight: Array, bias: Array | None = None) -> Graph:
    x = GraphInput("x", TensorType((1, weight.shape[1] * kind.group, 8, 8), F32))
    y = apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(0.0625, 0)), x))
    operands: list[Value] = [y, const(weight.astype(np.float32)), *([] if bias is None else [const(bias)])]
    return Graph((x,), (apply(kind, *operands, origins=(Origin("c", "Conv"),)),), ("y",))


def run(graph: Graph, options: str = "") -> Graph:
    text = f"quantize-winograd-weights{{{options}}}" if options else "quantize-winograd-weights"
    return Pipeline.parse(text).run(graph, Context()).graph


def stored(graph: Graph) -> tuple[Array, QuantizedType]:
    (op,) = (op for op in graph.ops if isinstance(op.kind, nn.Conv))
    weight = op.operands[1]
    assert weight is not None
    assert weight.producer is not None
    integers = weight.producer.operands[0]
    data = constant_data(integers)
    assert data is not None
    assert integers is not None
    assert isinstance(integers.type.elem, QuantizedType)
    return data.read(), integers.type.elem


@pytest.mark.parametrize(("bits", "top"), [(7, 63), (6, 31)])
def test_integers_by_hand(bits: int, top: int) -> None:
    """1 becomes the largest integer, -1 of the other channel the least."""
    weight = np.zeros((2, 1, 3, 3))
    weight[0, 0, 0] = 1.0, 0.25, -0.125
    weight[1, 0, 0] = -1.0, 0.999, 0.0
    codes, elem = stored(run(layer(THREE, weight), f"bits={bits}"))
    assert codes[0, 0, 0].tolist() == [top, round(top / 4), -round(top / 8)]
    assert codes[1, 0, 0].tolist() == [-top - 1, top, 0]  # 0.999 would be top + 1
    assert (elem.low, elem.high, elem.storage.bits) == (-top - 1, top, 8)
    assert elem.scales == (pytest.approx(1 / top), 1 / (top + 1))


def test_six_bits_leave_room_for_the_transform() -> None:
    for seed in range(20):
        weight = np.random.default_rng(seed).uniform(0.5, 1, (4, 3, 3, 3))
        codes, _ = stored(run(layer(THREE, weight), "bits=6"))
        transformed = KERNEL @ codes.astype(np.float64) @ KERNEL.T
        assert np.abs(transformed).max() <= 127
    assert np.abs(KERNEL @ np.full((3, 3), 63) @ KERNEL.T).max() > 127  # of 7 bits, at worst


@pytest.mark.parametrize("kind", [
    nn.Conv((2, 2), (1, 1, 1, 1), (1, 1)), nn.Conv((1, 1), (1, 1, 1, 1), (2, 2)),
    nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 2),
])  # fmt: skip
def test_other_convolutions_stay(kind: nn.Conv) -> None:
    graph = layer(kind, RNG.normal(size=(2, 2, 3, 3)))
    assert run(graph) is graph
    small = layer(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), RNG.normal(size=(2, 2, 1, 1)))
    assert run(small) is small


def test_quantize_weights_takes_the_rest() -> None:
    graph = layer(THREE, RNG.normal(size=(2, 2, 3, 3)))
    done = Pipeline.parse("quantize-winograd-weights,quantize-weights,quantize-bias,legalize,to-ascend")
    assert not any(isinstance(op.kind, nn.Conv) for op in done.run(graph, Context()).graph.ops)
    assert np.array_equal(stored(Pipeline.parse("quantize-winograd-weights,quantize-weights").run(
        graph, Context()).graph)[0], stored(run(graph))[0])  # fmt: skip
    with pytest.raises(UsageError, match="not with float weights: the weight of c"):
        run(run(graph))
    with pytest.raises(UsageError, match="bits=8: weights for Winograd transforms have 6 or 7 bits"):
        run(graph, "bits=8")
    with pytest.raises(UsageError, match="matches no layer"):
        run(graph, "layers=[d]")


def test_scales_that_the_accumulator_needs_stay() -> None:
    """A bias of 2**30 steps needs a larger scale than the weights (N9); a dead channel keeps its fine one (N10)."""
    weight = np.zeros((2, 1, 3, 3))
    weight[0, 0, 1, 1] = 1e-6
    graph = layer(THREE, weight, np.float32([1e3, 1.0]))
    wide = stored(Pipeline.parse("quantize-weights").run(graph, Context()).graph)[1]
    assert stored(run(graph))[1].scales == wide.scales
