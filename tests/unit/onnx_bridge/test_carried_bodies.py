"""Nodes with bodies (If, Loop, Scan): captured values follow their producers, names never collide."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from amctc.errors import UnsupportedError
from amctc.ir import Graph, GraphInput, Op, Value, apply, build, with_operands
from amctc.onnx_bridge import CARRIED, export_model, import_model
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.types import F16, F32, TensorType
from tests.unit.onnx_bridge.round_trips import round_trip, run_model

X = np.array([[1.0, -2.0, 3.0], [-0.0, 5.5, -6.25]], np.float32)
TRUE, FALSE = np.array(True), np.array(False)
CHOICES = [{"x": X, "c": c} for c in (TRUE, FALSE)]


def net(
    body: str,
    *,
    inputs: str = "float[2,3] x, bool c",
    outputs: str = "float[2,3] y",
    opset: int = 17,
    weights: str = "",
) -> onnx.ModelProto:
    """A model written in ONNX's text form."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs})'
    return parser.parse_model(f"{head} {f'<{weights}>' if weights else ''} {body}")


def carried(graph: Graph, op_type: str) -> list[Op]:
    return [op for op in graph.ops if isinstance(op.kind, Node) and op.kind.op_type == op_type]


def captured(graph: Graph, op_type: str, own: int) -> list[str | None]:
    """Names of the values that the only ``op_type`` node captures, after its ``own`` operands."""
    (op,) = carried(graph, op_type)
    return [None if o is None else o.name for o in op.operands[own:]]


def test_an_if_captures_inputs_initializers_and_computed_values() -> None:
    model = net(
        """{ a = Relu(x)
        y = If <then_branch = t () => (float[2,3] ta) { p = Mul(a, w) ta = Add(p, x) },
                else_branch = e () => (float[2,3] ea) { ea = Sub(w, a) }> (c) }""",
        weights="float[3] w = {1, 2, 3}",
    )
    graph, exported, outputs = round_trip(model, *CHOICES)
    assert sorted(map(str, captured(graph, "If", 1))) == ["a", "w", "x"]
    assert [t.name for t in exported.graph.initializer] == ["w"]
    np.testing.assert_array_equal(outputs["y"], np.float32([1, 2, 3]) - np.maximum(X, 0))


def test_a_body_may_return_what_it_captures() -> None:
    model = net(
        """{ a = Relu(x) b = Neg(x)
        y, z = If <then_branch = t () => (float[2,3] a, float[2,3] b) {},
                   else_branch = e () => (float[2,3] b, float[2,3] x) {}> (c) }""",
        outputs="float[2,3] y, float[2,3] z",
    )
    graph = import_model(model)
    assert sorted(map(str, captured(graph, "If", 1))) == ["a", "b", "x"]
    exported = export_model(graph)
    branches = {a.name: [o.name for o in a.g.output] for a in exported.graph.node[-1].attribute}
    assert branches == {"then_branch": ["a", "b"], "else_branch": ["b", "x"]}


def test_nested_bodies_capture_through_each_other() -> None:
    model = net("""{ a = Relu(x)
        y = If <then_branch = t () => (float[2,3] ta) {
                  m = Mul(a, a)
                  ta = If <then_branch = tt () => (float[2,3] tta) { tta = Add(m, x) },
                           else_branch = te () => (float[2,3] tea) { n = Neg(m) tea = Mul(n, w) }> (d) },
                else_branch = e () => (float[2,3] ea) {
                  ea = If <then_branch = et () => (float[2,3] eta) { eta = Abs(a) },
                           else_branch = ee () => (float[2,3] eea) { eea = Sub(x, w) }> (d) }> (c) }""",
        inputs="float[2,3] x, bool c, bool d", weights="float[3] w = {1, 2, 3}")  # fmt: skip
    feeds = [{"x": X, "c": c, "d": d} for c in (TRUE, FALSE) for d in (TRUE, FALSE)]
    graph, _, _ = round_trip(model, *feeds)
    assert sorted(map(str, captured(graph, "If", 1))) == ["a", "d", "w", "x"]


