"""Exported models: names, versions, declarations and bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, parser

from amctc.errors import UnsupportedError
from amctc.ir import Graph, GraphInput, Value, apply, build, const
from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.emitters import STANDARD
from amctc.onnx_bridge.names import Names
from amctc.ops import nn
from amctc.types import F32, I4, TensorType
from tests.unit.onnx_bridge.round_trips import round_trip, run_model

X = np.array([[1.0, -2.0, 3.0], [-0.0, 5.5, -6.25]], np.float32)


def names_of(model: onnx.ModelProto) -> list[str]:
    """Every name of a value, once for each place that makes it."""
    made = [o for n in model.graph.node for o in n.output if o]
    defaults = {i.name for i in model.graph.input}
    return [*defaults, *(t.name for t in model.graph.initializer if t.name not in defaults), *made]


def chain(hints: list[str | None], *, constants: bool = False) -> Graph:
    """Relu and Add in turn, the values called as told."""
    x = GraphInput("x", TensorType((2, 3), F32))
    value: Value = x
    for k, hint in enumerate(hints):
        if constants:
            value = apply(nn.Add(), value, const(np.full(3, k, np.float32), name=hint), name=hint)
        else:
            value = apply(nn.Relu(), value, name=hint)
    return Graph((x,), (value,), ("y",))


@given(
    st.lists(st.sampled_from(["x", "y", "a", "a_1", "a_2", "", None, "output/y"]), min_size=1, max_size=8),
    st.booleans(),
)
def test_names_are_unique_whatever_the_hints(hints: list[str | None], constants: bool) -> None:
    exported = export_model(chain(hints, constants=constants))
    names = names_of(exported)
    assert len(set(names)) == len(names)
    assert all(names)
    assert len({n.name for n in exported.graph.node}) == len(exported.graph.node)
    onnx.checker.check_model(exported, full_check=True)
    assert (exported.graph.input[0].name, exported.graph.output[0].name) == ("x", "y")


def test_fresh_names_stay_close_to_their_hints() -> None:
    fresh = Names(["a", "b_1"]).fresh
    assert [fresh("a"), fresh("a"), fresh("a_1"), fresh("b"), fresh("b"), fresh("c")] == [
        "a_1", "a_2", "a_1_1", "b", "b_2", "c",
    ]  # fmt: skip


def test_many_values_of_one_name_take_linear_time() -> None:
    fresh = Names().fresh
    assert len({fresh("v") for _ in range(20_000)}) == 20_000


def test_an_output_name_goes_to_the_output_not_to_another_value() -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    inner = apply(nn.Relu(), x, name="y")
    outer = apply(nn.Sigmoid(), inner, name="z")
    exported = export_model(Graph((x,), (outer,), ("y",)))
    assert [list(n.output) for n in exported.graph.node] == [["y_1"], ["y"]]


def test_outputs_that_are_inputs_constants_or_repeated() -> None:
    x, w = GraphInput("x", TensorType((2, 3), F32)), const(X, name="w")
    relu = apply(nn.Relu(), x, name="r")
    graph = Graph((x,), (x, w, relu, relu, w), ("p", "w", "q", "r", "v"))
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    outputs = run_model(exported, {"x": X})
    assert list(outputs) == ["p", "w", "q", "r", "v"]
    for name, expected in {"p": X, "w": X, "q": np.maximum(X, 0), "r": np.maximum(X, 0), "v": X}.items():
        np.testing.assert_array_equal(outputs[name], expected)


def test_an_output_that_is_a_constant_of_a_new_type_has_an_opset_that_hands_it_out() -> None:
    model = export_model(Graph((), (const(np.zeros(3, np.int8), I4),), ("y",)))
    onnx.checker.check_model(model, full_check=True)


def test_a_graph_without_nodes() -> None:
    x = GraphInput("x", TensorType(("N", 3), F32))
    exported = export_model(Graph((x,), (x,), ("x",)))
    assert not exported.graph.node
    np.testing.assert_array_equal(run_model(exported, {"x": X})["x"], X)
    back = import_model(exported)
    assert back.outputs == back.inputs


def test_a_shared_constant_is_written_once() -> None:
    x, w = GraphInput("x", TensorType((2, 3), F32)), const(np.ones(3, np.float32), name="w")
    total = apply(nn.Mul(), apply(nn.Add(), x, w), w)
    exported = export_model(Graph((x,), (total,), ("y",)))
    assert [t.name for t in exported.graph.initializer] == ["w"]


@pytest.mark.parametrize("opset", range(17, onnx.defs.onnx_opset_version() + 1))
def test_the_ir_version_is_the_oldest_that_may_import_the_opset(opset: int) -> None:
    exported = export_model(chain(["a"]), opset=opset)
    assert [(o.domain, o.version) for o in exported.opset_import] == [("", opset)]
    assert exported.ir_version == max(8, helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))
    onnx.checker.check_model(exported, full_check=True)


def test_an_op_without_a_form_is_named() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) { [first] a = Relu(x) [here] y = Sigmoid(a) }""")
    graph, fewer = import_model(model), {k: e for k, e in STANDARD.items() if k is not nn.Sigmoid}
    with pytest.raises(UnsupportedError, match=r"here: nn.sigmoid has no form"):
        export_model(graph, fewer)


