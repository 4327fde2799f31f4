"""What fold-constants knows of shapes that are computed: elements, reshapes to them, types."""

from __future__ import annotations

import itertools
import random

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, apply, const
from amctc.onnx_bridge.importer import import_model
from amctc.onnx_bridge.runtime import CARRIED, WHOLE_FLOAT
from amctc.ops import nn
from amctc.types import BOOL, F32, I32, I64, Array, TensorType
from amctc_passes.simplify.shape_contents import contents
from tests.unit.passes.inspection import left, read

SIZES = {"N": 5, "S": 7}


def model(*nodes: onnx.NodeProto, shape: tuple[object, ...] = ("N", "S", 12), **constants: object) -> Graph:
    """A model from ``x`` to ``y``; integer constants by name."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    tensors = [numpy_helper.from_array(np.asarray(v, np.int64), n) for n, v in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [onnx.ValueInfoProto(name="y")], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_model(proto)


def node(op_type: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def run_both(before: Graph, after: Graph) -> tuple[Array, Array]:
    dims = [SIZES.get(d, d) for d in before.inputs[0].type.dims]
    x = np.arange(np.prod(dims), dtype=np.float32).reshape(dims)
    old, new = (evaluate(g, {"x": x}, {**WHOLE_FLOAT, **CARRIED})["y"] for g in (before, after))
    return old, new


# ----------------------------------------------------------------------------------------------------------- elements

PARTS = {
    "a dimension": [node("Shape", "x", "s"), node("Gather", "s two", "y")],
    "a part of it": [node("Shape", "x", "s"), node("Gather", "s two", "d"), node("Div", "d three", "y")],
    "the end of a shape": [node("Shape", "x", "y", start=2)],
    "a comparison": [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Equal", "n minus", "y")],
    "of a slice": [node("Shape", "x", "s"), node("Slice", "s twos threes", "y")],
}
CONSTANTS = {"zero": 0, "two": 2, "three": 3, "minus": [-1], "twos": [2], "threes": [3]}


@pytest.mark.parametrize(("name", "expected"), list(zip(PARTS, (12, 4, [12], [False], [12]), strict=True)))
def test_elements_that_are_numbers_become_constants(name: str, expected: object, run) -> None:
    graph = model(*PARTS[name], **CONSTANTS)
    result = run("fold-constants", graph).graph
    assert left(result) == []
    np.testing.assert_array_equal(read(result.outputs[0]), expected)
    old, new = run_both(graph, result)
    assert (old.dtype, old.shape) == (new.dtype, new.shape)


def test_an_element_that_is_a_symbol_stays(run) -> None:
    graph = model(node("Shape", "x", "s"), node("Gather", "s zero", "y"), zero=0)
    assert run("fold-constants", graph).graph is graph


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # x is [N, S, 12]
        ("n s three four", (0, 0, 3, 4)),
        ("n minus twelve", (0, -1, 12)),
        ("s n twelve", None),  # neither symbol stands at its axis, and only one size can be left out
        ("n twelve s", (0, 12, -1)),
        ("minus twelve", (-1, 12)),
        ("n s twelve", (0, 0, 12)),
        ("ns twelve", (-1, 12)),  # a product of symbols
    ],
)
def test_reshapes_to_computed_sizes(parts: str, expected: tuple[int, ...] | None, run) -> None:
    graph = model(
        node("Shape", "x", "shape"), node("Gather", "shape i0", "n"), node("Gather", "shape i1", "s"),
        node("Mul", "n s", "ns"), node("Concat", parts, "target", axis=0), node("Reshape", "x target", "y"),
        i0=[0], i1=[1], three=[3], four=[4], twelve=[12], minus=[-1],
    )  # fmt: skip
    result = run("fold-constants", graph).graph
    kinds = [op.kind for op in result.ops if op.kind.op_name != "const"]
    if parts == "minus twelve":
        assert kinds == [nn.Reshape((-1, 12))]
    elif expected is None:
        assert not any(isinstance(k, nn.Reshape) for k in kinds)
    else:
        assert kinds == [nn.Reshape(expected)]
    np.testing.assert_array_equal(*run_both(graph, result))


def test_one_size_is_left_out_rather_than_copied(run) -> None:
    """-1 holds for an empty batch too, where a copied 0 beside it would leave it undetermined."""
    graph = model(
        node("Shape", "x", "shape"), node("Gather", "shape i0", "n"), node("Concat", "n three four", "target", axis=0),
        node("Reshape", "x target", "y"), shape=("N", 12), i0=[0], three=[3], four=[4],
    )  # fmt: skip
    (op,) = run("fold-constants", graph).graph.ops
    assert op.kind == nn.Reshape((-1, 3, 4))
    assert op.result.type.dims == ("N", 3, 4)


def test_a_zero_that_is_a_size_stays(run) -> None:
    graph = model(
        node("Shape", "x", "shape"), node("Gather", "shape i0", "n"), node("Concat", "n zero", "target", axis=0),
        node("Reshape", "x target", "y", allowzero=1), shape=("N", 0), i0=[0], zero=[0],
    )  # fmt: skip
    assert "nn.reshape" not in left(run("fold-constants", graph).graph)


def test_an_expanded_token_learns_its_type(run) -> None:
    """As PyTorch writes expand(batch, -1, -1) of a class token: a comparison with -1 and a choice."""
    token = const(np.ones((1, 1, 12), np.float32))
    graph = model(
        node("Shape", "x", "shape"), node("Gather", "shape i0", "n"), node("Concat", "n minus minus", "wanted", axis=0),
        node("Equal", "wanted minuses", "kept"), node("Where", "kept ones wanted", "target"),
        node("ReduceSum", "x axes", "sum"), node("Reshape", "sum flat", "one"), node("Expand", "one target", "y"),
        shape=("N", "S", 12), i0=[0], minus=[-1], minuses=[-1, -1, -1], ones=[1, 1, 1], axes=[0, 1], flat=[1, 1, 12],
    )  # fmt: skip
    assert token.type.dims == (1, 1, 12)
    result = run("fold-constants", graph).graph
    assert graph.outputs[0].type.dims != ("N", 1, 12)
    assert result.outputs[0].type.dims == ("N", 1, 12)
    np.testing.assert_array_equal(*run_both(graph, result))


# ----------------------------------------------------------------------------------------------------------- in general


def shape_program(rng: random.Random, length: int) -> Graph:
    """Random integer arithmetic on the shape of x [N, S, 12], every step an output."""
    nodes, vectors = [node("Shape", "x", "v0")], {"v0": 3, "c0": 1, "c1": 3}
    for i in range(1, length):
        a, b = rng.choice(sorted(vectors)), rng.choice(sorted(vectors))
        kind, out = rng.choice(("Add", "Sub", "Mul", "Div", "Concat", "Gather", "Slice", "Where", "Cast")), f"v{i}"
        size = vectors[a]
        if kind == "Div":  # by zero it is an error
            nodes.append(node(kind, f"{a} {rng.choice(('back', 'two'))}", out))
        elif kind in ("Add", "Sub", "Mul"):
            nodes.append(node(kind, f"{a} {b if vectors[b] in (1, size) else 'c0'}", out))
        elif kind == "Concat":
            nodes.append(node(kind, f"{a} {b}", out, axis=0))
            size += vectors[b]
        elif kind == "Gather":
            nodes.append(node(kind, f"{a} last", out))
            size = 1
        elif kind == "Slice":
            nodes.append(node(kind, f"{a} from to axis {rng.choice(('forth', 'back'))}", out))
            size = None
        elif kind == "Where":
            nodes += [node("Equal", f"{a} c0", f"e{i}"), node(kind, f"e{i} c0 {a}", out)]
        else:
            nodes.append(node(kind, a, out, to=TensorProto.INT64))
        if size is not None and size <= 12:
            vectors[out] = size
    constants = {"c0": [rng.choice((-1, 0, 1, 2, 12))], "c1": [1, -1, 3], "last": [-1], "from": [0], "to": [2],
                 "axis": [0], "forth": [1], "back": [-1], "two": [2]}  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "S", 12])
    names = [o for n in nodes for o in n.output if not o.startswith("e")]
    tensors = [numpy_helper.from_array(np.asarray(v, np.int64), n) for n, v in constants.items()]
    outputs = [helper.make_tensor_value_info(n, TensorProto.INT64, None) for n in names]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs, tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return import_model(proto)


@given(st.integers(0, 1 << 30), st.integers(2, 9))
def test_what_is_known_is_what_is_computed(seed: int, length: int) -> None:
    graph = shape_program(random.Random(seed), length)
    with np.errstate(divide="ignore"):
        arrays = evaluate(graph, {"x": np.zeros((5, 7, 12), np.float32)}, {**WHOLE_FLOAT, **CARRIED})
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        known = contents(value)
        if known is not None:
            assert len(known) == arrays[name].size
            for element, computed in zip(known, arrays[name].reshape(-1).tolist(), strict=True):
                assert element is None or SIZES.get(element, element) == computed


def test_much_is_known() -> None:
    """The property above says nothing about what is not known."""
    graphs = [shape_program(random.Random(seed), 8) for seed in range(40)]
    elements = [d for g in graphs for v in g.outputs for d in contents(v) or (None,)]
    assert sum(isinstance(d, int) for d in elements) > len(elements) / 3
    assert sum(isinstance(d, str) for d in elements) > len(elements) / 10


def test_what_is_not_followed() -> None:
    x = GraphInput("x", TensorType((2, 3), I64))
    assert contents(x) is None
    assert contents(const(np.zeros((2, 3), np.int64))) is None
    assert contents(const(np.zeros(65, np.int64))) is None
    assert contents(const(np.zeros(3, np.float32))) is None
    assert contents(apply(nn.Identity(), GraphInput("v", TensorType((3,), I64)))) is None
    assert contents(apply(nn.Relu(), GraphInput("f", TensorType((3,), F32)))) is None
    assert contents(const(np.int64(7))) == (7,)


OPERATIONS = [
    ("Add", 3, 4, 7), ("Add", "N", 0, "N"), ("Add", 0, "N", "N"), ("Add", "N", 1, None), ("Add", "N", "S", None),
    ("Add", 2**63 - 2, 1, 2**63 - 1), ("Add", 2**63 - 1, 1, None), ("Sub", -(2**63) + 1, 1, -(2**63)),
    ("Sub", -(2**63), 1, None), ("Sub", 3, 4, -1), ("Sub", "N", 0, "N"), ("Sub", 0, "N", None), ("Sub", "N", 1, None),
    ("Mul", 3, -4, -12), ("Mul", "N", 1, "N"), ("Mul", 1, "N", "N"), ("Mul", "N", 2, None), ("Mul", "N", "S", None),
    ("Div", 7, 2, 3), ("Div", -7, 2, -3), ("Div", 7, -2, -3), ("Div", -7, -2, 3), ("Div", 0, -2, 0),
    ("Div", 7, 0, None), ("Div", "N", 1, "N"), ("Div", "N", 2, None), ("Div", 1, "N", None),
    ("Equal", 3, 3, 1), ("Equal", 3, 4, 0), ("Equal", "N", "N", 1), ("Equal", "N", "S", None), ("Equal", "N", -1, 0),
    ("Equal", -1, "N", 0), ("Equal", "N", 0, None), ("Equal", 5, "N", None),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "a", "b", "expected"), OPERATIONS)
def test_what_is_known_of_one_operation(op_type: str, a: object, b: object, expected: object) -> None:
    """Of numbers and the symbols of x [N, S, 12], which may stand for any size from 0 on."""
    names = [{"N": "n", "S": "s"}.get(v, k) for v, k in ((a, "a"), (b, "b"))]
    numbers = {k: [v] for v, k in ((a, "a"), (b, "b")) if isinstance(v, int)}
    shape = [node("Shape", "x", "shape"), node("Gather", "shape zero", "n"), node("Gather", "shape one", "s")]
    graph = model(*shape, node(op_type, " ".join(names), "y"), zero=[0], one=[1], **numbers)
    assert contents(graph.outputs[0]) == (expected,)


def test_a_cast_to_32_bits_keeps_what_fits() -> None:
    for value, expected in (2**31 - 1, True), (-(2**31), True), (2**31, False), (-(2**31) - 1, False):
        given = const(np.int64([value, 1]))
        assert contents(apply(nn.Cast(I32), given)) == ((value, 1) if expected else None)
        assert contents(apply(nn.Cast(I64), given)) == (value, 1)
    assert contents(apply(nn.Cast(BOOL), const(np.int64([1])))) is None


def test_choices_and_positions() -> None:
    c, a, b = const(np.array([True, False])), const(np.int64([1, 2])), const(np.int64([3]))
    assert contents(apply(nn.Where(), c, a, b)) == (1, 3)
    assert contents(apply(nn.Gather(), a, const(np.int64([-1, 0, -2])))) == (2, 1, 1)
    assert contents(apply(nn.Slice((1,), (-9,), (0,), (-1,)), a)) == (2, 1)
    assert contents(apply(nn.Concat(0), a, b, a)) == (1, 2, 3, 1, 2)
    assert contents(apply(nn.Concat(0), *[const(np.zeros(32, np.int64))] * 2)) == (0,) * 64
    assert contents(apply(nn.Concat(0), *[const(np.zeros(33, np.int64))] * 2)) is None


def test_sizes_beyond_int64_are_not_known() -> None:
    """Forty squares in a row have 2^40 digits: found by a folding bomb."""
    names = [f"t{i}" for i in range(41)]
    squares = [node("Mul", f"{a} {a}", b) for a, b in itertools.pairwise(names)]
    graph = model(node("Shape", "x", "t0"), *squares, node("Identity", "t40", "y"), shape=(2, 3))
    assert contents(graph.outputs[0].producer.operands[0]) == (None, None)