def test_two_nodes_capture_one_value() -> None:
    model = net("""{ a = Relu(x)
        p = If <then_branch = t () => (float[2,3] ta) { ta = Neg(a) },
                else_branch = e () => (float[2,3] ea) { ea = Abs(a) }> (c)
        q = If <then_branch = t () => (float[2,3] tb) { tb = Erf(a) },
                else_branch = e () => (float[2,3] eb) { eb = Sub(a, x) }> (c)
        y = Add(p, q) }""")
    graph, _, _ = round_trip(model, *CHOICES)
    first, second = carried(graph, "If")
    assert first.operands[1] is second.operands[1]


def test_bodies_of_siblings_may_use_the_same_names() -> None:
    model = net("""{
        p = If <then_branch = t () => (float[2,3] r) { s = Neg(x) r = Abs(s) },
                else_branch = e () => (float[2,3] r) { s = Abs(x) r = Neg(s) }> (c)
        y = If <then_branch = t () => (float[2,3] r) { s = Erf(p) r = Abs(s) },
                else_branch = e () => (float[2,3] r) { s = Abs(p) r = Erf(s) }> (c) }""")
    round_trip(model, *CHOICES)


def test_new_outer_names_avoid_those_inside_bodies() -> None:
    """A value whose name hint is used inside a body gets another name, or the body would read the wrong one."""
    body = """{ a = Relu(x)
        y = If <then_branch = t () => (float[2,3] ta) { inner = Neg(a) ta = Sub(inner, a) },
                else_branch = e () => (float[2,3] ea) { ea = Abs(a) }> (c) }"""
    model = net(body)
    graph, _, _ = round_trip(model, *CHOICES)
    (choose,) = carried(graph, "If")
    for hint in ("inner", "ta", "ea", "x", "y", None):
        relu = apply(nn.Relu(), graph.inputs[0], name=hint)
        rewired = with_operands(choose, (choose.operands[0], relu))
        exported = export_model(Graph(graph.inputs, rewired.results, ("y",)))
        onnx.checker.check_model(exported, full_check=True)
        for feed in CHOICES:
            np.testing.assert_array_equal(run_model(exported, feed)["y"], run_model(model, feed)["y"])


def test_a_captured_value_can_be_replaced_by_an_input_or_a_constant() -> None:
    model = net("""{ a = Relu(x)
        y = If <then_branch = t () => (float[2,3] ta) { ta = Neg(a) },
                else_branch = e () => (float[2,3] ea) { ea = Abs(a) }> (c) }""")
    graph = import_model(model)
    (choose,) = carried(graph, "If")
    direct = with_operands(choose, (choose.operands[0], graph.inputs[0]))
    exported = export_model(Graph(graph.inputs, direct.results, ("y",)))
    for feed in CHOICES:
        expected = -X if feed["c"] else np.abs(X)
        np.testing.assert_array_equal(run_model(exported, feed)["y"], expected)


def test_a_captured_value_is_alive_only_through_the_body() -> None:
    """Nothing but the body reads ``deep``: it and all it rests on must stay."""
    model = net("""{ a = Relu(x) b = Mul(a, a) deep = Add(b, x)
        y = If <then_branch = t () => (float[2,3] ta) { ta = Neg(deep) },
                else_branch = e () => (float[2,3] ea) { ea = Abs(deep) }> (c) }""")
    graph, _, _ = round_trip(model, *CHOICES)
    assert len(graph.ops) == 4


LOOP = """{ one = Constant <value_int = 1> () big = Mul(x, x)
    last, all = Loop <body = b (int64 i, bool go, float[2,3] v) => (bool on, float[2,3] w, float[2,3] s) {
        on = Identity(go) w = Add(v, big) s = Mul(w, k) }> (n, c, x)
    y = Add(last, x) }"""


