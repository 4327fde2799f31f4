"""Order, names, interface, domains and local functions: what a graph keeps of its file."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from amctc.errors import AmctcError, InputError, LimitError, UnsupportedError
from amctc.ir import Constant, Graph
from amctc.onnx_bridge import FloatSession, export_model, functions, import_model, propagation
from amctc.ops import nn
from amctc.parser import parse_graph
from amctc.pipeline import Context, Pipeline
from amctc.text import print_graph
from tests.unit.onnx_bridge.round_trips import round_trip

X = np.array([[1.0, -2.0, 3.0], [-0.0, 5.5, -6.25]], np.float32)


def net(body: str, *, inputs: str = "float[2,3] x", outputs: str = "float[2,3] y", opset: int = 17) -> onnx.ModelProto:
    """A model written in ONNX's text form."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {body}')


def node_names(graph: Graph) -> dict[str, str]:
    """Names of the nodes by the value each computes."""
    return {str(op.results[0].name): op.origins[0].name for op in graph.ops if not isinstance(op.kind, Constant)}


# ------------------------------------------------------------------------------------------------------- order


def test_nodes_may_come_in_any_order() -> None:
    model = net("{ a = Relu(x) b = Neg(a) c = Abs(b) y = Sub(c, a) }")
    expected = round_trip(model, {"x": X})[2]["y"]
    text = print_graph(import_model(model))
    del model.graph.node[:]
    model.graph.node.extend(reversed(net("{ a = Relu(x) b = Neg(a) c = Abs(b) y = Sub(c, a) }").graph.node))
    graph = import_model(model)
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert [n.op_type for n in exported.graph.node] == ["Relu", "Neg", "Abs", "Sub"]
    assert print_graph(graph) == text
    np.testing.assert_array_equal(round_trip(exported, {"x": X})[2]["y"], expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ [first] y = Add(x, b) [second] b = Relu(y) }", r"node 'first' \(Add\): the graph has a cycle"),
        ("{ [loop] y = Add(x, y) }", r"node 'loop' \(Add\): the graph has a cycle"),
        ("{ a = Relu(x) [loop] b = Add(a, b) [after] y = Relu(b) }", r"node 'loop' \(Add\): the graph has a cycle"),
        ("{ [n] y = Add(x, missing) }", r"node 'n' \(Add\): 'missing' is never computed"),
        ("{ [n] y = Relu(x) [again] y = Neg(x) }", r"node 'again': value 'y' is computed twice"),
        ("{ [n] y, y = Split(x) }", "node 'n': value 'y' is computed twice"),
        ("{ [n] x = Relu(x) [m] y = Relu(x) }", "node 'n': value 'x' is computed twice"),
        ("{ [n] z = Relu(x) }", "output 'y' is never computed"),
    ],
)
def test_what_cannot_be_computed_is_named(body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_model(net(body))


def test_a_cycle_through_a_body_is_found() -> None:
    """The body of the If reads what the If computes."""
    with pytest.raises(InputError, match=r"node 'choose' \(If\): the graph has a cycle"):
        import_model(
            net(
                """{ [choose] a = If <then_branch = t () => (float[2,3] ta) { ta = Neg(y) },
            else_branch = e () => (float[2,3] ea) { ea = Relu(x) }> (c)  y = Relu(a) }""",
                inputs="float[2,3] x, bool c",
            )
        )


def test_two_outputs_cannot_have_one_name() -> None:
    with pytest.raises(AmctcError, match="one name"):
        import_model(net("{ y = Relu(x) }", outputs="float[2,3] y, float[2,3] y"))


def test_a_long_chain_needs_no_stack() -> None:
    nodes = [helper.make_node("Neg", [f"v{k}"], [f"v{k + 1}"]) for k in range(3000)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("v0", "v3000")]
    proto = helper.make_graph(nodes[::-1], "chain", ends[:1], ends[1:])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    exported = export_model(import_model(model))
    assert [n.input[0] for n in exported.graph.node] == [f"v{k}" for k in range(3000)]
    assert [n.name for n in exported.graph.node][:2] == ["Neg_2999", "Neg_2998"]


# ------------------------------------------------------------------------------------------------------- names


def test_unnamed_nodes_are_counted_by_op_type_in_file_order() -> None:
    graph = import_model(
        net("{ a = Relu(x) b = Neg(a) c = Relu(b) [own] d = Relu(x) e = Relu(x) f = Sum(c, d) y = Sub(e, f) }")
    )
    assert node_names(graph) == {
        "a": "Relu_0", "b": "Neg_0", "c": "Relu_1", "d": "own", "e": "Relu_3", "f": "Sum_0", "y": "Sub_0",
    }  # fmt: skip


def test_file_order_counts_even_if_the_file_is_not_sorted() -> None:
    graph = import_model(net("{ y = Relu(b) b = Relu(a) a = Relu(x) }"))
    assert node_names(graph) == {"y": "Relu_0", "b": "Relu_1", "a": "Relu_2"}


def test_repeated_node_names_are_told_apart_in_the_export() -> None:
    model = net('{ [n] a = Relu(x) [n] b = Neg(a) [n] c = Relu(b) ["n_1"] d = Neg(c) y = Abs(d) }')
    exported = export_model(import_model(model))
    onnx.checker.check_model(exported, full_check=True)
    names = [n.name for n in exported.graph.node]
    assert names[0] == "n"
    assert len(set(names)) == 5


def test_an_unnamed_node_may_clash_with_a_named_one() -> None:
    exported = export_model(import_model(net('{ a = Relu(x) ["Relu_0"] y = Relu(a) }')))
    assert len({n.name for n in exported.graph.node}) == 2


@pytest.mark.parametrize(
    "name",
    ["a b", "a/b:0", "名前", "é́", "a.b-c", "\U0001f600", "x" * 3000, "a\nb", "\t", '"', "\\", "1", "%0", "None", "\0"],
)
def test_odd_names_survive(name: str) -> None:
    x = helper.make_tensor_value_info(f"{name}in", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info(f"{name}out", TensorProto.FLOAT, [2, 3])
    nodes = [
        helper.make_node("Erf", [x.name], [name], f"{name}n"),
        helper.make_node("Neg", [name], [y.name], f"{name}m"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    _, exported, _ = round_trip(model, *([] if "\0" in name else [{x.name: X}]))
    assert [exported.graph.input[0].name, exported.graph.output[0].name] == [x.name, y.name]
    assert [n.name for n in exported.graph.node] == [f"{name}n", f"{name}m"]
    assert exported.graph.node[0].output[0] == name


def test_odd_names_of_captured_values_survive() -> None:
    names = ["a\nb", "a", "b", "captured", "domain:x"]
    data = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    choice = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    bodies = {}
    for branch in ("then_branch", "else_branch"):
        inner = helper.make_tensor_value_info(f"o/{branch}", TensorProto.FLOAT, [2, 3])
        order = names if branch == "then_branch" else names[::-1]
        bodies[branch] = helper.make_graph([helper.make_node("Sum", order, [inner.name])], branch, [], [inner])
    nodes = [helper.make_node("Relu", ["x"], [n]) for n in names] + [helper.make_node("If", ["c"], ["y"], **bodies)]
    model = helper.make_model(
        helper.make_graph(nodes, "net", [data, choice], [out]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    round_trip(model, {"x": X, "c": np.array(True)}, {"x": X, "c": np.array(False)})


# --------------------------------------------------------------------------------------------------- interface


def test_a_graph_input_can_be_an_output_under_its_own_name() -> None:
    graph, exported, outputs = round_trip(net("{ y = Relu(x) }", outputs="float[2,3] x, float[2,3] y"), {"x": X})
    assert graph.outputs[0] is graph.inputs[0]
    assert [n.op_type for n in exported.graph.node] == ["Relu"]
    assert outputs["x"].tobytes() == X.tobytes()


def test_an_input_passed_through_gets_its_output_name() -> None:
    graph, exported, outputs = round_trip(net("{ y = Identity(x) }"), {"x": X})
    assert [o.name for o in exported.graph.output] == ["y"]
    assert outputs["y"].tobytes() == X.tobytes()
    # Also after the Identity was simplified away:
    bare = Graph(graph.inputs, graph.inputs, graph.output_names, graph.name)
    assert [(n.op_type, n.input[0], n.output[0]) for n in export_model(bare).graph.node] == [("Identity", "x", "y")]


def test_one_value_can_be_several_outputs() -> None:
    graph = import_model(net("{ y = Relu(x) }"))
    twice = graph.with_outputs((graph.outputs[0], graph.outputs[0], graph.inputs[0]), ("y", "again", "same"))
    exported = export_model(twice)
    onnx.checker.check_model(exported, full_check=True)
    assert [o.name for o in exported.graph.output] == ["y", "again", "same"]
    back = import_model(exported)
    assert back.output_names == ("y", "again", "same")


def test_metadata_graph_name_and_symbols_are_kept() -> None:
    model = net("{ a = Transpose <perm = [1, 0]> (x) y = Tile(a, r) }", inputs="float[batch,width] x, int64[2] r",
                outputs="float[width_out, batch_out] y")  # fmt: skip
    model.graph.name = "名 net"
    helper.set_model_props(model, {"b": "2", "a": "ä", "amctc.empty": ""})
    graph, exported, _ = round_trip(model, {"x": X, "r": np.array([2, 1])})
    assert graph.metadata == (("a", "ä"), ("amctc.empty", ""), ("b", "2"))
    assert {p.key: p.value for p in exported.metadata_props} == {"a": "ä", "amctc.empty": "", "b": "2"}
    assert exported.graph.name == "名 net"
    assert [d.dim_param for d in exported.graph.input[0].type.tensor_type.shape.dim] == ["batch", "width"]
    assert [d.dim_param for d in exported.graph.output[0].type.tensor_type.shape.dim] == ["width_out", "batch_out"]


def test_symbols_reach_the_outputs_without_declarations() -> None:
    model = net("{ a = Erf(x) y = Relu(a) }", inputs="float[N,3] x", outputs="float y")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph, exported, _ = round_trip(model, {"x": X})
    assert graph.outputs[0].type.dims == ("N", 3)
    assert exported.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_symbols_that_onnx_made_up_are_unknown_dimensions() -> None:
    graph = import_model(net("{ y = NonZero(x) }", outputs="int64[2,K] y"))
    assert graph.outputs[0].type.dims == (2, "K")
    graph = import_model(net("{ a = NonZero(x) y = Neg(a) }", outputs="int64[2,K] y"))
    inner = graph.outputs[0].producer
    assert inner is not None
    assert inner.operands[0] is not None
    assert inner.operands[0].type.dims == (2, None)


def test_sizes_of_outputs_that_are_declared_but_not_inferred_are_kept() -> None:
    body = "<float[2,1,1,1] w = {1, 2}> { y = Conv<strides = [2,2]>(x, w) }"
    model = net(body, inputs="float[N,1,H,W] x", outputs="float[N,2,OH,OW] y")
    graph = import_model(model)
    assert graph.outputs[0].type.shape == ("N", 2, None, None)
    assert graph.output_type(0).shape == ("N", 2, "OH", "OW")
    assert parse_graph(print_graph(graph)).output_type(0) == graph.output_type(0)
    renamed = graph.with_outputs(graph.outputs, ("z",))
    assert renamed.output_type(0).shape == ("N", 2, None, None)
    exported = export_model(graph).graph.output[0]
    assert [d.dim_param for d in exported.type.tensor_type.shape.dim] == ["N", "", "OH", "OW"]
    assert print_graph(import_model(export_model(graph))) == print_graph(graph)


def test_what_a_file_declares_wrongly_is_not_kept() -> None:
    graph = import_model(net("{ y = Relu(x) }", inputs="float[N,3] x", outputs="float[N,4] y"))
    assert graph.declared == ()
    assert graph.output_type(0).shape == ("N", 3)


def test_an_input_without_a_type_is_refused() -> None:
    model = net("{ y = Relu(x) }")
    model.graph.input[0].ClearField("type")
    with pytest.raises(InputError, match="'x'"):
        import_model(model)


def test_a_network_between_transposes() -> None:
    """What tf2onnx writes for channels-last models: each layer between two transposes, which cancel out."""
    layer = "a{0} = Transpose<perm = [0,3,1,2]>({1}) c{0} = Conv(a{0}, w) t{0} = Transpose<perm = [0,2,3,1]>(c{0}) "
    body = "<float[2,2,1,1] w = {1, -2, 3, 4}> { " + layer.format(0, "x") + layer.format(1, "t0") + "y = Relu(t1) }"
    model = net(body, inputs="float[N,3,4,2] x", outputs="float[N,3,4,2] y")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    graph, _, outputs = round_trip(model, {"x": x})
    merged = Pipeline.parse("merge-transposes,drop-identity").run(graph, Context()).graph
    assert [sum(isinstance(op.kind, nn.Transpose) for op in g.ops) for g in (graph, merged)] == [4, 2]
    np.testing.assert_array_equal(FloatSession(merged).run({"x": x})["y"], outputs["y"])


# ------------------------------------------------------------------------------------------- domains and opsets


@pytest.mark.parametrize("everywhere", [True, False])
def test_the_default_domain_may_be_spelled_out(everywhere: bool) -> None:
    """``ai.onnx`` and the empty domain are the same, in nodes, bodies and opset imports, and may be mixed."""
    body = """{ a = Relu(x) k = Constant <value_float = 2.0> () b = Erf(a)
        y = If <then_branch = t () => (float[2,3] ta) { ta = Mul(b, k) },
                else_branch = e () => (float[2,3] ea) { ea = Neg(b) }> (c) }"""
    model = net(body, inputs="float[2,3] x, bool c")
    plain, exported, _ = round_trip(model, *({"x": X, "c": np.array(c)} for c in (True, False)))
    branches = [a.g for a in model.graph.node[3].attribute]
    nodes = [*model.graph.node, *(n for g in branches for n in g.node)]
    for node in nodes if everywhere else nodes[1::2]:
        node.domain = "ai.onnx"
    assert print_graph(import_model(model)) == print_graph(plain)
    assert export_model(import_model(model)).SerializeToString() == exported.SerializeToString()
    model.opset_import[0].domain = "ai.onnx"
    assert print_graph(import_model(model)) == print_graph(plain)


@pytest.mark.parametrize(
    ("opset", "error", "message"), [(0, InputError, "no opset version"), (999, UnsupportedError, "newer than")]
)
def test_opsets_nobody_knows_are_refused(opset: int, error: type[AmctcError], message: str) -> None:
    model = net("{ y = Relu(x) }")
    model.opset_import[0].version = opset
    with pytest.raises(error, match=message):
        import_model(model)


def test_a_model_without_a_graph_is_refused() -> None:
    with pytest.raises(InputError, match="no graph"):
        import_model(onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]))


# -------------------------------------------------------------------------------------------------- functions


FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
net (float[2,3] x) => (float[2,3] y) { a = local.leaky <slope = 0.25> (x) y = local.twice(a) }
<opset_import: ["" : 17], domain: "local"> leaky <slope> (v) => (w) { w = LeakyRelu <alpha: float = @slope> (v) }
<opset_import: ["" : 17, "local" : 1], domain: "local"> twice (v) => (w) {
    t = local.leaky <slope = 0.5> (v)  w = Add(t, t) }
"""


def test_local_functions_are_inlined() -> None:
    _, exported, outputs = round_trip(parser.parse_model(FUNCTIONS), {"x": X})
    assert not exported.functions
    assert [n.op_type for n in exported.graph.node] == ["LeakyRelu", "LeakyRelu", "Add"]
    leaky = np.where(X < 0, X * np.float32(0.25), X)
    np.testing.assert_array_equal(outputs["y"], 2 * np.where(leaky < 0, leaky * np.float32(0.5), leaky))


def test_a_function_in_a_body_is_inlined() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        net (float[2,3] x, bool c) => (float[2,3] y) {
            y = If <then_branch = t () => (float[2,3] ta) { ta = local.f(x) },
                    else_branch = e () => (float[2,3] ea) { ea = Neg(x) }> (c) }
        <opset_import: ["" : 17], domain: "local"> f (v) => (w) { t = Relu(v) w = Add(t, v) }""")
    graph, exported, _ = round_trip(model, {"x": X, "c": np.array(True)}, {"x": X, "c": np.array(False)})
    assert len(graph.ops) == 1
    assert [o.domain for o in exported.opset_import] == [""]


def test_a_function_of_an_older_opset_is_converted() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        net (float[2,3] x) => (float[2] y) { y = local.f(x) }
        <opset_import: ["" : 11], domain: "local"> f (v) => (w) { w = ReduceSum <axes = [1], keepdims = 0> (v) }""")
    exported = export_model(import_model(model))
    onnx.checker.check_model(exported, full_check=True)
    _, _, outputs = round_trip(exported, {"x": X})
    np.testing.assert_array_equal(outputs["y"], X.sum(1))


def test_a_function_of_a_newer_opset_is_refused() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 13, "local" : 1]>
        net (float[2,3] x) => (float[2,3] y) { y = local.f(x) }
        <opset_import: ["" : 17], domain: "local"> f (v) => (w) { w = Relu(v) }""")
    with pytest.raises(UnsupportedError, match="one opset"):
        import_model(model)


def nested_functions(levels: int, calls: int) -> onnx.ModelProto:
    """Functions that call the next one ``calls`` times each."""
    text = [
        f"""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        net (float[2,3] x) => (float[2,3] y) {{ y = local.f{levels - 1}(x) }}"""
    ]
    for level in range(levels):
        op = f"local.f{level - 1}" if level else "Neg"
        steps = " ".join(f"t{k + 1} = {op}(t{k})" for k in range(calls))
        text.append(
            f'<opset_import: ["" : 17, "local" : 1], domain: "local"> f{level} (t0) => (t{calls}) {{ {steps} }}'
        )
    return parser.parse_model("\n".join(text))


def test_calls_are_counted_before_they_are_inlined(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitError, match=f"{10**12} nodes"):
        import_model(nested_functions(12, 10))
    assert len(import_model(nested_functions(2, 10)).ops) == 100
    monkeypatch.setattr(functions, "EXPANSION_LIMIT", 99)
    with pytest.raises(LimitError, match="100 nodes"):
        import_model(nested_functions(2, 10))


@pytest.mark.parametrize("callees", [("f",), ("g", "f"), ("g", "h", "f")])
def test_functions_that_call_themselves_are_refused(callees: tuple[str, ...]) -> None:
    names = ("f", *callees)
    text = [
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> net (float[2,3] x) => (float[2,3] y) { y = local.f(x) }'
    ]
    text += [f'<opset_import: ["" : 17, "local" : 1], domain: "local"> {a} (v) => (w) {{ w = local.{b}(v) }}'
             for a, b in pairwise(names)]  # fmt: skip
    with pytest.raises(InputError, match="calls itself"):
        import_model(parser.parse_model("\n".join(text)))


# ------------------------------------------------------------------------------------- contents of shapes


def doubled_shape(times: int) -> onnx.ModelProto:
    steps = " ".join(f"s{k + 1} = Concat <axis = 0> (s{k}, s{k})" for k in range(times))
    return net(f"{{ s0 = Shape(x) {steps} y = Identity(s{times}) }}", outputs="int64[K] y")


def test_a_shape_that_doubles_forty_times_costs_nothing() -> None:
    assert import_model(doubled_shape(40)).outputs[0].type.dims == (2 << 40,)


def test_a_shape_that_doubles_in_a_body_costs_nothing() -> None:
    then, other = doubled_shape(40), doubled_shape(40)
    for side, model in (("t", then), ("e", other)):
        for node in model.graph.node:
            node.input[:] = [n if n == "x" else f"{side}{n}" for n in node.input]
            node.output[:] = [f"{side}{n}" for n in node.output]
        model.graph.output[0].name = f"{side}y"
        model.graph.ClearField("input")
    model = net("{ y = Identity(x) }", inputs="float[2,3] x, bool c", outputs="int64[K] y")
    model.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], then_branch=then.graph, else_branch=other.graph))
    assert import_model(model).outputs[0].type.dims == (2 << 40,)


def test_computed_shapes_are_still_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net("{ s = Shape(x) q = Concat <axis = 0> (s, s) y = Expand(z, q) }", inputs="float[2,3] x, float[1] z",
                outputs="float[a,b,c,d] y")  # fmt: skip
    assert import_model(model).outputs[0].type.dims == (2, 3, 2, 3)
    monkeypatch.setattr(propagation, "CARRIED_ELEMENTS", 8)
    assert import_model(model).outputs[0].type.dims == ("a", "b", "c", "d")
