"""demote-float: what stays in float is computed in float16, the interface is not (N26)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, apply, const, constant_data
from amctc.onnx_bridge.importer import import_model
from amctc.ops import ascend, nn, quant
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile
from amctc.types import F16, F32, I32, I64, QuantizedType, TensorType

X = GraphInput("x", TensorType(("N", 3), F32))


def of(*values: object, inputs: tuple[GraphInput, ...] = (X,)) -> Graph:
    return Graph(inputs, values, tuple(f"y{i}" for i in range(len(values))))  # type: ignore[arg-type]


def check(before: Graph, after: Graph) -> None:
    """Float32 is left at the interface, in casts, and around carried ops only."""
    assert [o.type for o in after.outputs] == [o.type for o in before.outputs]
    for op in after.ops:
        if op.kind.op_name.startswith("nn.") and not isinstance(op.kind, nn.Cast):
            assert all(v is None or v.type.elem != F32 for v in (*op.operands, *op.results)), op


def test_everything_between_is_half(run, chip) -> None:
    y = apply(nn.Softmax(), apply(nn.Add(), apply(nn.Sigmoid(), X), const(np.float32([1, 2, 3]), name="c")), name="y")
    graph = of(y)
    after = run("demote-float", graph).graph
    check(graph, after)
    assert [op.kind.op_name for op in after.ops] == [
        "nn.cast", "nn.sigmoid", "const", "nn.add", "nn.softmax", "nn.cast",
    ]  # fmt: skip
    constant = next(op for op in after.ops if op.kind.op_name == "const")
    assert constant_data(constant.result).read().dtype == np.float16
    assert constant.result.name == "c"
    out = chip(after, x=np.float32([[0.1, 0.2, 0.3]]))["y0"]
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, out.astype(np.float16))


def test_each_result_is_rounded_once(run, chip) -> None:
    graph = of(apply(nn.Add(), apply(nn.Add(), X, const(np.float32([1.0]))), const(np.float32([-1.0]))))
    y = chip(run("demote-float", graph).graph, x=np.float32([[2.0**-11, 2.0**-10, 3 * 2.0**-12]]))["y0"]
    assert y.tolist() == [[0.0, 2.0**-10, 2.0**-10]]  # 1 + 2^-11 is halfway and rounds to even


def test_dequantizers_give_half(run) -> None:
    acc = GraphInput("acc", TensorType((1, 3), I32))
    d = apply(ascend.Dequant(1), acc, const(np.float32([0.5])))
    graph = of(apply(nn.Sigmoid(), d), d, inputs=(acc,))
    after = run("demote-float", graph).graph
    check(graph, after)
    (kind,) = (op.kind for op in after.ops if isinstance(op.kind, ascend.Dequant))
    assert kind == ascend.Dequant(1, F16)
    scale = next(op for op in after.ops if op.kind.op_name == "const")
    assert scale.result.type.elem == F32, "parameters of integer ops stay as they are"


def test_quantizers_read_the_input_as_it_is(run) -> None:
    graph = of(apply(ascend.Quant(2.0, 0), X))
    assert run("demote-float", graph).graph is graph


def test_anti_quant_gives_half(run) -> None:
    q = apply(ascend.Quant(2.0, 0), X)
    graph = of(apply(nn.Relu(), apply(ascend.AntiQuant(0.5, 0), q)))
    after = run("demote-float", graph).graph
    check(graph, after)
    assert next(op.kind for op in after.ops if isinstance(op.kind, ascend.AntiQuant)).to == F16


def carried_between() -> Graph:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Softsign", ["a"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("x", "y"))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    return import_model(model)


def carried_with_constant() -> Graph:
    """A carried op that reads a float32 constant beside its data."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Mod", ["a", "c"], ["y"], fmod=1)]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("x", "y"))
    constant = helper.make_tensor("c", TensorProto.FLOAT, [3], [0.5, 1.5, 2.5])
    graph = helper.make_graph(nodes, "g", [x], [y], [constant])
    return import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def carried_with_integers() -> Graph:
    """A carried op that reads integers that are computed."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Cast", ["a"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Cast", ["wide"], ["i"], to=TensorProto.INT32),
        helper.make_node("GatherElements", ["a", "i"], ["b"], axis=1),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("x", "y"))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    return import_model(model)


def test_constants_of_carried_ops_stay_float32(run) -> None:
    after = run("demote-float", carried_with_constant()).graph
    (mod,) = (op for op in after.ops if isinstance(op.kind, Node))
    assert constant_data(mod.operands[1]).read().dtype == np.float32


def test_carried_ops_run_in_float32_between_casts(run, chip) -> None:
    graph = carried_between()
    after = run("demote-float", graph).graph
    check(graph, after)
    assert [op.kind.op_name for op in after.ops] == [
        "nn.cast", "nn.relu", "nn.cast", "onnx.node", "nn.cast", "nn.sigmoid", "nn.cast",
    ]  # fmt: skip
    softsign = next(op for op in after.ops if isinstance(op.kind, Node))
    assert softsign.operands[0].type.elem == softsign.result.type.elem == F32
    y = chip(after, x=np.float32([[0.25, 0.5, 1.0]]))["y"]
    expected = 1 / (1 + np.exp(-np.float64([0.2, 1 / 3, 0.5])))  # softsign: x / (1 + |x|)
    np.testing.assert_allclose(y[0], expected, rtol=2.0**-10)


def test_a_carried_result_that_leaves_the_graph_too_is_rounded(run, chip) -> None:
    """Between two casts already, but the graph's output reads the float32 result: no chip keeps that."""
    once = run("demote-float", carried_between()).graph
    softsign = next(op for op in once.ops if isinstance(op.kind, Node))
    both = Graph(once.inputs, (*once.outputs, softsign.result), ("y", "z"))
    after = run("demote-float", both).graph
    assert after is not both
    z = chip(after, x=np.float32([[0.25, 0.5, 1.0]]))["z"]
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, z.astype(np.float16))


