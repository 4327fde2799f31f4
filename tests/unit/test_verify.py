"""One broken graph for every invariant, and none for graphs in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amctc.data import ArrayData, Data, DeferredData
from amctc.errors import InputError, TypeConstraintError, VerificationError
from amctc.ir import Constant, Graph, GraphInput, Op, Origin, Result, Value, apply, const
from amctc.ops import nn, onnx, quant
from amctc.parser import parse_graph
from amctc.types import F32, I4, I8, Array, Elem, QuantizedType, TensorType
from amctc.verify import verify, violations

T = TensorType((2,), F32)
OTHER = TensorType((3,), F32)
X = GraphInput("x", T)
GOLDEN = Path(__file__).parents[1] / "golden"


def of(*outputs: Value, inputs: tuple[GraphInput, ...] = (X,)) -> Graph:
    return Graph(inputs, outputs, tuple(f"out{i}" for i in range(len(outputs))))


def raw(kind: nn.Relu | nn.Add | Constant | onnx.Node, *operands: Value | None, types: tuple[TensorType, ...]) -> Op:
    """An op nobody checked, of the layer ``conv1``."""
    return Op(kind, operands, types, (None,) * len(types), (Origin("conv1", "Conv"),))


def node(operand_types: tuple[TensorType | None, ...], result_types: tuple[TensorType, ...]) -> onnx.Node:
    return onnx.Node("Custom", "my", 1, b"", operand_types, result_types)


def refused(graph: Graph, *, deep: bool = False) -> InputError:
    with pytest.raises((VerificationError, TypeConstraintError)) as raised:
        verify(graph, deep=deep)
    assert isinstance(raised.value, InputError)
    return raised.value


# ---------------------------------------------------------------------------------------------------- in order


def test_graphs_in_order() -> None:
    verify(of(X))
    verify(of(apply(nn.Add(), X, const(np.ones(2, np.float32)))), deep=True)
    verify(parse_graph((GOLDEN / "small_network.txt").read_text()), deep=True)


def test_shared_operands_are_no_cycle() -> None:
    value: Value = X
    for _ in range(100):
        value = apply(nn.Add(), value, value)
    verify(of(value, value))
    assert list(violations(of(value))) == []


def test_a_carried_op_on_other_operands_is_taken_at_its_word() -> None:
    """Its types came from ONNX when it was rebuilt; inferring them again is not the verifier's job."""
    op = raw(node((T, None), (T, OTHER)), X, types=(T, OTHER))
    verify(of(*op.results))
    y = GraphInput("y", OTHER)
    verify(of(*raw(node((T,), (T, T)), y, types=(OTHER, OTHER)).results, inputs=(y,)))


# ---------------------------------------------------------------------------------------------------- G1 … G4


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("output_names", (), "1 outputs with 0 names [G1]"),
        ("output_names", ("",), "outputs named '' lack a name of their own [G1]"),
        ("inputs", (X, GraphInput("x", T)), "inputs named 'x' lack a name of their own [G1]"),
    ],
)
def test_g1_interface_names(field: str, value: object, message: str) -> None:
    graph = of(X)
    object.__setattr__(graph, field, value)
    assert str(refused(graph)) == message


def test_g1_output_names_occur_once() -> None:
    graph = of(X, X, X)
    object.__setattr__(graph, "output_names", ("a", "b", "a"))
    assert str(refused(graph)) == "outputs named 'a' lack a name of their own [G1]"


def test_g2_an_input_of_another_graph() -> None:
    foreign = GraphInput("other", T)
    error = refused(of(raw(nn.Relu(), foreign, types=(T,)).result))
    assert str(error) == "conv1: value %other is neither computed nor a graph input [G2]"
    assert error.detail == "nn.relu(%other)"
    assert str(refused(of(foreign))) == "a graph output: value %other is neither computed nor a graph input [G2]"


@pytest.mark.parametrize("index", [1, -1])
def test_g2_a_result_its_op_does_not_have(index: int) -> None:
    relu = apply(nn.Relu(), X)
    stray = Result(relu.op, index, T, "stray")
    assert str(refused(of(stray))) == ("a graph output: value %stray is not the result of nn.relu it says it is [G2]")


