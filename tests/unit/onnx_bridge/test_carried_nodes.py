"""Ops we give no meaning to: several results, absent operands, attributes of all types, domains of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op
from amctc.onnx_bridge import CARRIED, export_model, import_model
from amctc.ops.onnx import Node
from amctc.parser import parse_graph
from amctc.text import print_graph
from tests.unit.onnx_bridge.round_trips import round_trip, run_model

X = np.array([[1.0, -2.0, 3.0], [-0.0, 5.5, -6.25]], np.float32)


def net(
    body: str,
    *,
    inputs: str = "float[2,3] x",
    outputs: str = "float[2,3] y",
    weights: str = "",
    others: str = "",
) -> onnx.ModelProto:
    """A model written in ONNX's text form."""
    head = f'<ir_version: 8, opset_import: ["" : 17{others}]> net ({inputs}) => ({outputs})'
    return parser.parse_model(f"{head} {f'<{weights}>' if weights else ''} {body}")


def only(graph: Graph, op_type: str) -> Op:
    (op,) = [op for op in graph.ops if isinstance(op.kind, Node) and op.kind.op_type == op_type]
    return op


def typed(graph: Graph) -> list[str]:
    return [str(v.type) for v in graph.outputs]


def test_several_results_are_values_of_one_op() -> None:
    model = net("{ a, n = TopK(x, k) y = Neg(a) }", outputs="int64[2,2] n, float[2,2] y", weights="int64[1] k = {2}")
    graph, exported, outputs = round_trip(model, {"x": X})
    topk = only(graph, "TopK")
    assert [r.name for r in topk.results] == ["a", "n"]
    assert graph.outputs[0] is topk.results[1]
    assert exported.graph.node[0].output[1] == "n"
    np.testing.assert_array_equal(outputs["n"], [[2, 0], [1, 0]])


def test_a_split_into_uneven_parts() -> None:
    model = net(
        "{ a, b = Split <axis = 1> (x, sizes) y = Concat <axis = 1> (b, a) }", weights="int64[2] sizes = {1, 2}"
    )
    _, _, outputs = round_trip(model, {"x": X})
    np.testing.assert_array_equal(outputs["y"], X[:, [1, 2, 0]])


@pytest.mark.parametrize("kept", [(0, 1, 2), (0,), (1,), (2,), (0, 2), (1, 2)])
def test_results_that_nobody_wants_are_left_out(kept: tuple[int, ...]) -> None:
    names = [f"y{k}" if k in kept else "" for k in range(3)]
    rng = np.random.default_rng(1)
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n)
               for n, s in (("w", (2, 16, 3)), ("r", (2, 16, 4)))]  # fmt: skip
    shapes = [(5, 2, 1, 4), (2, 1, 4), (2, 1, 4)]
    while not names[-1]:
        names.pop()
    node = helper.make_node("LSTM", ["x", "w", "r"], names, "rnn", hidden_size=4, direction="bidirectional")
    proto = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 1, 3])],
        [helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, shapes[k]) for k in kept], weights,
    )  # fmt: skip
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    graph, exported, _ = round_trip(model, {"x": rng.normal(size=(5, 1, 3)).astype(np.float32)})
    assert [r.type.dims for r in only(graph, "LSTM").results] == [shapes[k] for k in kept]
    assert list(exported.graph.node[0].output) == names


@pytest.mark.parametrize(
    "given", [(), ("b",), ("h",), ("b", "c"), ("n",), ("p",), ("b", "n", "h", "c", "p"), ("n", "c")]
)
def test_absent_operands_keep_their_places(given: tuple[str, ...]) -> None:
    rng = np.random.default_rng(2)
    optional: dict[str, tuple[int, ...]] = {"b": (1, 32), "n": (1,), "h": (1, 1, 4), "c": (1, 1, 4), "p": (1, 12)}
    arrays = {"w": (1, 16, 3), "r": (1, 16, 4), **{k: optional[k] for k in given}}
    weights = [
        numpy_helper.from_array(np.array([3], np.int32) if n == "n" else rng.normal(size=s).astype(np.float32), n)
        for n, s in arrays.items()
    ]
    inputs = ["x", "w", "r", *(n if n in given else "" for n in optional)]
    node = helper.make_node("LSTM", inputs, ["", "y"], hidden_size=4, activations=["Tanh", "Sigmoid", "Tanh"])
    proto = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4])], weights,
    )  # fmt: skip
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    graph, exported, _ = round_trip(model, {"x": rng.normal(size=(5, 1, 3)).astype(np.float32)})
    assert [bool(n) for n in exported.graph.node[0].input] == [bool(n) for n in inputs]
    last = max((k for k, n in enumerate(inputs) if n), default=0)
    assert len(only(graph, "LSTM").operands) == last + 1