def test_a_loop_carries_state_and_stacks_results() -> None:
    model = net(LOOP, inputs="float[2,3] x, int64 n, bool c", outputs="float[2,3] y, float[trips,2,3] all",
                weights="float k = {2}")  # fmt: skip
    feeds = [{"x": X, "n": np.array(n), "c": c} for n in (0, 1, 3) for c in (TRUE, FALSE)]
    graph, exported, _ = round_trip(model, *feeds)
    assert captured(graph, "Loop", 3) == ["big", "k"]
    assert graph.outputs[1].type.dims == ("trips", 2, 3)
    shape = exported.graph.output[1].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["trips", 2, 3]


@pytest.mark.parametrize("given", ["n, c", ', c"', "n,"])
def test_a_loop_without_a_count_or_a_condition(given: str) -> None:
    model = net("""{ y = Loop <body = b (int64 i, bool go, float[2,3] v) => (bool on, float[2,3] w) {
        w = Add(v, v) t = ReduceMax <keepdims = 0> (w) on = Less(t, limit) }> (n, c, x) }""",
        inputs="float[2,3] x, int64 n, bool c", weights="float limit = {100}")  # fmt: skip
    loop = model.graph.node[0]
    loop.input[0] = "n" if "n" in given else ""
    loop.input[1] = "c" if "c" in given else ""
    graph, exported, _ = round_trip(model, {"x": X, "n": np.array(3), "c": TRUE})
    (op,) = carried(graph, "Loop")
    assert [o is None for o in op.operands] == ["n" not in given, "c" not in given, False, False]
    assert [bool(n) for n in exported.graph.node[-1].input] == ["n" in given, "c" in given, True]


def test_a_scan_with_state_and_a_captured_weight() -> None:
    model = net("""{ zero = Constant <value_floats = [0.0, 0.0, 0.0]> ()
        y, sums = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] row) => (float[3] t, float[3] u) {
            r = Mul(row, w) t = Add(s, r) u = Identity(t) }> (zero, x) }""",
        inputs="float[2,3] x", outputs="float[3] y, float[2,3] sums", weights="float[3] w = {1, 2, 3}",
    )  # fmt: skip
    graph, _, outputs = round_trip(model, {"x": X})
    assert captured(graph, "Scan", 2) == ["w"]
    np.testing.assert_array_equal(outputs["sums"], np.cumsum(X * np.float32([1, 2, 3]), 0, dtype=np.float32))


def test_a_loop_in_an_if_in_a_scan() -> None:
    model = net("""{ y = Scan <num_scan_inputs = 1, body = s (float[3] row) => (float[3] out) {
            out = If <then_branch = t () => (float[3] ta) {
                    ta = Loop <body = b (int64 i, bool go, float[3] v) => (bool on, float[3] v2) {
                        on = Identity(go) r2 = Add(row, w) v2 = Mul(v, r2) }> (n, c, row) },
                      else_branch = e () => (float[3] ea) { ea = Neg(row) }> (c) }> (x) }""",
        inputs="float[2,3] x, bool c, int64 n", weights="float[3] w = {1, 2, 3}")  # fmt: skip
    graph, _, _ = round_trip(model, *({**f, "n": np.array(2)} for f in CHOICES))
    assert sorted(map(str, captured(graph, "Scan", 1))) == ["c", "n", "w"]


def test_body_initializers_and_constants_stay_inside() -> None:
    model = net("""{ y = If <then_branch = t () => (float[2,3] ta) <float[3] w = {1, 2, 3}> { ta = Mul(x, w) },
        else_branch = e () => (float[2,3] ea) { w = Constant <value_float = 2.5> () ea = Mul(x, w) }> (c) }""")
    graph, exported, _ = round_trip(model, *CHOICES)
    assert captured(graph, "If", 1) == ["x"]
    assert not exported.graph.initializer