def test_g2_a_copy_of_a_result() -> None:
    relu = apply(nn.Relu(), X)
    reader = raw(nn.Relu(), Result(relu.op, 0, T, "copy"), types=(T,))
    assert str(refused(of(reader.result))).startswith("conv1: value %copy is not the result of nn.relu")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_g3_a_cycle(length: int) -> None:
    ops = [raw(nn.Add(), X, X, types=(T,))]
    for _ in range(length - 1):
        ops.append(raw(nn.Add(), X, ops[-1].result, types=(T,)))
    ops[0].operands = (X, ops[-1].result)
    error = refused(of(ops[-1].result))
    assert str(error) == "conv1: a result of nn.add depends on itself [G3]"


def test_g4_a_result_that_says_it_is_anothers() -> None:
    op = raw(node((T,), (T, T)), X, types=(T, T))
    op.results[1].index = 0  # nobody reads this one
    assert str(refused(of(op.results[0]))) == "conv1: a result of onnx.node says it is another's [G4]"


# ---------------------------------------------------------------------------------------------------- G5


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (raw(nn.Relu(), X, types=(OTHER,)), "conv1: nn.relu gives tensor<2xf32>, not tensor<3xf32> [G5]"),
        (raw(nn.Relu(), X, types=(T, T)), "conv1: nn.relu gives tensor<2xf32>, not tensor<2xf32>, tensor<2xf32> [G5]"),
        (raw(node((T,), (T, OTHER)), X, types=(T, T)),
         "conv1: onnx.node gives tensor<2xf32>, tensor<3xf32>, not tensor<2xf32>, tensor<2xf32> [G5]"),
        (raw(node((OTHER,), (T, T)), X, types=(T,)),
         "conv1: onnx.node gives tensor<2xf32>, tensor<2xf32>, not tensor<2xf32> [G5]"),
        (raw(nn.Add(), X, types=(T,)), "conv1: nn.add takes (a, b), got 1 [nn.add.C0]"),
        (raw(nn.Relu(), None, types=(T,)), "conv1: operand 'x' is missing [nn.relu.C0]"),
        (raw(nn.Add(), X, const(np.ones(2, np.int8)), types=(T,)),
         "conv1: operands of different element types ['f32', 'i8'] [nn.add.C1]"),
    ],
)  # fmt: skip
def test_g5_what_the_op_infers(op: Op, message: str) -> None:
    assert str(refused(of(*op.results))) == message


def test_g5_an_attribute_out_of_range() -> None:
    softmax = apply(nn.Softmax(0), X)
    object.__setattr__(softmax.op.kind, "axis", 7)
    error = refused(of(softmax))
    assert str(error) == "nn.softmax: axis 7 of a rank 1 operand [nn.softmax.C2]"


def test_the_detail_shows_the_graph_around() -> None:
    bad = raw(nn.Relu(), apply(nn.Tanh(), X), types=(OTHER,))
    assert refused(of(apply(nn.Sigmoid(), bad.result))).detail == (
        "  %0 = nn.tanh(%x) : tensor<2xf32>\n"
        '> %1 = nn.relu(%0) : tensor<3xf32> loc("conv1": Conv)\n'
        "  %2 = nn.sigmoid(%1) : tensor<3xf32>"
    )


# ---------------------------------------------------------------------------------------------------- G6


class Lying(Data):
    """Contents that are not what they are declared to be."""

    def __init__(self, declared: Array, actual: Array) -> None:
        super().__init__(declared.shape, declared.dtype)
        self._actual = actual

    def read(self) -> Array:
        return self._actual


def test_g6_a_constant_of_another_shape_or_dtype() -> None:
    two = ArrayData(np.ones(2, np.float32))
    shape = raw(Constant(two, F32), types=(OTHER,))
    assert str(refused(of(shape.result))) == "conv1: float32[2] data for tensor<3xf32> [G6]"
    dtype = raw(Constant(two, I8), types=(TensorType((2,), I8),))
    assert str(refused(of(dtype.result))) == "conv1: float32[2] data for tensor<2xi8> [G6]"


