"""Matching: what binds to what, in which operand order, and what the nearest miss says."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Origin, Result, Value, apply, build, const
from amctc.matcher import Matcher
from amctc.ops import nn, onnx
from amctc.pattern import Match, OpPattern, any_value, either, number, op, weight
from amctc.types import F16, F32, TensorType

X = GraphInput("x", TensorType((2, 2), F32))
Y = GraphInput("y", TensorType((2, 2), F32))
W = const(np.array([[1, 2], [3, 4]], np.float32))
B = const(np.array([5, 6], np.float32))
X_ONLY = any_value(constant=False)


def attempt(pattern: OpPattern, root: Value, *more: Value) -> tuple[Match | None, str]:  # type: ignore[type-arg]
    """The match with its root at ``root`` in a graph with further outputs, and the nearest miss."""
    outputs = (root, *more)
    graph = Graph((X, Y), outputs, tuple(f"out{i}" for i in range(len(outputs))))
    matcher = Matcher(graph, explain=True)
    match = matcher.match(pattern, root)
    return match, "" if match or matcher.nearest is None else matcher.nearest.reason


def matched(pattern: OpPattern, root: Value, *more: Value) -> Match:  # type: ignore[type-arg]
    match, reason = attempt(pattern, root, *more)
    assert match is not None, reason
    return match


def missed(pattern: OpPattern, root: Value, *more: Value) -> str:  # type: ignore[type-arg]
    match, reason = attempt(pattern, root, *more)
    assert match is None
    return reason


# ---------------------------------------------------------------------------------------------------- binding


def test_a_match_is_indexed_by_its_patterns() -> None:
    x, w, b = any_value(), weight(), weight(optional=True)
    layer = op(nn.Gemm, x, w, b)
    other = any_value()
    m = matched(layer, apply(nn.Gemm(alpha=2.0), X, W, B))
    assert m[layer] == nn.Gemm(alpha=2.0)
    assert m[x] is X
    assert m[w].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.array_equal(m[b], [5.0, 6.0])  # type: ignore[arg-type]
    assert m.values(x, w) == (X, W)
    assert m.optional(b) is B
    assert m.data(w).shape == (2, 2)
    assert (x in m, other in m) == (True, False)


def test_an_optional_weight_may_be_absent() -> None:
    x, w, b = any_value(), weight(), weight(optional=True)
    m = matched(op(nn.Gemm, x, w, b), apply(nn.Gemm(), X, W))
    assert m[b] is None
    assert m.optional(b) is None


def test_a_weight_that_is_not_optional_must_be_there() -> None:
    pattern = op(nn.Gemm, any_value(), weight(), weight(name="the bias"))
    assert missed(pattern, apply(nn.Gemm(), X, W)) == "the bias is nothing, not a constant"


def test_an_optional_weight_is_still_a_constant() -> None:
    pattern = op(nn.Gemm, any_value(), weight(), weight(optional=True, name="bias"))
    assert missed(pattern, apply(nn.Gemm(), X, W, Y)) == "bias is graph input %y, not a constant"


def test_a_pattern_of_fewer_operands_does_not_match_more() -> None:
    pattern = op(nn.Gemm, any_value(), weight())
    assert matched(pattern, apply(nn.Gemm(), X, W)).ops[0].operands == (X, W)
    assert missed(pattern, apply(nn.Gemm(), X, W, B)) == "nn.gemm has 3 operands, not 2"


def test_any_value_can_ask_for_constants_or_for_others() -> None:
    constant, computed = any_value(constant=True, name="k"), any_value(constant=False, name="v")
    assert matched(op(nn.Sub, computed, constant), apply(nn.Sub(), X, W))[computed] is X
    assert missed(op(nn.Relu, constant), apply(nn.Relu(), X)) == "k is graph input %x, not a constant"
    assert missed(op(nn.Relu, computed), apply(nn.Relu(), W)) == "v is const, not computed"
    assert missed(op(nn.Gemm, any_value(), any_value(), any_value()), apply(nn.Gemm(), X, W)) == (
        "a value is nothing, not present"
    )


def test_an_optional_value_may_be_absent() -> None:
    bias = any_value(optional=True)
    pattern = op(nn.Gemm, any_value(), any_value(), bias)
    assert matched(pattern, apply(nn.Gemm(), X, W)).optional(bias) is None
    assert matched(pattern, apply(nn.Gemm(), X, W, Y)).optional(bias) is Y


def test_a_number_is_a_constant_of_one_number() -> None:
    x, any_number, third = any_value(), number(name="factor"), number(1 / 3)
    for array in (np.float32(3), np.full((2, 2), 3, np.float32), np.full((1, 1), 3, np.float32)):
        m = matched(op(nn.Mul, x, any_number), apply(nn.Mul(), X, const(array)))
        assert m[any_number] == 3.0
    assert matched(op(nn.Mul, x, third), apply(nn.Mul(), X, const(np.float32(1 / 3))))[third] == 1 / 3
    assert matched(op(nn.Mul, third, x), apply(nn.Mul(), X, const(np.float32(0.33333334))))[x] is X
    factor = op(nn.Mul, X_ONLY, any_number)
    assert missed(factor, apply(nn.Mul(), X, W)) == "factor is const, not that number"
    assert missed(factor, apply(nn.Mul(), X, Y)) == "factor is graph input %y, not that number"
    assert "not that number" in missed(op(nn.Mul, X_ONLY, third), apply(nn.Mul(), X, const(np.float32(0.3333))))
    empty = apply(nn.Mul(), const(np.zeros((2, 0), np.float32)), const(np.zeros((2, 0), np.float32)))
    assert "not that number" in missed(op(nn.Mul, weight(), any_number), empty)


def test_a_number_in_float16_is_as_exact_as_its_type() -> None:
    x, half_step = GraphInput("h", TensorType((2,), F16)), number(0.1)
    nearest = np.float16(0.1)
    for array, fits in ((nearest, True), (np.nextafter(nearest, np.float16(1)), True), (np.float16(0.1003), False)):
        root = apply(nn.Mul(), x, const(array))
        match = Matcher(Graph((x,), (root,), ("y",))).match(op(nn.Mul, any_value(), half_step), root)
        assert (match is not None) == fits


def test_large_constants_are_no_numbers() -> None:
    large = const(np.ones((1, 1 << 15), np.float32))
    assert "not that number" in missed(op(nn.Mul, weight(), number(1.0)), apply(nn.Mul(), large, large))


def test_an_ellipsis_stands_for_any_operands() -> None:
    for pattern, root in (
        (op(nn.Gemm, ...), apply(nn.Gemm(), X, W)),
        (op(nn.Gemm, ...), apply(nn.Gemm(), X, W, B)),
        (op(nn.Add, ...), apply(nn.Add(), X, Y)),
        (op(nn.Concat, ...), apply(nn.Concat(0), X, Y, X)),
    ):
        assert matched(pattern, root).ops == (root.op,)
    with pytest.raises(ValueError, match="stands alone in place of all operand patterns"):
        op(nn.Add, ..., any_value())


def test_several_kinds() -> None:
    pattern = op((nn.Relu, nn.Tanh), any_value())
    assert matched(pattern, apply(nn.Tanh(), X))[pattern] == nn.Tanh()
    assert missed(pattern, apply(nn.Sigmoid(), X)) == "nn.relu or nn.tanh expected, found nn.sigmoid"


def test_an_op_of_several_results_never_matches() -> None:
    split = build(onnx.Node("Split", "", 13, b"", (X.type,), (X.type, X.type)), X)
    pattern = op(onnx.Node, any_value())
    assert missed(pattern, split.results[0]) == "onnx.node expected, found onnx.node"


def test_variadic_ops_match_by_their_number_of_operands() -> None:
    a, b = any_value(), any_value()
    assert matched(op(nn.Concat, a, b), apply(nn.Concat(0), X, Y)).values(a, b) == (X, Y)
    assert missed(op(nn.Concat, a, b), apply(nn.Concat(0), X, Y, X)) == "nn.concat has 3 operands, not 2"


# ---------------------------------------------------------------------------------------------------- commutativity


@pytest.mark.parametrize("swapped", [False, True])
def test_both_operand_orders_of_a_commutative_op(swapped: bool) -> None:
    v, w = any_value(), weight()
    m = matched(op(nn.Add, v, w), apply(nn.Add(), W, X) if swapped else apply(nn.Add(), X, W))
    assert m[v] is X
    assert m.value(w) is W


def test_the_order_of_other_ops_counts() -> None:
    pattern = op(nn.Sub, any_value(), weight())
    assert missed(pattern, apply(nn.Sub(), W, X)) == "a weight is graph input %x, not a constant"


def test_orders_are_tried_deep_inside() -> None:
    """add(tanh(v), mul(v, w)): only one of the four operand orders fits."""
    v, w = any_value(), weight()
    pattern = op(nn.Add, op(nn.Tanh, v), op(nn.Mul, v, w))
    root = apply(nn.Add(), apply(nn.Mul(), W, X), apply(nn.Tanh(), X))
    assert matched(pattern, root).values(v, w) == (X, W)


def test_the_first_order_wins() -> None:
    a, b = any_value(), any_value()
    assert matched(op(nn.Add, a, b), apply(nn.Add(), X, Y)).values(a, b) == (X, Y)


# ---------------------------------------------------------------------------------------------------- repetition


def test_one_pattern_in_two_places_is_one_value() -> None:
    v = any_value(name="v")
    square = op(nn.Mul, v, v)
    assert matched(square, apply(nn.Mul(), X, X))[v] is X
    assert missed(square, apply(nn.Mul(), X, Y)) == "v appears twice with different values"


def test_a_shared_op_pattern_is_a_shared_value() -> None:
    t = op(nn.Tanh, any_value(), name="t")
    root = op(nn.Sub, t, op(nn.Relu, t))
    shared = apply(nn.Tanh(), X)
    m = matched(root, apply(nn.Sub(), shared, apply(nn.Relu(), shared)))
    assert [type(o.kind) for o in m.ops] == [nn.Tanh, nn.Relu, nn.Sub]
    twice = apply(nn.Sub(), apply(nn.Tanh(), X), apply(nn.Relu(), apply(nn.Tanh(), X)))
    assert missed(root, twice) == "t appears twice with different values"


# ---------------------------------------------------------------------------------------------------- constraints


def test_exact_number_of_uses() -> None:
    inner = op(nn.Tanh, any_value(), uses=1)
    tanh = apply(nn.Tanh(), X)
    root = apply(nn.Relu(), tanh)
    assert matched(op(nn.Relu, inner), root)[inner] == nn.Tanh()
    assert missed(op(nn.Relu, inner), root, tanh) == "nn.tanh has 2 uses, not 1"  # an output counts
    assert missed(op(nn.Add, inner, inner), apply(nn.Add(), tanh, tanh)) == "nn.tanh has 2 uses, not 1"
    both = op(nn.Tanh, any_value(), uses=2)
    assert missed(op(nn.Relu, both), root) == "nn.tanh has 1 use, not 2"


def test_readers() -> None:
    inner = op(nn.Tanh, any_value(), readers=(nn.Relu, nn.Sigmoid))
    pattern = op(nn.Relu, inner)
    tanh = apply(nn.Tanh(), X, origins=(Origin("act", "Tanh"),))
    root = apply(nn.Relu(), tanh)
    assert matched(pattern, root, apply(nn.Sigmoid(), tanh))[inner] == nn.Tanh()
    assert missed(pattern, root, apply(nn.Div(), tanh, X)) == "nn.tanh (act) is read by nn.div"
    assert missed(pattern, root, tanh) == "nn.tanh (act) is a graph output"


def test_conditions_on_attributes() -> None:
    pattern = op(nn.Softmax, any_value(), where=lambda k: k.axis == -1, wanted="the last axis")
    assert matched(pattern, apply(nn.Softmax(-1), X))[pattern].axis == -1
    assert missed(pattern, apply(nn.Softmax(0), X)) == "nn.softmax: wanted the last axis"


def test_a_condition_must_be_explained() -> None:
    with pytest.raises(ValueError, match="say in wanted= what where= asks for"):
        op(nn.Relu, any_value(), where=lambda k: True)


@pytest.mark.parametrize(("count", "message"), [(2, "has 1 operands, the pattern names 2"), (0, "has at least 1")])
def test_a_pattern_that_no_op_can_match(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"nn\.relu {message}"):
        op(nn.Relu, *[any_value()] * count)


# ---------------------------------------------------------------------------------------------------- alternatives


def test_the_first_alternative_that_fits() -> None:
    v, direct = any_value(), any_value()
    wrapped = op(nn.Identity, v)
    choice = either(wrapped, direct)
    pattern = op(nn.Relu, choice)
    identity = apply(nn.Identity(), X)
    m = matched(pattern, apply(nn.Relu(), identity))
    assert m[v] is X
    assert m.value(choice) is identity
    assert direct not in m
    m = matched(pattern, apply(nn.Relu(), Y))
    assert m[direct] is Y
    assert wrapped not in m


def test_alternatives_are_taken_back_when_the_rest_fails() -> None:
    """sub(either(tanh(v), v), v): the first choice binds v too early when both operands are one value."""
    v = any_value()
    pattern = op(nn.Sub, either(op(nn.Tanh, v), v), v)
    tanh = apply(nn.Tanh(), X)
    assert matched(pattern, apply(nn.Sub(), tanh, tanh))[v] is tanh
    assert matched(pattern, apply(nn.Sub(), tanh, X))[v] is X


def test_no_alternative_fits() -> None:
    pattern = op(nn.Relu, either(op(nn.Tanh, any_value()), op(nn.Sigmoid, any_value())))
    assert missed(pattern, apply(nn.Relu(), X)) == "nn.tanh expected, found graph input %x"


# ---------------------------------------------------------------------------------------------------- explanations


def test_the_nearest_miss_is_the_furthest_attempt() -> None:
    """Of the two operand orders, the one that matched the inner op before it failed is worth telling."""
    pattern = op(nn.Add, op(nn.Mul, any_value(), weight(name="the factor")), any_value())
    root = apply(nn.Add(), X, apply(nn.Mul(), X, Y))
    assert missed(pattern, root) == "the factor is graph input %y, not a constant"


def test_a_name_stands_for_the_pattern() -> None:
    pattern = op(nn.Relu, op(nn.Gemm, any_value(), any_value(), name="the layer"))
    assert missed(pattern, apply(nn.Relu(), X)) == "the layer expected, found graph input %x"


def test_without_explain_nothing_is_remembered() -> None:
    root = apply(nn.Relu(), X)
    matcher = Matcher(Graph((X,), (root,), ("y",)))
    assert matcher.match(op(nn.Tanh, any_value()), root) is None
    assert matcher.nearest is None


def test_origins_of_a_match_come_operands_first() -> None:
    def named(kind: nn.Relu | nn.Tanh, operand: Value, name: str) -> Result:
        return apply(kind, operand, origins=(Origin(name, "Op"),))

    root = named(nn.Relu(), named(nn.Tanh(), X, "first"), "second")
    m = matched(op(nn.Relu, op(nn.Tanh, any_value())), root)
    assert [o.name for o in m.origins] == ["first", "second"]