def test_an_if_may_have_several_results_and_leave_some_unused() -> None:
    body = """{{ a, {second} = If <
        then_branch = t () => (float[2,3] ta, float[1] tb) {{ ta = Neg(x) tb = Constant <value_floats = [1.0]> () }},
        else_branch = e () => (float[2,3] ea, float[1] eb) {{
            ea = Abs(x) eb = Constant <value_floats = [2.0]> () }}> (c)
        y = Relu(a) }}"""
    graph, _, _ = round_trip(net(body.format(second="b")), *CHOICES)
    assert [r.name for r in carried(graph, "If")[0].results] == ["a", "b"]
    model = net(body.format(second="b"))
    model.graph.node[0].output[1] = ""
    graph = import_model(model)
    assert [r.name for r in carried(graph, "If")[0].results] == ["a"]
    assert list(export_model(graph).graph.node[0].output) == ["a", ""]


def test_the_domains_of_ops_in_bodies_keep_their_versions() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3, "com.microsoft" : 1]>
        net (float[2,3] x, bool c) => (float[2,3] y) {
        y = If <then_branch = t () => (float[2,3] ta) { ta = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (x) },
                else_branch = e () => (float[2,3] ea) { ea = com.microsoft.Gelu(x) }> (c) }""")
    _, exported, _ = round_trip(model, *CHOICES)
    assert {o.domain: o.version for o in exported.opset_import} == {"": 17, "ai.onnx.ml": 3, "com.microsoft": 1}


# ------------------------------------------------------------------------------------------ older opsets


OLD_BODIES = {
    "If-11": (11, "float[2,3] y", """{ a = Relu(x)
        y = If <then_branch = t () => (float[2,3] ta) { ta = Softmax <axis = 0> (a) },
                else_branch = e () => (float[2,3] ea) {
                    r = ReduceSum <axes = [1]> (x) q = Squeeze <axes = [1]> (r) u = Unsqueeze <axes = [1]> (q)
                    ea = Sub(a, u) }> (c) }"""),
    "If-7": (7, "float[2,3] y", """{ y = If <then_branch = t () => (float[2,3] ta) { ta = Clip <max = 1.0> (x) },
        else_branch = e () => (float[2,3] ea) { ea = Dropout <ratio = 0.5> (x) }> (c) }"""),
    "nested-11": (11, "float[2,3] y", """{
        y = If <then_branch = t () => (float[2,3] ta) {
                  q = Unsqueeze <axes = [0]> (x)
                  ta = If <then_branch = tt () => (float[2,3] tta) { tta = Squeeze <axes = [0]> (q) },
                           else_branch = te () => (float[2,3] tea) {
                               u = Neg(q) tea = Squeeze <axes = [0]> (u) }> (c) },
                else_branch = e () => (float[2,3] ea) { ea = Abs(x) }> (c) }"""),
    "Scan-9": (9, "float[3] y", """{ zero = Constant <value = float[3] {0, 0, 0}> ()
        y = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] row) => (float[3] t) {
            m = ReduceMax <axes = [0]> (row) q = Squeeze <axes = [0]> (m) r = Mul(row, q)
            t = Add(s, r) }> (zero, x) }"""),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD_BODIES)
def test_bodies_of_older_opsets_are_upgraded(name: str) -> None:
    opset, outputs, body = OLD_BODIES[name]
    inputs = "float[2,3] x" if name == "Scan-9" else "float[2,3] x, bool c"
    feeds = [{"x": X}] if name == "Scan-9" else CHOICES
    _, exported, _ = round_trip(net(body, inputs=inputs, outputs=outputs, opset=opset), *feeds)
    assert exported.opset_import[0].version == 17


def test_a_loop_of_an_older_opset_is_upgraded() -> None:
    body = LOOP.replace("one = Constant <value_int = 1> ()", "")
    model = net(body, inputs="float[2,3] x, int64 n, bool c", outputs="float[2,3] y, float[trips,2,3] all", opset=11,
                weights="float k = {2}")  # fmt: skip
    round_trip(model, *({"x": X, "n": np.array(n), "c": TRUE} for n in (0, 3)))


@pytest.mark.parametrize("outer", ["_v_4", "_v_5", "_v_6", "_v_7", "_v_8", "y/_v_6"])
def test_names_that_the_converter_makes_up_hide_nothing(outer: str) -> None:
    """ONNX's converter calls new values ``_v_5`` and so on, which is what a model it converted before calls its own."""
    model = net(
        """{ outer = Relu(x)
        y = If <then_branch = t () => (float[2,3] ta) {
                    q = Unsqueeze <axes = [0]> (x) s = Squeeze <axes = [0]> (q) ta = Sub(s, outer) },
                else_branch = e () => (float[2,3] ea) { ea = Neg(outer) }> (c) }""",
        opset=11,
    )
    relu, choose = model.graph.node
    for node in (relu, *(n for a in choose.attribute for n in a.g.node)):
        node.output[:] = [outer if n == "outer" else n for n in node.output]
        node.input[:] = [outer if n == "outer" else n for n in node.input]
    graph, _, _ = round_trip(model, *CHOICES)
    assert sorted(map(str, captured(graph, "If", 1))) == sorted([outer, "x"])


