"""Values, ops, graphs: what can be built, in what order ops come, who descends from whom."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import InputError, TypeConstraintError, VerificationError
from amctc.ir import (
    Constant,
    Graph,
    GraphInput,
    Origin,
    apply,
    build,
    const,
    constant_data,
    layer_name,
    provenance,
    union_origins,
    with_operands,
)
from amctc.ops import nn, onnx
from amctc.schema import OpKind, format_operands, op_kind, op_kinds, register
from amctc.types import F32, I4, I8, STRING, QuantizedType, TensorType

CONV = Origin("conv1", "Conv")
RELU = Origin("relu1", "Relu")


def image(name: str = "x", *shape: int | str) -> GraphInput:
    return GraphInput(name, TensorType(shape or ("N", 3, 8, 8), F32))


# ---------------------------------------------------------------------------------------------------- building


def test_result_types_are_inferred() -> None:
    conv = nn.Conv(strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1))
    y = apply(conv, image(), const(np.zeros((4, 3, 3, 3), np.float32)), name="y")
    assert y.type == TensorType(("N", 4, 4, 4), F32)
    assert (y.name, y.index, y.producer.kind) == ("y", 0, conv)
    assert y.op.operand(1) is y.op.operands[1]
    assert y.op.operand(2) is None


def test_absent_trailing_operands_are_dropped() -> None:
    w = const(np.zeros((3, 5), np.float32))
    assert len(apply(nn.Gemm(), image("x", 2, 3), w, None).op.operands) == 2


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        (0, r"nn\.gemm takes \(x, w, b\?\), got 0 \[nn\.gemm\.C0\]"),
        (1, r"nn\.gemm takes \(x, w, b\?\), got 1"),
        (4, r"nn\.gemm takes \(x, w, b\?\), got 4"),
    ],
)
def test_wrong_operand_counts(operands: int, message: str) -> None:
    with pytest.raises(TypeConstraintError, match=message):
        build(nn.Gemm(), *[image("x", 2, 2)] * operands)


def test_a_missing_operand_is_named() -> None:
    with pytest.raises(TypeConstraintError, match="operand 'x' is missing"):
        build(nn.Gemm(), None, image("w", 2, 2))
    with pytest.raises(TypeConstraintError, match="an operand of 'xs' is missing"):
        build(nn.Concat(0), None, image("w", 2, 2))


def test_an_op_that_breaks_its_constraints() -> None:
    with pytest.raises(TypeConstraintError, match="inner dimensions 3 and 4") as raised:
        apply(nn.MatMul(), image("x", 2, 3), image("w", 4, 5))
    assert raised.value.rule == "nn.matmul.C3"


def test_constants() -> None:
    c = const(np.array([1, -8], np.int8), I4, name="q")
    assert c.type == TensorType((2,), I4)
    data = constant_data(c)
    assert data is not None
    assert data.read().tolist() == [1, -8]
    assert const(np.array(["a"], object)).type == TensorType((1,), STRING)
    quantized = const(np.array([3], np.int8), QuantizedType.per_tensor(0.5))
    assert str(quantized.type) == "tensor<1xquant<i8:f32, {0.5}>>"
    with pytest.raises(TypeConstraintError, match="int64 data for elements of i8"):
        const(np.array([1]), I8)


def test_only_constants_have_data() -> None:
    assert constant_data(None) is None
    assert constant_data(image()) is None
    assert constant_data(apply(nn.Relu(), image())) is None


def test_with_operands_keeps_names_and_origins() -> None:
    x, y = image("x", 2, 3), image("y", 5, 3)
    with provenance((RELU,)):
        relu = apply(nn.Relu(), x, name="r").op
    again = with_operands(relu, (y,))
    assert (again.result.name, again.result.type, again.origins) == ("r", y.type, (RELU,))
    with pytest.raises(TypeConstraintError, match="relu1: i8 is no floating-point type"):
        with_operands(relu, (GraphInput("q", TensorType((2,), I8)),))


def test_with_operands_of_the_same_types_does_not_infer_again() -> None:
    t = TensorType((2,), F32)
    node = onnx.Node("Custom", "my", 1, b"", (t,), (t, t))
    op = build(node, GraphInput("a", t), names=("p", None))
    again = with_operands(op, (GraphInput("b", t),))
    assert [r.name for r in again.results] == ["p", None]
    assert [r.index for r in again.results] == [0, 1]
    assert all(r.op is again for r in again.results)


def test_result_wants_an_op_of_one_result() -> None:
    t = TensorType((2,), F32)
    op = build(onnx.Node("Custom", "my", 1, b"", (t,), (t, t)), GraphInput("a", t))
    with pytest.raises(ValueError, match="too many values"):
        _ = op.result


def test_representations() -> None:
    x = image("x", 2)
    y = apply(nn.Add(), x, x, name="y")
    assert repr(x) == "%x: tensor<2xf32>"
    assert repr(y) == "%y: tensor<2xf32> = nn.add[0]"
    assert repr(y.op) == "nn.add(%x, %x)"


# ---------------------------------------------------------------------------------------------------- provenance


def test_ops_descend_from_the_current_origins() -> None:
    with provenance((CONV,)):
        inner = apply(nn.Relu(), image())
        with provenance((RELU,)):
            nested = apply(nn.Relu(), image())
        explicit = apply(nn.Relu(), image(), origins=())
    after = apply(nn.Relu(), image())
    assert [v.op.origins for v in (inner, nested, explicit, after)] == [(CONV,), (RELU,), (), ()]


def test_origins_are_restored_after_an_error() -> None:
    with pytest.raises(KeyError), provenance((CONV,)):
        raise KeyError
    assert apply(nn.Relu(), image()).op.origins == ()


def test_union_keeps_the_first_appearance() -> None:
    assert union_origins((RELU, CONV), (), (CONV, RELU)) == (RELU, CONV)


def test_a_layer_is_the_origin_of_its_weight_op() -> None:
    assert layer_name(apply(nn.Relu(), image(), origins=(RELU, CONV)).op) == "conv1"
    assert layer_name(apply(nn.Relu(), image(), origins=(RELU,)).op) == "relu1"
    assert layer_name(apply(nn.Relu(), image()).op) == "nn.relu"


# ---------------------------------------------------------------------------------------------------- graphs


def test_ops_come_operands_first_left_to_right() -> None:
    x = image("x", 2)
    a, b = apply(nn.Relu(), x, name="a"), apply(nn.Tanh(), x, name="b")
    s = apply(nn.Add(), b, a, name="s")
    dead = apply(nn.Sigmoid(), s)
    graph = Graph((x,), (s, a), ("s", "a"))
    assert [o.result.name for o in graph.ops] == ["b", "a", "s"]
    assert dead.op not in graph.ops
    assert [v.name for v in graph.values()] == ["x", "b", "a", "s"]


def test_wide_sharing_is_visited_once() -> None:
    value = x = image("x", 2)
    for _ in range(200):  # 2^200 paths
        value = apply(nn.Add(), value, value)  # type: ignore[assignment]
    assert len(Graph((x,), (value,), ("y",)).ops) == 200


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (("x", "x"), ("y",), "two graph inputs have one name"),
        (("x",), ("y", "y"), "two graph outputs have one name"),
        (("x",), (), "as many output names as outputs"),
    ],
)
def test_interface_names(inputs: tuple[str, ...], outputs: tuple[str, ...], message: str) -> None:
    values = tuple(image(name) for name in inputs)
    with pytest.raises(TypeConstraintError, match=message) as raised:
        Graph(values, values[:1] * max(1, len(outputs)), outputs)
    assert raised.value.rule == "G1"


def test_a_value_of_another_graph() -> None:
    graph = Graph((image("x"),), (apply(nn.Relu(), image("other")),), ("y",))
    with pytest.raises(VerificationError, match="value %other is neither computed nor a graph input") as raised:
        _ = graph.ops
    assert raised.value.rule == "G2"


def test_other_outputs() -> None:
    x = image()
    r = apply(nn.Relu(), x)
    graph = Graph((x,), (r,), ("y",), "net", (("k", "v"),))
    both = graph.with_outputs((r, x), ("y", "x"))
    assert (both.output_names, both.name, both.metadata) == (("y", "x"), "net", (("k", "v"),))
    assert graph.with_outputs((x,)).output_names == ("y",)
    assert graph.with_outputs((x,)).ops == ()


def test_metadata_is_sorted_and_dots_are_spelled_out() -> None:
    graph = Graph((), (const(np.zeros(1)),), ("y",), metadata=(("z", "1"), ("b", "2")))
    after = graph.with_metadata(amctc__stage="int8", b="3")
    assert after.metadata == (("amctc.stage", "int8"), ("b", "3"), ("z", "1"))
    assert graph.metadata == (("z", "1"), ("b", "2"))
    assert after.outputs == graph.outputs


# ---------------------------------------------------------------------------------------------------- registry


def test_the_registry_is_sorted_and_complete() -> None:
    kinds = op_kinds()
    assert list(kinds) == sorted(kinds)
    assert kinds["const"] is Constant
    assert kinds["nn.conv"] is nn.Conv
    assert all(kind.op_name == name for name, kind in kinds.items())


def test_operands_of_a_kind() -> None:
    assert format_operands(nn.Conv.operand_specs) == "x, w, b?"
    assert format_operands(nn.Concat.operand_specs) == "*xs"
    assert format_operands(onnx.Node.operand_specs) == "*xs?"


def test_an_unknown_op_suggests_near_ones() -> None:
    with pytest.raises(InputError, match=r"unknown op 'nn\.conf'; did you mean nn\.conv"):
        op_kind("nn.conf")
    with pytest.raises(InputError, match=r"unknown op 'zzz'; see `amctc passes --ops`$"):
        op_kind("zzz")


def test_a_name_is_registered_once() -> None:
    class Relu(OpKind):
        """A namesake of nn.Relu from another module."""

    with pytest.raises(ValueError, match=r"op kind 'nn\.relu' is registered twice"):
        register("nn.relu", "x")(Relu)
    assert op_kind("nn.relu") is nn.Relu