def test_a_carried_op_is_settled_by_its_operands_too(run, chip) -> None:
    """Its result is read in float16 alone, but what it reads is computed in float32 still."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Softsign", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT16),
    ]
    x, y = (helper.make_tensor_value_info(n, t, [3]) for n, t in (("x", TensorProto.FLOAT), ("y", TensorProto.FLOAT16)))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    after = run("demote-float", import_model(model)).graph
    relu = next(op for op in after.ops if isinstance(op.kind, nn.Relu))
    assert relu.result.type.elem == F16
    np.testing.assert_array_equal(chip(after, x=np.float32([0, 1, 3]))["y"], np.float16([0, 0.5, 0.75]))


def test_what_only_moves_elements_follows_what_it_moves() -> None:
    """Softmax in float32, sums in float16: a reshape of either stays in its type."""
    profile = load_profile("ascend310").replace_choice("float_island", "f32").replace_choice("elementwise", "f16")
    x = GraphInput("x", TensorType((2, 3), F32))
    for kind, elem in ((nn.Softmax(-1), F32), (nn.Add(), F16)):
        computed = apply(kind, *((x,) if isinstance(kind, nn.Softmax) else (x, x)))
        graph = of(apply(nn.Reshape((6,)), computed), inputs=(x,))
        after = Pipeline.parse("demote-float").run(graph, Context(target=profile)).graph
        (moved,) = (op for op in after.ops if isinstance(op.kind, nn.Reshape))
        assert moved.result.type.elem == elem
    ones = const(np.ones((2, 3), np.float32))
    for operands in (apply(nn.Add(), x, x), ones), (x, ones):  # constants and inputs are of no type of their own
        graph = of(apply(nn.Concat(0), *operands), inputs=(x,))
        after = Pipeline.parse("demote-float").run(graph, Context(target=profile)).graph
        (joined,) = (op for op in after.ops if isinstance(op.kind, nn.Concat))
        assert joined.result.type.elem == F16


def test_a_chip_that_computes_islands_in_float32_keeps_them() -> None:
    profile = load_profile("ascend310").replace_choice("float_island", "f32").replace_choice("elementwise", "f32")
    acc = GraphInput("acc", TensorType((1, 3), I32))
    d = apply(ascend.Dequant(1), acc, const(np.float32([0.5])))
    graph = of(apply(nn.Sigmoid(), d), apply(nn.Softmax(), d), inputs=(acc,))
    assert Pipeline.parse("demote-float").run(graph, Context(target=profile)).graph is graph


def test_half_precision_models_need_nothing(run) -> None:
    x = GraphInput("x", TensorType((2,), F16))
    graph = of(apply(nn.Sigmoid(), x), inputs=(x,))
    assert run("demote-float", graph).graph is graph


def test_mixed_precision_models(run) -> None:
    x = GraphInput("x", TensorType((2,), F16))
    graph = of(apply(nn.Sigmoid(), apply(nn.Cast(F32), x)), inputs=(x,))
    after = run("demote-float", graph).graph
    check(graph, after)
    sigmoid = next(op for op in after.ops if isinstance(op.kind, nn.Sigmoid))
    assert sigmoid.operands[0] is x, "no cast there and back"


def test_integers_are_left_alone(run) -> None:
    i = GraphInput("i", TensorType((2,), I64))
    graph = of(apply(nn.Cast(I32), i), apply(nn.Sigmoid(), apply(nn.Cast(F32), i)), inputs=(i,))
    after = run("demote-float", graph).graph
    check(graph, after)
    assert after.outputs[0] is graph.outputs[0]
    assert [op.kind for op in after.ops if isinstance(op.kind, nn.Cast)] == [nn.Cast(I32), nn.Cast(F16), nn.Cast(F32)]


@pytest.mark.parametrize(
    "graph",
    [
        of(apply(nn.Sigmoid(), X)),
        carried_between(),
        carried_with_constant(),
        carried_with_integers(),
        of(X),
        of(apply(nn.Cast(F16), X)),
        of(const(np.ones(2, np.float32))),
    ],
)
def test_running_twice_changes_nothing(graph: Graph, run) -> None:
    once = run("demote-float", graph).graph
    assert run("demote-float", once).graph is once


def test_inputs_and_constants_at_the_interface_stay(run) -> None:
    graph = of(X, const(np.float32([1, 2])))
    assert run("demote-float", graph).graph is graph


def test_large_constants_become_infinite(run) -> None:
    graph = of(apply(nn.Mul(), X, const(np.float32([1e6, 1.0, 1e-9]))))
    after = run("demote-float", graph).graph
    constant = next(op for op in after.ops if op.kind.op_name == "const")
    assert constant_data(constant.result).read().tolist() == [np.inf, 1.0, 0.0]


def test_control_flow_keeps_its_captures(run, chip) -> None:
    def body(name: str, op_type: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])
        return helper.make_graph([helper.make_node(op_type, ["h"], [name])], name, [], [result])

    nodes = [
        helper.make_node("Sigmoid", ["x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=body("t", "Neg"), else_branch=body("e", "Abs")),
    ]
    x, c = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    )
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    model = helper.make_model(helper.make_graph(nodes, "g", [x, c], [y]), opset_imports=[helper.make_opsetid("", 17)])
    graph = import_model(model)
    after = run("demote-float", graph).graph
    check(graph, after)
    out = chip(after, x=np.float32([0, 1, 2]), c=np.asarray(True))["y"]
    np.testing.assert_allclose(out, -1 / (1 + np.exp(-np.float64([0, 1, 2]))), rtol=2.0**-10)


def test_quantized_graphs_are_refused(run) -> None:
    q = apply(quant.Quantize(QuantizedType.per_tensor(0.5)), X)
    with pytest.raises(UsageError, match="not lowered"):
        run("demote-float", of(apply(quant.Dequantize(), q)))


def test_an_output_that_is_an_input_is_not_rounded(run, chip) -> None:
    """A file says it with an Identity; drawn: what was read back was rounded, what was in memory was not."""
    x = np.float32([[0.1, 1 / 3, 1e-9]])
    given = apply(nn.Identity(), X)
    graph = of(given, apply(nn.Sigmoid(), given), apply(nn.Identity(), apply(nn.Neg(), X)))
    after = run("demote-float", graph).graph
    found = chip(after, x=x)
    np.testing.assert_array_equal(found["y0"], x)
    np.testing.assert_array_equal(found["y2"], -x.astype(np.float16).astype(np.float32))
    check(graph, after)
