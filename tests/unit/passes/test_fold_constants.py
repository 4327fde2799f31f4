"""fold-constants: chains, shapes, and the limits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.onnx_bridge.importer import import_model
from amctc.ops import nn, quant
from amctc.ops import onnx as carried
from amctc.types import F16, F32, Array, QuantizedType, TensorType

X = GraphInput("x", TensorType((2, 3), F32))
N = GraphInput("x", TensorType(("N", 3), F32))


def read(value: Value) -> Array:
    data = constant_data(value)
    assert data is not None
    return data.read()


def vector(*numbers: float) -> Value:
    return const(np.asarray(numbers, np.float32))


def folded(run, value: Value, *inputs: GraphInput) -> Value:
    return run("fold-constants", Graph(inputs, (value,), ("y",))).graph.outputs[0]


def model(*nodes: onnx.NodeProto, constants: dict[str, Array] | None = None, opset: int = 17, shape=("N", 3)) -> Graph:
    """A model from ``x`` to ``y`` of any type."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    tensors = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", [x], [onnx.ValueInfoProto(name="y")], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return import_model(onnx.shape_inference.infer_shapes(proto))


def test_a_chain_folds_at_once(run) -> None:
    chain = apply(nn.Mul(), apply(nn.Add(), vector(1, 2, 3), vector(1, 1, 1)), vector(2, 2, 2))
    y = folded(run, apply(nn.Add(), X, chain, name="y"), X)
    (constant,) = (o for o in y.producer.operands if o is not X)
    np.testing.assert_array_equal(read(constant), [4, 6, 8])


def test_a_whole_graph_may_fold(run) -> None:
    np.testing.assert_array_equal(read(folded(run, apply(nn.Relu(), vector(-1, 2)))), [0, 2])


def test_nothing_to_fold(run) -> None:
    graph = Graph((X,), (apply(nn.Add(), X, vector(1, 2, 3)),), ("y",))
    assert run("fold-constants", graph).graph is graph


def test_default_of_an_input_is_no_constant(run) -> None:
    given = GraphInput("c", TensorType((3,), F32), constant_data(vector(1, 2, 3)))
    graph = Graph((given,), (apply(nn.Relu(), given),), ("y",))
    assert run("fold-constants", graph).graph is graph


def test_names_and_origins(run) -> None:
    y = folded(run, apply(nn.Relu(), vector(1), name="named"))
    assert y.name == "named"


def test_float16_is_folded_in_float16(run) -> None:
    y = folded(run, apply(nn.Add(), const(np.float16([2048])), const(np.float16([1]))))
    assert y.type.elem == F16
    assert read(y) == 2048  # ties to even