def test_the_first_scan_is_refused_on_export() -> None:
    """Scan of opset 8 has a batch axis; the converter takes it for today's."""
    model = net("{ y = Scan <num_scan_inputs = 1, body = b (float[3] row) => (float[3] t) { t = Neg(row) }> (x) }",
                inputs="float[1,2,3] x", outputs="float[1,2,3] y", opset=8)  # fmt: skip
    graph = import_model(model)
    with pytest.raises(UnsupportedError, match="opset 8 means something else"):
        export_model(graph)


# ------------------------------------------------------------------------------------------ alone, as the interpreter


def test_a_carried_body_runs_alone_with_its_captures() -> None:
    model = net("""{ a = Relu(x)
        y = If <then_branch = t () => (float[2,3] ta) { x0 = Neg(a) ta = Mul(x0, w) },
                else_branch = e () => (float[2,3] ea) { y0 = Abs(a) ea = Add(y0, w) }> (c) }""",
        weights="float[3] w = {1, 2, 3}")  # fmt: skip
    graph = import_model(model)
    (op,) = carried(graph, "If")
    names = [None if o is None else o.name for o in op.operands]
    arrays = {"c": TRUE, "a": np.maximum(X, 0), "w": np.float32([1, 2, 3])}
    kernel = CARRIED[Node](op, [arrays["w"] if n == "w" else None for n in names])
    for feed in CHOICES:
        (result,) = kernel(*(None if n == "w" else arrays["a"] if n == "a" else feed["c"] for n in names))
        np.testing.assert_array_equal(result, run_model(model, feed)["y"])


def test_results_are_typed_anew_when_an_operand_changes_its_type() -> None:
    model = net("{ y, n = TopK(x, k) }", inputs="float[2,3] x", outputs="float[2,2] y, int64[2,2] n",
                weights="int64[1] k = {2}")  # fmt: skip
    (op,) = carried(import_model(model), "TopK")
    wider: Value = GraphInput("wide", TensorType((4, 5), F32))
    again = build(op.kind, wider, op.operands[1])
    assert [r.type.dims for r in again.results] == [(4, 2), (4, 2)]
    vector: Value = GraphInput("scalar", TensorType((), F32))
    with pytest.raises(UnsupportedError, match="carried op TopK cannot be typed"):
        build(op.kind, vector, op.operands[1])


def test_what_the_importer_found_out_stands_where_nothing_can_be_inferred() -> None:
    """ONNX knows no op of ONNX Runtime's domain; a rewrite may know less of an operand's sizes, or more."""
    node = onnx.helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", "t"]) for n in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", info[:1], info[1:]), ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)],
    )  # fmt: skip
    (op,) = import_model(model).ops
    for dims in (("n", None), (2, 3), (None, None)):
        again = build(op.kind, GraphInput("other", TensorType(dims, F32)))
        assert again.results[0].type.dims == ("n", "t")
    for other in (TensorType(("n",), F32), TensorType(("n", "t"), F16)):
        with pytest.raises(UnsupportedError, match="carried op Gelu cannot be typed"):
            build(op.kind, GraphInput("other", other))