def test_g6_a_default_of_another_shape() -> None:
    x = GraphInput("x", TensorType(("N", 2), F32), ArrayData(np.ones((4, 3), np.float32)))
    assert str(refused(of(x, inputs=(x,)))) == 'input x: float32[4, 3] data for tensor<"N"x2xf32> [G6]'
    verify(of(y := GraphInput("y", TensorType(("N", 2), F32), ArrayData(np.ones((4, 2), np.float32))), inputs=(y,)))


@pytest.mark.parametrize("actual", [np.ones(3, np.float32), np.ones(2, np.float64)])
def test_g6_contents_that_read_otherwise(actual: Array) -> None:
    graph = of(const(Lying(np.ones(2, np.float32), actual)))
    verify(graph)
    assert refused(graph, deep=True).rule == "G6"


@pytest.mark.parametrize(
    ("values", "elem", "message"),
    [
        ([0, 8], I4, "stored integers from 0 to 8 exceed [-8, 7]"),
        ([-128, 3], QuantizedType(I8, F32, (0.5,), (0,), None, -127, 127), "from -128 to 3 exceed [-127, 127]"),
        ([9], QuantizedType.per_axis([0.5], 0, I4), "stored integers from 9 to 9 exceed [-8, 7]"),
    ],
)
def test_g6_stored_integers_outside_the_range(values: list[int], elem: Elem, message: str) -> None:
    graph = of(const(np.array(values, np.int8), elem))
    verify(graph)  # finding out takes reading
    assert message in str(refused(graph, deep=True))


def test_g6_stored_integers_of_a_default() -> None:
    x = GraphInput("x", TensorType((1,), I4), ArrayData(np.array([-9], np.int8)))
    assert str(refused(of(x, inputs=(x,)), deep=True)) == "input x: stored integers from -9 to -9 exceed [-8, 7] [G6]"


def test_g6_ranges_that_hold() -> None:
    for values, elem in (([-8, 7], I4), ([-128, 127], I8), ([], I4), ([-8, 7], QuantizedType.per_tensor(0.5, 0, I4))):
        verify(of(const(np.array(values, np.int8), elem)), deep=True)
    verify(of(const(np.array(["a"], object))), deep=True)


def test_contents_are_read_only_when_asked() -> None:
    reads: list[int] = []

    def zeros() -> Array:
        reads.append(1)
        return np.zeros(2, np.float32)

    large = DeferredData("zeros", zeros, (), (2,), np.dtype(np.float32))
    verify(of(const(large)))
    assert reads == []
    verify(of(const(large)), deep=True)
    assert reads == [1]


# ---------------------------------------------------------------------------------------------------- G7


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("scales", (0.0,), "T2"),
        ("scales", (0.1,), "T2"),
        ("zero_points", (), "T3"),
        ("axis", 4, "T4"),
        ("high", 200, "T5"),
        ("zero_points", (300,), "T6"),
        ("expressed", I8, "T7"),
    ],
)
def test_g7_a_quantized_type_that_was_tampered_with(field: str, value: object, rule: str) -> None:
    elem = QuantizedType.per_tensor(0.5)
    q = apply(quant.Quantize(elem), X, origins=(Origin("conv1", "Conv"),))
    object.__setattr__(elem, field, value)
    error = refused(of(q))
    assert isinstance(error, TypeConstraintError)
    assert (error.rule, error.where) == (rule, "conv1")


def test_g7_a_shape_that_was_tampered_with() -> None:
    x = GraphInput("x", TensorType((2,), F32))
    object.__setattr__(x.type, "shape", (-2,))
    assert str(refused(of(x, inputs=(x,)))) == "input x: -2 is not a dimension [T1]"


# ---------------------------------------------------------------------------------------------------- all of them


def test_all_violations_in_order() -> None:
    first = raw(nn.Relu(), X, types=(OTHER,)).result
    second = raw(nn.Add(), first, X, types=(T,)).result
    graph = of(second)
    object.__setattr__(graph, "output_names", ("",))
    assert [error.rule for error in violations(graph)] == ["G1", "G5", "nn.add.C2"]


def test_a_broken_structure_ends_the_search() -> None:
    bad = raw(nn.Relu(), GraphInput("other", T), types=(OTHER,)).result
    assert [error.rule for error in violations(of(bad))] == ["G2"]