def test_attributes_of_every_type_are_kept() -> None:
    tensor = numpy_helper.from_array(np.float32([1, 2]), "t")
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"])], "b", [], [helper.make_tensor_value_info("n", TensorProto.FLOAT, None)]
    )
    attributes: dict[str, Any] = {
        "f": 0.1, "i": -(1 << 60), "s": "Größe", "raw": b"\xff\x00", "fs": [0.5, -1.5], "is_": [1, -2],
        "ss": ["a", ""], "t": tensor, "g": body, "ts": [tensor, tensor], "gs": [body, body],
        "tp": helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2]),
    }  # fmt: skip
    node = helper.make_node("Anything", ["x"], ["y"], "odd", domain="of.others", **attributes)
    node.attribute.add(name="none", type=onnx.AttributeProto.INTS)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "net", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("of.others", 5)], ir_version=8,
    )  # fmt: skip
    graph, exported, _ = round_trip(model)
    assert only(graph, "Anything").operands == (graph.inputs[0], graph.inputs[0])  # also captured
    after = {a.name: a for a in exported.graph.node[0].attribute}
    assert after == {a.name: a for a in node.attribute}
    assert {o.domain: o.version for o in exported.opset_import} == {"": 17, "of.others": 5}
    assert (exported.graph.node[0].name, exported.graph.node[0].domain) == ("odd", "of.others")


def test_a_custom_op_is_typed_by_the_models_value_info() -> None:
    body = "{ a = Relu(x) b, n = of.others.Magic <k = 3> (a) y = Neg(b) }"
    model = net(body, outputs="float[4] y, int64 n", others=', "of.others" : 2')
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]))
    graph, exported, _ = round_trip(model)
    assert typed(graph) == ["tensor<4xf32>", "tensor<i64>"]
    assert [n.domain for n in exported.graph.node] == ["", "of.others", ""]
    model = net(body, outputs="float[4] y, int64 n", others=', "of.others" : 2')
    with pytest.raises(UnsupportedError, match=r"node 'Magic_0' \(Magic\): the type of 'b' is not known.*value_info"):
        import_model(model)


def test_a_custom_op_of_unknown_rank_is_carried_through() -> None:
    model = net("{ a = of.others.Magic(x) y = Relu(a) }", outputs="float[N] y", others=', "of.others" : 1')
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    graph, exported, _ = round_trip(model)
    assert [type(op.kind) for op in graph.ops] == [Node, Node]  # what Relu does to an unknown rank is not ours to say
    assert [n.op_type for n in exported.graph.node] == ["Magic", "Relu"]


def test_an_op_of_an_unimported_domain_is_carried_as_version_one() -> None:
    model = net("{ y = of.others.Magic(x) }")
    _, exported, _ = round_trip(model)
    assert {o.domain: o.version for o in exported.opset_import} == {"": 17, "of.others": 1}


def test_an_op_like_ours_in_another_domain_is_not_ours() -> None:
    model = net("{ y = of.others.Relu(x) }", others=', "of.others" : 1')
    graph, exported, _ = round_trip(model)
    assert only(graph, "Relu").kind.op_name == "onnx.node"
    assert exported.graph.node[0].domain == "of.others"


def test_ops_of_the_runtimes_own_domain_run() -> None:
    model = net("{ a = com.microsoft.Gelu(x) y = Relu(a) }", others=', "com.microsoft" : 1')
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 3]))
    round_trip(model, {"x": X})


