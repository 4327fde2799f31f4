"""Putting values in place of others: wrapping, chains, sharing, names, and nothing touched without need."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import TypeConstraintError, VerificationError
from amctc.ir import Graph, GraphInput, Op, Origin, Result, Value, apply, build
from amctc.ops import nn, onnx
from amctc.substitute import convert, substitute
from amctc.types import F32, I8, TensorType

T = TensorType((2,), F32)
X = GraphInput("x", T)
Z = GraphInput("z", T)


def relu(v: Value, name: str | None = None) -> Result:
    return apply(nn.Relu(), v, name=name)


def tanh(v: Value, name: str | None = None) -> Result:
    return apply(nn.Tanh(), v, name=name)


def sigmoid(v: Value, name: str | None = None) -> Result:
    return apply(nn.Sigmoid(), v, name=name)


def of(*outputs: Value) -> Graph:
    return Graph((X, Z), outputs, tuple(f"out{i}" for i in range(len(outputs))))


def shown(value: Value) -> str:
    """A value as nested calls: ``relu(tanh(x))``."""
    op = value.producer
    if op is None:
        return str(value.name)
    short = op.kind.op_name.removeprefix("nn.")
    suffix = f".{value.index}" if isinstance(value, Result) and len(op.results) > 1 else ""
    return f"{short}{suffix}({', '.join('_' if o is None else shown(o) for o in op.operands)})"


def after(graph: Graph, replacements: dict[Value, Value]) -> list[str]:
    return [shown(v) for v in substitute(graph, replacements).outputs]


# ---------------------------------------------------------------------------------------------------- what is read


def test_a_value_in_the_middle() -> None:
    a = relu(X)
    assert after(of(sigmoid(a), a), {a: tanh(X)}) == ["sigmoid(tanh(x))", "tanh(x)"]


def test_wrapping_reads_the_original() -> None:
    a = relu(X)
    assert after(of(sigmoid(a), a), {a: tanh(a)}) == ["sigmoid(tanh(relu(x)))", "tanh(relu(x))"]


def test_wrapping_twice_over() -> None:
    a = relu(X)
    assert after(of(a), {a: apply(nn.Add(), tanh(a), sigmoid(a))}) == ["add(tanh(relu(x)), sigmoid(relu(x)))"]


def test_wrapping_everything_at_once() -> None:
    a = relu(X)
    b = sigmoid(a)
    assert after(of(b), {X: tanh(X), a: tanh(a), b: tanh(b)}) == ["tanh(sigmoid(tanh(relu(tanh(x)))))"]


def test_a_graph_input() -> None:
    assert after(of(relu(X), X), {X: Z}) == ["relu(z)", "z"]


def test_chains_of_keys_are_followed() -> None:
    a, b, c = relu(X), tanh(X), sigmoid(X)
    assert after(of(apply(nn.Add(), a, b), c), {a: b, b: c}) == ["add(sigmoid(x), sigmoid(x))", "sigmoid(x)"]


def test_a_key_inside_another_replacement() -> None:
    a = relu(X)
    b = tanh(a)
    assert after(of(b), {a: sigmoid(X), b: relu(a)}) == ["relu(sigmoid(x))"]


def test_keys_upstream_of_a_wrapped_key() -> None:
    a = relu(X)
    b = tanh(a)
    assert after(of(b), {a: sigmoid(X), b: relu(b)}) == ["relu(tanh(sigmoid(x)))"]


def test_bypassing_a_chain_of_identities() -> None:
    a = apply(nn.Identity(), X)
    b = apply(nn.Identity(), a)
    assert after(of(relu(b), b), {b: a, a: X}) == ["relu(x)", "x"]


def test_swapping_two_inputs() -> None:
    """Each replacement is a key of the other: that is circular, not a swap."""
    with pytest.raises(VerificationError, match="depends on what it replaces through another") as raised:
        substitute(of(apply(nn.Sub(), X, Z)), {X: Z, Z: X})
    assert raised.value.rule == "G3"


@pytest.mark.parametrize("longer", [False, True])
def test_circular_replacements(longer: bool) -> None:
    a, b, c = relu(X), tanh(X), sigmoid(X)
    circle: dict[Value, Value] = {a: relu(b), b: relu(c), c: relu(a)} if longer else {a: relu(b), b: relu(a)}
    with pytest.raises(VerificationError, match="depends on what it replaces"):
        substitute(of(a, b, c), circle)


def test_a_replacement_that_reads_what_reads_it() -> None:
    a = relu(X)
    b = tanh(a)
    with pytest.raises(VerificationError, match="depends on what it replaces"):
        substitute(of(b), {a: sigmoid(b)})


# ---------------------------------------------------------------------------------------------------- sharing


def test_what_reads_nothing_replaced_is_kept() -> None:
    a, other = relu(X), tanh(Z)
    graph = of(apply(nn.Add(), a, other))
    new = substitute(graph, {a: sigmoid(X)})
    assert new is not graph
    assert new.inputs is graph.inputs
    assert new.ops[1] is other.op


@pytest.mark.parametrize("where", ["nothing", "itself", "elsewhere"])
def test_nothing_changes(where: str) -> None:
    a = relu(X)
    graph = of(a)
    replacements: dict[str, dict[Value, Value]] = {"nothing": {}, "itself": {a: a}, "elsewhere": {tanh(X): sigmoid(X)}}
    assert substitute(graph, replacements[where]) is graph


def test_a_new_value_in_two_replacements_is_computed_once() -> None:
    a, b = relu(X, "a"), sigmoid(X, "b")
    shared = tanh(X)
    new = substitute(of(a, b), {a: shared, b: apply(nn.Identity(), shared)})
    assert len(new.ops) == 2
    assert new.outputs[0] is new.ops[1].operands[0]


def test_a_new_value_in_place_of_two_is_computed_once() -> None:
    a, b = relu(X, "a"), sigmoid(X, "b")
    new = substitute(of(a, b), {a: (shared := tanh(X)), b: shared})
    assert len(new.ops) == 1
    assert new.outputs[0] is new.outputs[1]
    assert new.outputs[0].name == "a"


def test_a_new_value_over_a_replaced_one_is_computed_once() -> None:
    a, b = relu(X), sigmoid(X)
    shared = tanh(Z)
    new = substitute(of(a, b), {a: shared, b: relu(shared), Z: X})
    assert [shown(v) for v in new.outputs] == ["tanh(x)", "relu(tanh(x))"]
    assert len(new.ops) == 2


def test_an_old_value_that_is_rebuilt_is_computed_once() -> None:
    """b is read by c and, in place of d, by the second output; replacing a below it must not make two of it."""
    a = relu(X)
    b = tanh(a)
    c, d = relu(b), sigmoid(X, "d")
    new = substitute(of(c, d), {a: sigmoid(Z), d: b})
    assert [shown(v) for v in new.outputs] == ["relu(tanh(sigmoid(z)))", "tanh(sigmoid(z))"]
    assert len(new.ops) == 3
    assert new.outputs[1].name is None  # it is no new value


# ---------------------------------------------------------------------------------------------------- several results


def split(value: Value, names: tuple[str | None, ...] = (None, None)) -> tuple[Result, ...]:
    return build(onnx.Node("Split", "", 13, b"", (T,), (T, T)), value, names=names).results


def test_one_of_several_results() -> None:
    first, second = split(X)
    assert after(of(first, second), {second: relu(first)}) == ["onnx.node.0(x)", "relu(onnx.node.0(x))"]


def test_all_results_by_those_of_one_new_op() -> None:
    p, q = split(X, ("p", "q"))
    new = substitute(of(p, q), dict(zip((p, q), split(relu(X)), strict=True)))
    assert [shown(v) for v in new.outputs] == ["onnx.node.0(relu(x))", "onnx.node.1(relu(x))"]
    assert len(new.ops) == 2
    assert [r.name for r in new.ops[1].results] == ["p", "q"]


def test_an_op_of_several_results_is_rebuilt_once() -> None:
    a = relu(X)
    p, q = split(a)
    new = substitute(of(p, q), {a: tanh(X)})
    assert len(new.ops) == 2
    assert new.outputs == new.ops[1].results


# ---------------------------------------------------------------------------------------------------- names and types


def test_a_new_value_takes_the_name_it_lacks() -> None:
    a = relu(X, "act")
    assert substitute(of(a), {a: tanh(X)}).outputs[0].name == "act"
    assert substitute(of(a), {a: tanh(X, "mine")}).outputs[0].name == "mine"
    assert substitute(of(relu(X)), {a: tanh(X)}).outputs[0].name is None


def test_naming_keeps_origins() -> None:
    a = relu(X, "act")
    new = apply(nn.Tanh(), X, origins=(Origin("conv1", "Conv"),))
    assert substitute(of(a), {a: new}).ops[0].origins == (Origin("conv1", "Conv"),)
    assert new.name is None  # the value handed in is not touched


def test_a_wrapped_value_keeps_its_name_and_so_does_the_wrapper() -> None:
    a = relu(X, "act")
    (out,) = substitute(of(a), {a: tanh(a)}).outputs
    assert out.name == "act"
    assert out.producer is not None
    assert out.producer.operands[0] is a


def test_names_of_rebuilt_ops_stay() -> None:
    a = relu(X)
    assert substitute(of(sigmoid(a, "s")), {a: tanh(X)}).outputs[0].name == "s"


def test_the_interface_stays() -> None:
    graph = Graph((X, Z), (a := relu(X), X), ("p", "q"), "net", (("k", "v"),))
    new = substitute(graph, {a: tanh(X)})
    assert (new.output_names, new.name, new.metadata) == (("p", "q"), "net", (("k", "v"),))


def test_types_are_inferred_again() -> None:
    wide = GraphInput("wide", TensorType((1, 4), F32))
    narrow = relu(wide)
    graph = Graph((wide,), (apply(nn.Flatten(0), narrow),), ("y",))
    new = substitute(graph, {narrow: apply(nn.Transpose((1, 0)), apply(nn.Concat(1), wide, wide))})
    assert new.outputs[0].type == TensorType((1, 8), F32)


def test_a_type_that_no_reader_takes() -> None:
    a = relu(X)
    reader = apply(nn.Tanh(), a, origins=(Origin("head", "Tanh"),))
    with pytest.raises(TypeConstraintError, match=r"head: i8 is no floating-point type \[nn\.tanh\.C1\]"):
        substitute(of(reader), {a: apply(nn.Cast(I8), X)})


# ---------------------------------------------------------------------------------------------------- any graph


UNARY = (nn.Relu, nn.Tanh, nn.Sigmoid)


@st.composite
def values_over(draw: st.DrawFn, sources: list[Value], count: int, prefix: str | None = None) -> list[Value]:
    """``count`` values more, each over those before it, some of them named, each of its own origin."""
    values = list(sources)
    for i in range(count):
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        kind = draw(st.sampled_from((*UNARY, nn.Sub)))
        name = f"{prefix}{i}" if prefix and draw(st.booleans()) else None
        origins = (Origin(f"{prefix}{i}", "Op"),)
        operands = (a, b) if kind is nn.Sub else (a,)
        values.append(apply(kind(), *operands, name=name, origins=origins))
    return values[len(sources) :]


@settings(max_examples=300)
@given(st.data())
def test_substituting_is_replacing_in_the_expression(data: st.DataObject) -> None:
    """Against the definition, followed recursively on expressions: which value is read in place of which."""
    old = data.draw(values_over([X, Z], 6, "v"))
    keys = data.draw(st.lists(st.sampled_from(old), unique=True, min_size=1, max_size=4))
    replacements: dict[Value, Value] = {}
    for key in keys:  # over the key itself and what comes before it: no circle
        before = [X, Z, *old[: old.index(key) + 1]]
        new = data.draw(values_over(before, 2, f"in place of {old.index(key)}, "))
        replacements[key] = data.draw(st.sampled_from([*before, *new]))
    known = {X, Z, *old}

    def expected(value: Value, inside: Value | None) -> str:
        if value in replacements and value is not inside:
            return expected(replacements[value], value)
        if value.producer is None:
            return str(value.name)
        inner = inside if value not in known else None
        operands = ", ".join(expected(o, inner) for o in value.producer.operands if o is not None)
        return f"{value.producer.kind.op_name.removeprefix('nn.')}({operands})"

    graph = substitute(of(*old), replacements)
    assert [shown(v) for v in graph.outputs] == [expected(v, None) for v in old]
    assert len({o.origins for o in graph.ops}) == len(graph.ops)  # nothing is computed twice
    assert graph.ops == graph.with_outputs(graph.outputs).ops  # the order is that of a graph which has to find it


# ---------------------------------------------------------------------------------------------------- converting


def test_converting_what_a_function_knows() -> None:
    def to_tanh(op: Op, operands: tuple[Value | None, ...]) -> list[Value] | None:
        return [apply(nn.Tanh(), *operands)] if isinstance(op.kind, nn.Relu) else None

    a = apply(nn.Relu(), X, name="act", origins=(Origin("conv1", "Conv"),))
    graph = of(sigmoid(a, "s"), a)
    new = convert(graph, to_tanh)
    assert [shown(v) for v in new.outputs] == ["sigmoid(tanh(x))", "tanh(x)"]
    assert (new.outputs[1].name, new.ops[0].origins) == ("act", (Origin("conv1", "Conv"),))
    assert new.outputs[0].name == "s"
    assert convert(graph, lambda op, operands: None) is graph


def test_converting_to_an_operand() -> None:
    a = relu(X, "a")
    graph = of(apply(nn.Identity(), a, name="id"), a)

    def drop(op: Op, operands: tuple[Value | None, ...]) -> list[Value] | None:
        return [o for o in operands if o is not None] if isinstance(op.kind, nn.Identity) else None

    assert convert(graph, drop).outputs == (a, a)


def test_converting_an_op_of_several_results() -> None:
    p, q = split(X, ("p", "q"))
    graph = of(p, q, relu(q))

    def other(op: Op, operands: tuple[Value | None, ...]) -> tuple[Result, ...] | None:
        return split(tanh(X)) if isinstance(op.kind, onnx.Node) else None

    new = convert(graph, other)
    assert [shown(v) for v in new.outputs] == [
        "onnx.node.0(tanh(x))",
        "onnx.node.1(tanh(x))",
        "relu(onnx.node.1(tanh(x)))",
    ]
    assert len(new.ops) == 3
    assert [v.name for v in new.outputs] == ["p", "q", None]