def test_shape_of_a_static_value(run) -> None:
    graph = model(helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Shape", ["r"], ["y"]), shape=(2, 3))
    y = run("fold-constants", graph).graph.outputs[0]
    np.testing.assert_array_equal(read(y), [2, 3])
    assert (read(y).dtype, y.name) == (np.int64, "y")
    assert [o.op_type for o in y.producer.origins] == ["Shape"]


def test_shape_of_a_scalar(run) -> None:
    y = run("fold-constants", model(helper.make_node("Shape", ["x"], ["y"]), shape=())).graph.outputs[0]
    assert (read(y).dtype, read(y).shape) == (np.int64, (0,))


def test_size_of_a_static_value(run) -> None:
    y = run("fold-constants", model(helper.make_node("Size", ["x"], ["y"]), shape=(2, 3))).graph.outputs[0]
    assert read(y).shape == ()
    assert read(y) == 6


@pytest.mark.parametrize("op_type", ["Shape", "Size"])
def test_shape_of_a_dynamic_value_stays(op_type: str, run) -> None:
    graph = model(helper.make_node(op_type, ["x"], ["y"]))
    assert run("fold-constants", graph).graph is graph


def test_part_of_a_shape_is_not_taken_for_all_of_it(run) -> None:
    graph = model(helper.make_node("Shape", ["x"], ["y"], start=1), shape=(2, 3))
    y = run("fold-constants", graph).graph.outputs[0]
    data = constant_data(y)
    assert data is None or data.read().tolist() == [3]


def test_shape_arithmetic_ends_in_a_reshape(run) -> None:
    """What exporters write for ``x.view(x.size(0), -1)`` becomes a constant target."""
    graph = model(
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axes"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
        constants={"zero": np.asarray(0), "axes": np.asarray([0]), "rest": np.asarray([-1])}, shape=(2, 3),
    )  # fmt: skip
    y = run("fold-constants", graph).graph.outputs[0]
    target = y.producer.operands[1] if len(y.producer.operands) > 1 else None
    assert target is None or read(target).tolist() == [2, -1]
    assert y.type.dims == (2, 3)


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_ops_stay(op_type: str, run) -> None:
    graph = model(helper.make_node(op_type, ["c"], ["y"]), constants={"c": np.full((3,), 0.5, np.float32)})
    assert run("fold-constants", graph).graph is graph


def test_random_ops_without_operands_stay(run) -> None:
    graph = model(helper.make_node("RandomNormal", [], ["y"], shape=[3], dtype=1))
    assert run("fold-constants", graph).graph is graph


def test_custom_ops_stay(run) -> None:
    kind = carried.Node("Mystery", "com.example", 1, b"", (vector(1).type,), (vector(1).type,))
    graph = Graph((), (apply(kind, vector(1)),), ("y",))
    assert run("fold-constants", graph).graph is graph


def test_quantized_constants_stay(run) -> None:
    elem = QuantizedType.per_tensor(0.5)
    weight = apply(quant.Dequantize(), const(np.ones((3, 4), np.int8), elem))
    graph = Graph((X,), (apply(nn.MatMul(), X, weight),), ("y",))
    assert run("fold-constants", graph).graph is graph
    graph = Graph((), (apply(quant.Quantize(elem), vector(1, 2)),), ("y",))
    assert run("fold-constants", graph).graph is graph


def test_failing_ops_stay_and_are_noted(run) -> None:
    """A Gather outside its data is an error when it runs, not when it is folded: it may never run."""
    node = helper.make_node("Gather", ["c", "i"], ["y"], axis=0)
    result = run("fold-constants", model(node, constants={"c": np.ones(3, np.float32), "i": np.asarray([7])}))
    assert constant_data(result.graph.outputs[0]) is None
    (note,) = result.notes
    assert note.source == "fold-constants"
    assert "not folded" in note.text


# ------------------------------------------------------------------------------------------------------------- limits


def nbytes(graph: Graph) -> int:
    return sum(d.nbytes for op in graph.ops for r in op.results if (d := constant_data(r)) is not None)


def test_expansion_beyond_a_mebibyte_stays(run) -> None:
    small = const(np.ones((1, 1024), np.float32))
    graph = Graph((), (apply(nn.Add(), small, const(np.ones((1024, 1), np.float32))),), ("y",))
    assert run("fold-constants", graph).graph is graph


def test_small_expansions_fold(run) -> None:
    y = folded(run, apply(nn.Add(), const(np.ones((1, 16), np.float32)), const(np.ones((16, 1), np.float32))))
    assert read(y).shape == (16, 16)


def test_constant_of_shape_is_no_bomb(run) -> None:
    graph = model(helper.make_node("ConstantOfShape", ["s"], ["y"]), constants={"s": np.asarray([1 << 15, 1 << 15])})
    assert nbytes(run("fold-constants", graph).graph) < 1 << 20


def test_forty_doublings_stay_within_the_budget(run) -> None:
    value = const(np.ones(1024, np.float32))
    for _ in range(40):
        value = apply(nn.Concat(0), value, value)
    result = run("fold-constants", Graph((), (value,), ("y",))).graph
    assert nbytes(result) <= (64 << 20) + 4096
    assert result.outputs[0].type.dims == (1024 << 40,)


def test_many_small_results_stay_within_the_budget(run) -> None:
    """Each result is no larger than its operands, all together they would be."""
    big = const(np.ones(1 << 20, np.float32))
    outputs = tuple(apply(nn.Mul(), big, vector(i)) for i in range(100))
    result = run("fold-constants", Graph((), outputs, tuple(f"y{i}" for i in range(100)))).graph
    assert nbytes(result) <= (64 << 20) + 3 * (4 << 20)
    assert sum(constant_data(o) is not None for o in result.outputs) >= 8


def test_all_of_the_budget_is_used(run) -> None:
    """64 MiB and the 4 MiB of the weight are 8.5 times 2^20 elements, 8 bytes each; a further one is too many."""
    big = const(np.linspace(0, 1, 1 << 20, dtype=np.float32))
    kinds = nn.Relu(), nn.Neg(), nn.Abs(), nn.Exp(), nn.Sigmoid(), nn.Tanh(), nn.Sqrt(), nn.Identity()
    half = nn.Slice((0,), (1 << 19,), (0,), (1,))
    outputs = *(apply(kind, big) for kind in kinds), apply(half, big), apply(nn.Slice((0,), (1,), (0,), (1,)), big)
    result = run("fold-constants", Graph((), outputs, tuple(f"y{i}" for i in range(10)))).graph
    assert [constant_data(o) is not None for o in result.outputs] == 9 * [True] + [False]