@pytest.mark.parametrize(
    ("body", "inputs", "outputs", "feeds"),
    [
        ("{ y = StringNormalizer <is_case_sensitive = 1, stopwords = [\"ab\"]> (x) }", "string[2] x", "string[1] y",
         {"x": np.array(["ab", "ü"], object)}),
        ("{ y = Not(x) }", "bool[2] x", "bool[2] y", {"x": np.array([True, False])}),
        ("{ y = BitShift <direction = \"LEFT\"> (x, x) }", "uint64[2] x", "uint64[2] y",
         {"x": np.array([1, 3], np.uint64)}),
        ("{ y = Shape(x) }", "float[2,0,3] x", "int64[3] y", {"x": np.zeros((2, 0, 3), np.float32)}),
        ("{ y = NonZero(x) }", "float[2,3] x", "int64[2,K] y", {"x": X}),
        ("{ y = Where(c, x, x2) }", "float[2,3] x, bool[3] c, float x2", "float[2,3] y",
         {"x": X, "c": np.array([True, False, True]), "x2": np.array(7, np.float32)}),
        ("{ y = Einsum <equation = \"ij,kj->ik\"> (x, x) }", "float[2,3] x", "float[2,2] y", {"x": X}),
        ("{ y = Unique <axis = 0> (x) }", "float[2,3] x", "float[K,3] y", {"x": X}),
        ("{ y = Mod <fmod = 1> (x, x2) }", "float[2,3] x, float[1] x2", "float[2,3] y",
         {"x": X, "x2": np.float32([2])}),
        ("{ y = Add(x, x) }", "int32[3] x", "int32[3] y", {"x": np.int32([1, 2, -(1 << 31)])}),
        ("{ y = MatMul(x, x) }", "int64[2,2] x", "int64[2,2] y", {"x": np.array([[1, 1 << 40], [0, 3]])}),
        ("{ y = Relu(x) }", "int8[3] x", "int8[3] y", {"x": np.int8([1, -2, 0])}),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("{") else "",
)  # fmt: skip
def test_every_element_type_is_carried(body: str, inputs: str, outputs: str, feeds: dict[str, np.ndarray]) -> None:
    if "Relu" in body:  # opset 14 allows integers, ONNX Runtime has the kernel
        assert onnx.defs.get_schema("Relu", 17).since_version == 14
    round_trip(net(body, inputs=inputs, outputs=outputs), feeds)


def test_random_and_stateful_ops_are_kept_as_they_are() -> None:
    model = net("{ r = RandomUniformLike <seed = 1.0> (x) s = RandomUniformLike <seed = 1.0> (x) y = Sub(r, s) }")
    graph, exported, _ = round_trip(model)
    assert sum(isinstance(op.kind, Node) for op in graph.ops) >= 2
    assert sum(n.op_type == "RandomUniformLike" for n in exported.graph.node) == 2


def test_dead_nodes_go_and_their_neighbours_stay() -> None:
    _, exported, _ = round_trip(net("{ dead = Erf(x) y, unused = TopK(x, k) }", weights="int64[1] k = {3}"), {"x": X})
    assert [n.op_type for n in exported.graph.node] == ["TopK"]


def test_carried_nodes_survive_the_text_form() -> None:
    model = net("{ a, n = TopK <largest = 0> (x, k) y = Erf(a) }", outputs="int64[2,2] n, float[2,2] y",
                weights="int64[1] k = {2}")  # fmt: skip
    graph, exported, _ = round_trip(model, {"x": X})
    again = parse_graph(print_graph(graph))
    assert export_model(again).SerializeToString() == exported.SerializeToString()


def test_a_carried_node_runs_alone() -> None:
    model = net("{ y, n = TopK(x, k) }", outputs="float[2,2] y, int64[2,2] n", weights="int64[1] k = {2}")
    kernel = CARRIED[Node](only(import_model(model), "TopK"), [None, np.array([2])])
    values, places = kernel(X, None)
    expected = run_model(model, {"x": X})
    np.testing.assert_array_equal(values, expected["y"])
    np.testing.assert_array_equal(places, expected["n"])


def test_an_op_the_runtime_does_not_know_cannot_run() -> None:
    graph = import_model(net("{ y = of.others.Magic(x) }", others=', "of.others" : 1'))
    with pytest.raises(UnsupportedError, match=r"does not know the op of\.others:Magic"):
        CARRIED[Node](only(graph, "Magic"), [None])


@pytest.mark.parametrize("domain", ["onnx.brevitas", "qonnx.custom_op.general", "finn.custom_op.general"])
def test_quantizers_of_qonnx_keep_the_type(domain: str) -> None:
    """No runtime here knows them, and no schema; a training framework's file still comes and goes as it is."""
    model = net(
        f"{{ q = {domain}.Quant <narrow = 0, signed = 1> (x, s, z, b) y = Relu(q) }}",
        weights="float s = {0.5}, float z = {0.0}, float b = {4.0}", others=f', "{domain}" : 1',
    )  # fmt: skip
    graph = import_model(model)
    assert typed(graph) == ["tensor<2x3xf32>"]
    exported = export_model(graph)
    assert [(n.domain, n.op_type) for n in exported.graph.node] == [(domain, "Quant"), ("", "Relu")]
    assert print_graph(import_model(exported)) == print_graph(graph)
