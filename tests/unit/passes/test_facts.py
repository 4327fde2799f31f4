"""Facts about graphs: what holds, and the first op that breaks one, word for word."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.contract import Fact
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import ascend, nn, quant
from amctc.types import F32, I8, I32, U8, QuantizedType, TensorType
from amctc_passes import facts

X = GraphInput("x", TensorType((2, 4), F32))
ACC = GraphInput("acc", TensorType((2, 4), I32))
DATA, WEIGHT = QuantizedType.per_tensor(0.5, 3), QuantizedType.per_tensor(0.25)
BIAS = QuantizedType(I32, F32, (0.125,), (0,), None, *I32.integer_range)
OP = (Origin("fc", "Gemm"),)


def integers(array: object, elem: QuantizedType) -> Value:
    return apply(quant.Dequantize(), const(np.asarray(array, elem.dtype), elem))


def rounded(x: Value) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(DATA), x, origins=OP), origins=OP)


def graph(value: Value, x: GraphInput = X) -> Graph:
    return Graph((x,), (value,), ("y",))


def product(x: Value, w: Value, *bias: Value) -> Graph:
    return graph(apply(nn.Gemm(), x, w, *bias, origins=OP))


FLOAT = const(np.eye(4, dtype=np.float32))
INTEGER = integers(np.eye(4), WEIGHT)
DENSE = const(np.float32([[1], [2], [3], [0]]))
PACKED = apply(ascend.Dequant(1), ACC, const(np.uint64([0])), origins=OP)
PLAIN = apply(ascend.Dequant(1), ACC, const(np.float32([0.5])), origins=OP)

CASES: tuple[tuple[Fact, Graph, str | None], ...] = (
    (facts.UNQUANTIZED, product(X, FLOAT), None),
    (facts.UNQUANTIZED, product(rounded(X), FLOAT), "fc is quant.quantize"),
    (facts.UNQUANTIZED, graph(PLAIN, ACC), "fc is ascend.dequant"),
    (facts.NOT_LOWERED, product(rounded(X), FLOAT), None),
    (facts.NOT_LOWERED, graph(PLAIN, ACC), "fc is ascend.dequant"),
    (facts.LOWERED, graph(PLAIN, ACC), None),
    (facts.LOWERED, product(X, FLOAT), None),
    (facts.LOWERED, product(rounded(X), FLOAT), "fc has type i8 with a scale"),
    (facts.PACKED, graph(PACKED, ACC), None),
    (facts.PACKED, product(X, FLOAT), None),
    (facts.PACKED, graph(PLAIN, ACC), "the parameter of fc is f32"),
    (facts.WEIGHTS_QUANTIZED, product(X, FLOAT), None),
    (facts.WEIGHTS_QUANTIZED, product(rounded(X), INTEGER), None),
    (facts.WEIGHTS_QUANTIZED, product(rounded(X), FLOAT), "the weight of fc is float while its input is quantized"),
    (facts.BIASES_QUANTIZED, product(rounded(X), INTEGER), None),
    (facts.BIASES_QUANTIZED, product(rounded(X), FLOAT, const(np.ones(4, np.float32))), None),
    (facts.BIASES_QUANTIZED, product(X, INTEGER, const(np.ones(4, np.float32))), None),
    (facts.BIASES_QUANTIZED, product(rounded(X), INTEGER, integers(np.ones(4), BIAS)), None),
    (facts.BIASES_QUANTIZED, product(rounded(X), INTEGER, const(np.ones(4, np.float32))),
     "the bias of fc is float while its input and weight are quantized"),
    (facts.TWO_OF_FOUR, product(X, FLOAT), None),
    (facts.TWO_OF_FOUR, product(X, DENSE), "fc has more than two of four weights"),
    (facts.TWO_OF_FOUR, product(X, integers([[1], [0], [2], [0]], WEIGHT)), None),
    (facts.TWO_OF_FOUR, product(X, integers([[1], [5], [2], [0]], WEIGHT)), "fc has more than two of four weights"),
    # Where integer 3 is the number 0, two of these weights are none.
    (facts.TWO_OF_FOUR, product(X, integers([[1], [3], [2], [3]], DATA)), None),
    (facts.TWO_OF_FOUR, product(X, integers([[1], [0], [0], [3]], DATA)), "fc has more than two of four weights"),
)  # fmt: skip


@pytest.mark.parametrize(("fact", "given", "violation"), CASES)
def test_violations_name_the_op(fact: Fact, given: Graph, violation: str | None) -> None:
    found = fact.violation(given)
    assert found == violation if violation is None else violation in (found or "")


def test_what_the_quantizer_of_the_target_makes() -> None:
    assert facts.has_quantizer(DATA)
    assert not facts.has_quantizer(QuantizedType.per_axis((0.5, 1.0), 1))
    assert not facts.has_quantizer(QuantizedType(I8, F32, (0.5,), (0,), None, -127, 127))
    assert not facts.has_quantizer(QuantizedType(U8, F32, (0.5,), (0,), None, 0, 255))


def test_what_lies_under_a_dequantized_value() -> None:
    assert facts.is_quantized(INTEGER)
    assert facts.quantized_type(INTEGER) == WEIGHT
    assert facts.stored_under(rounded(X)).type.elem == DATA
    for value in (None, X, FLOAT, facts.stored_under(INTEGER)):
        assert not facts.is_quantized(value)