def test_carried_results_are_declared() -> None:
    """What the file said about a value that ONNX cannot infer must not be lost on the way."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "of.others" : 1]>
        net (float[2,3] x) => (float[2] y) { a = of.others.Magic(x) b = NonZero(x) y = of.others.Join(a, b) }""")
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT16, ["K", 4]))
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.INT64, [2, "hits"]))
    graph, exported, _ = round_trip(model)
    declared = {i.name: i for i in exported.graph.value_info}
    assert declared == {i.name: i for i in model.graph.value_info}
    again = import_model(exported)
    assert [v.type for v in again.values()] == [v.type for v in graph.values()]


def test_the_result_of_a_carried_op_can_be_several_outputs() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (int64[2,K] y) { y = NonZero(x) }""")
    graph = import_model(model)
    exported = export_model(graph.with_outputs((graph.outputs[0],) * 2, ("y", "z")))
    onnx.checker.check_model(exported, full_check=True)
    assert not exported.graph.value_info
    outputs = run_model(exported, {"x": X})
    np.testing.assert_array_equal(outputs["y"], outputs["z"])


def test_an_op_built_anew_is_named_after_what_it_came_from() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) { [first] a = Relu(x) [second] y = Relu(a) }""")
    graph = import_model(model)
    old = graph.outputs[0].producer
    assert old is not None
    again = build(nn.Relu(), old.result, names=("z",), origins=old.origins)
    exported = export_model(graph.with_outputs(again.results, ("y",)))
    assert [n.name for n in exported.graph.node] == ["first", "second", "second_1"]


SCRIPT = """
import hashlib, sys
from onnx import ModelProto
from amctc.onnx_bridge import export_model, import_model
model = ModelProto.FromString(sys.stdin.buffer.read())
print(hashlib.sha256(export_model(import_model(model)).SerializeToString()).hexdigest())
"""


def test_bytes_do_not_depend_on_the_process() -> None:
    """Strings hash differently in each process; nothing may follow the order of a set."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 11, "ai.onnx.ml" : 2, "com.microsoft" : 1]>
        net (float[2,3] x, bool c) => (float[2,3] y, float[2,3] z) <float[3] w = {1, 2, 3}, float[3] v = {3, 2, 1}> {
        a = Relu(x) b = Add(a, w) d = Mul(b, v) e = Sum(a, b, d)
        y, z = If <then_branch = t () => (float[2,3] ta, float[2,3] tb) {
                       q = Unsqueeze <axes = [0]> (e) ta = Squeeze <axes = [0]> (q) tb = ai.onnx.ml.Scaler(d) },
                   else_branch = e () => (float[2,3] ea, float[2,3] eb) {
                       ea = com.microsoft.Gelu(b) eb = Sub(d, v) }> (c)
        }""")
    helper.set_model_props(model, {"b": "1", "a": "2"})
    here = hashlib.sha256(export_model(import_model(model)).SerializeToString()).hexdigest()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=model.SerializeToString(), capture_output=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.stdout.decode().strip() == here
