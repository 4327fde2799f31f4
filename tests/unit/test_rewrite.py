"""The rewrite engine: firing, declining, provenance, overlap, limits, explanations."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.contract import Exact, Rounding
from amctc.errors import LimitError, TypeConstraintError, UnsupportedError
from amctc.ir import Graph, GraphInput, Origin, Result, Value, apply, const
from amctc.ops import nn
from amctc.pattern import Match, NoMatch, any_value, op, weight
from amctc.rewrite import Explanation, RewriteLog, apply_rewrites, explain, rewrite
from amctc.types import F16, F32, TensorType

T = TensorType((2, 2), F32)
X = GraphInput("x", T)
v, w = any_value(), weight()
identity = op(nn.Identity, v)
relu_of_relu = op(nn.Relu, op(nn.Relu, v))


@rewrite(identity, effect=Exact())
def drop_identity(m: Match) -> Value:
    """identity(x) is x.

    The second paragraph is not documentation.
    """
    return m[v]


@rewrite(relu_of_relu, effect=Exact())
def merge_relus(m: Match) -> Value:
    """relu(relu(x)) is relu(x)."""
    return apply(nn.Relu(), m[v])


@rewrite(op(nn.Mul, v, w))
def drop_mul_by_one(m: Match) -> Value:
    """x · 1 is x."""
    if (m[w] != 1).any():
        raise NoMatch("the factor is not one")
    return m[v]


@rewrite(op(nn.Tanh, v))
def tanh_to_sigmoid(m: Match) -> Value:
    return apply(nn.Sigmoid(), m[v])


@rewrite(op(nn.Sigmoid, v))
def sigmoid_to_tanh(m: Match) -> Value:
    return apply(nn.Tanh(), m[v])


def named(kind: nn.Relu | nn.Identity | nn.Tanh, value: Value, layer: str) -> Result:
    return apply(kind, value, name=layer, origins=(Origin(layer, type(kind).__name__),))


def of(*outputs: Value) -> Graph:
    return Graph((X,), outputs, tuple(f"out{i}" for i in range(len(outputs))))


def times(value: Value, factor: float, layer: str = "mul") -> Result:
    operands = (value, const(np.array([factor], np.float32)))
    return apply(nn.Mul(), *operands, origins=(Origin(layer, "Mul"),))


# ---------------------------------------------------------------------------------------------------- firing


def test_what_a_rewrite_says_of_itself() -> None:
    assert (drop_identity.name, drop_identity.effect) == ("drop_identity", Exact())
    assert drop_identity.doc == "identity(x) is x."
    assert drop_mul_by_one.effect == Rounding(2.0)
    assert tanh_to_sigmoid.doc == ""


def test_a_rule_fires_until_it_fires_no_more() -> None:
    value: Value = X
    for i in range(5):
        value = named(nn.Identity(), value, f"id{i}")
    log = RewriteLog()
    after = apply_rewrites(of(value), [drop_identity], log)
    assert after.outputs == (X,)
    assert log.counts() == {"drop_identity": 5}
    assert [a.match[v].name for a in log.applications] == ["x", "id0", "id1", "id2", "id3"]  # one sweep


def test_no_rule_fires() -> None:
    graph = of(apply(nn.Relu(), X))
    log = RewriteLog()
    assert apply_rewrites(graph, [drop_identity, merge_relus], log) is graph
    assert (log.applications, log.declined) == ([], {})


def test_one_rule_makes_way_for_another() -> None:
    graph = of(apply(nn.Relu(), apply(nn.Identity(), apply(nn.Relu(), X))))
    log = RewriteLog()
    after = apply_rewrites(graph, [drop_identity, merge_relus], log)
    assert [o.kind for o in after.ops] == [nn.Relu()]
    assert log.counts() == {"drop_identity": 1, "merge_relus": 1}


def test_the_first_rule_that_fires_wins() -> None:
    @rewrite(identity)
    def decline(m: Match) -> Value:
        raise NoMatch("not today")

    @rewrite(identity)
    def to_relu(m: Match) -> Value:
        return apply(nn.Relu(), m[v])

    log = RewriteLog()
    after = apply_rewrites(of(named(nn.Identity(), X, "id")), [decline, to_relu, drop_identity], log)
    assert [o.kind for o in after.ops] == [nn.Relu()]
    assert log.declined == {("decline", "id"): "not today"}


def test_a_rule_for_a_kind_applies_to_its_subclasses_only() -> None:
    graph = of(apply(nn.Tanh(), X))
    assert apply_rewrites(graph, [drop_identity]) is graph


# ---------------------------------------------------------------------------------------------------- declining


def test_the_reason_for_declining_is_kept_by_layer() -> None:
    log = RewriteLog()
    after = apply_rewrites(of(times(times(X, 1, "one"), 2, "two")), [drop_mul_by_one], log)
    assert len(log.applications) == 1
    assert log.declined == {("drop_mul_by_one", "two"): "the factor is not one"}
    assert [o.origins[0].name for o in after.ops if o.origins] == ["two"]


def test_returning_the_root_is_declining() -> None:
    @rewrite(identity)
    def same(m: Match) -> Value:
        return m.value(identity)

    graph = of(apply(nn.Identity(), X))
    log = RewriteLog()
    assert apply_rewrites(graph, [same], log) is graph
    assert log.applications == []


# ---------------------------------------------------------------------------------------------------- overlap


def test_matches_of_one_sweep_share_no_op() -> None:
    """relu(relu(relu(relu x))): the first and second pair merge in one sweep, the rest in the next."""
    value: Value = X
    for name in "abcd":
        value = named(nn.Relu(), value, name)
    log = RewriteLog()
    after = apply_rewrites(of(value), [merge_relus], log)
    assert len(after.ops) == 1
    assert [[o.result.name for o in a.match.ops] for a in log.applications] == [["a", "b"], ["c", "d"], ["b", "d"]]
    assert [o.name for o in after.ops[0].origins] == ["a", "b", "c", "d"]


def test_an_inner_op_that_others_read_stays() -> None:
    inner = named(nn.Relu(), X, "inner")
    after = apply_rewrites(of(apply(nn.Relu(), inner), inner), [merge_relus])
    assert after.outputs[1] is inner
    assert after.outputs[0] is not inner


# ---------------------------------------------------------------------------------------------------- provenance


def test_new_ops_descend_from_all_matched_ops() -> None:
    graph = of(named(nn.Relu(), named(nn.Relu(), X, "first"), "second"))
    (relu,) = apply_rewrites(graph, [merge_relus]).ops
    assert relu.origins == (Origin("first", "Relu"), Origin("second", "Relu"))
    assert relu.result.name == "second"


# ---------------------------------------------------------------------------------------------------- errors


def test_rules_that_undo_each_other() -> None:
    rules = [tanh_to_sigmoid, drop_identity, sigmoid_to_tanh]
    with pytest.raises(LimitError) as raised:
        apply_rewrites(of(apply(nn.Tanh(), X)), rules, limit=10)
    assert str(raised.value) == (
        "rewrites still fire after 11 applications; the last were tanh_to_sigmoid, sigmoid_to_tanh; "
        "two rules undo each other, or one matches its own result"
    )


def test_a_rule_that_matches_its_own_result() -> None:
    @rewrite(op(nn.Relu, v))
    def again(m: Match) -> Value:
        return apply(nn.Relu(), m[v])

    with pytest.raises(LimitError, match="after 256 applications; the last were again"):  # one per sweep
        apply_rewrites(of(apply(nn.Relu(), X)), [again])


def test_the_limit_itself_is_allowed() -> None:
    graph = of(apply(nn.Identity(), apply(nn.Identity(), X)))
    assert apply_rewrites(graph, [drop_identity], limit=2).outputs == (X,)
    with pytest.raises(LimitError):
        apply_rewrites(graph, [drop_identity], limit=1)


def test_the_limit_counts_one_run_only() -> None:
    log = RewriteLog()
    for _ in range(3):
        apply_rewrites(of(apply(nn.Identity(), X)), [drop_identity], log, limit=1)
    assert log.counts() == {"drop_identity": 3}


def test_a_replacement_of_another_type() -> None:
    @rewrite(identity)
    def to_half(m: Match) -> Value:
        return apply(nn.Cast(F16), m[v])

    graph = of(apply(nn.Relu(), named(nn.Identity(), X, "drop1")))
    with pytest.raises(TypeConstraintError) as raised:
        apply_rewrites(graph, [to_half])
    assert str(raised.value) == (
        "rewrite to_half at drop1: tensor<2x2xf32> and tensor<2x2xf16> contradict each other [T1]"
    )
    assert raised.value.detail == (
        '> %0 = nn.identity(%x) : tensor<2x2xf32> as "drop1" loc("drop1": Identity)\n'
        "  %1 = nn.relu(%0) : tensor<2x2xf32>"
    )


def test_an_error_inside_a_rewrite_names_the_rule_and_the_layer() -> None:
    @rewrite(identity)
    def broken(m: Match) -> Value:
        raise UnsupportedError("no such instruction", rule="N9", remedy="choose another target")

    with pytest.raises(UnsupportedError) as raised:
        apply_rewrites(of(named(nn.Identity(), X, "drop1")), [broken])
    assert str(raised.value) == "rewrite broken at drop1: no such instruction [N9]; choose another target"


def test_a_less_known_shape_is_no_contradiction() -> None:
    y = GraphInput("y", TensorType((None, 2), F32))

    @rewrite(identity)
    def other(m: Match) -> Value:
        return apply(nn.Relu(), y)

    graph = Graph((X, y), (apply(nn.Identity(), X),), ("out",))
    assert apply_rewrites(graph, [other]).outputs[0].type == y.type


# ---------------------------------------------------------------------------------------------------- explanations


def test_explaining_every_root() -> None:
    plain = apply(nn.Mul(), X, X, origins=(Origin("square", "Mul"),))
    graph = of(plain, times(X, 1, "one"), times(X, 2, "two"), apply(nn.Tanh(), X))
    assert list(explain(graph, drop_mul_by_one)) == [
        Explanation("square", False, "a weight is graph input %x, not a constant"),
        Explanation("one", True, ""),
        Explanation("two", False, "the factor is not one"),
    ]


def test_explaining_a_rule_that_changes_nothing() -> None:
    @rewrite(identity)
    def same(m: Match) -> Value:
        return m.value(identity)

    assert list(explain(of(named(nn.Identity(), X, "id")), same)) == [
        Explanation("id", False, "the result is unchanged")
    ]
