"""pack-constants: the bits of N11."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UnsupportedError
from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.ops import ascend
from amctc.types import F32, I32, U64, Array, TensorType

ACC = GraphInput("acc", TensorType((1, 2, 2, 2), I32))


def of(value: Value, *inputs: GraphInput) -> Graph:
    return Graph((ACC, *inputs), (value,), ("y",))


def words(graph: Graph) -> Array:
    parameter = graph.outputs[0].producer.operands[1]
    assert parameter.type.elem == U64
    return constant_data(parameter).read()


def test_dequantization_words(run) -> None:
    scale = np.float32([1.0, 0.15625])  # 0x3f800000 and 0x3e200000
    packed = words(run("pack-constants", of(apply(ascend.Dequant(1), ACC, const(scale, name="p")))).graph)
    assert [f"{w:016x}" for w in packed] == ["000000003f800000", "000000003e200000"]


@pytest.mark.parametrize(("offset", "field"), [(0, 0), (1, 1), (127, 127), (-1, 511), (-128, 384)])
def test_requantization_words(offset: int, field: int, run) -> None:
    """Bit 46 signed, 45 to 37 the offset as an int9, 31 to 0 the float32 of the scale."""
    packed = words(
        run("pack-constants", of(apply(ascend.Requant(1, offset, 0.0), ACC, const(np.float32([0.5]))))).graph
    )
    assert packed.tolist() == [(1 << 46) | (field << 37) | 0x3F000000]


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_results_are_the_same(slope: float, run, chip) -> None:
    acc = np.random.default_rng(0).integers(-3000, 3000, (1, 2, 2, 2), dtype=np.int32)
    for kind in (ascend.Dequant(1, relu=slope == 0.0), ascend.Requant(1, -5, slope)):
        graph = of(apply(kind, ACC, const(np.float32([0.0123, 0.4567]))))
        packed = run("pack-constants", graph).graph
        np.testing.assert_array_equal(chip(graph, acc=acc)["y"], chip(packed, acc=acc)["y"])


def test_names_and_kinds_stay(run) -> None:
    kind = ascend.Requant(1, 3, 0.25)
    op = run("pack-constants", of(apply(kind, ACC, const(np.float32([1]), name="p"), name="r"))).graph.ops[-1]
    assert (op.kind, op.result.name, op.operands[1].name) == (kind, "r", "p")


def test_running_twice_changes_nothing(run) -> None:
    packed = run("pack-constants", of(apply(ascend.Dequant(1), ACC, const(np.float32([1]))))).graph
    assert run("pack-constants", packed).graph is packed


def test_computed_scales_are_refused(run) -> None:
    scale = GraphInput("s", TensorType((1,), F32))
    with pytest.raises(UnsupportedError, match="a computed scale cannot be packed"):
        run("pack-constants", of(apply(ascend.Dequant(1), ACC, scale), scale))
