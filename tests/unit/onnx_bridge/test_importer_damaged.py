"""Files that were damaged or made to do damage: whatever they hold, one of our errors comes out, or a graph."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper, parser

from amctc.errors import AmctcError, InputError
from amctc.frontends.onnx_file import load
from amctc.ir import Graph
from amctc.onnx_bridge import export_model, import_model
from amctc.text import print_graph
from amctc.verify import verify

MANY = 3 * settings.default.max_examples  # an example takes a few milliseconds

BRANCHES = """<ir_version: 8, opset_import: ["" : 11, "f" : 1]>
net (float[N,3] x, bool c) => (float[N,3] y) <float[3] w = {1, 2, 3}, int64[2] s = {-1, 3}> {
    a = f.leaky <slope = 0.25> (x)
    y = If <then_branch = t () => (float[N,3] ta) { r = Reshape(a, s) ta = Softmax <axis = 1> (r) },
            else_branch = e () => (float[N,3] ea) {
                u = Unsqueeze <axes = [0]> (a) v = Squeeze(u) ea = Mul(v, w) }> (c) }
<opset_import: ["" : 11], domain: "f"> leaky <slope> (v) => (o) { o = LeakyRelu <alpha: float = @slope> (v) }
"""
QDQ = """<ir_version: 8, opset_import: ["" : 13]>
net (float[1,2,5,5] x) => (float[1,3,5,5] y)
<float s = {0.5}, uint8 z = {3}, int8[3,2,1,1] w = {1,2,3,-4,5,6}, float[3] ws = {0.25, 0.5, 1},
 int8[3] wz = {0, 0, 0}> {
    low = Constant <value_float = 0.0> ()
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear <axis = 0> (w, ws, wz)
    c = Conv <auto_pad = "SAME_UPPER", strides = [1, 1]> (d, v) n = BatchNormalization(c, ws, ws, ws, ws)
    k = Clip(n, low) y = MaxPool <kernel_shape = [2, 2], pads = [0, 1, 1, 0]> (k) }
"""
LSTM = """<ir_version: 8, opset_import: ["" : 17]>
net (float[5,1,3] x) => (float[5,1,1,2] y, int64[4] s, float[1,1,2] g)
<float[1,8,3] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24},
 float[1,8,2] r = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> {
    o = Constant <value_ints = [1]> () o2 = Constant <value_ints = [3]> () ax = Constant <value_ints = [2]> ()
    y, h = LSTM <hidden_size = 2> (x, w, r) s = Shape(y) t = Concat <axis = 2> (h, h)
    m = Transpose <perm = [0, 1, 2]> (t) f = Slice(m, o, o2, ax) g = Relu(f) }
"""


@functools.cache
def models() -> tuple[onnx.ModelProto, ...]:
    return tuple(parser.parse_model(text) for text in (BRANCHES, QDQ, LSTM))


def test_the_models_are_sound_before_they_are_damaged() -> None:
    for model in models():
        onnx.checker.check_model(model, full_check=True)
        onnx.checker.check_model(export_model(import_model(model)), full_check=True)


def outcome(data: bytes) -> Graph | AmctcError:
    """What ``load`` makes of a file with these bytes; anything but a graph or one of our errors fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(data)
        try:
            result: Graph | AmctcError = load(path)
        except AmctcError as error:
            result = error
    if isinstance(result, Graph):
        verify(result)
        print_graph(result)
    else:
        assert "\n" not in str(result)
        assert "net.onnx" in str(result)
    return result


@settings(max_examples=MANY)
@given(st.data())
def test_random_bytes_in_a_model(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([m.SerializeToString() for m in models()])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "flip", "delete", "insert", "repeat"])):
            case "set":
                content[at] = data.draw(st.integers(0, 255))
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "delete":
                del content[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "repeat":
                content[at:at] = content[at : at + data.draw(st.integers(1, 64))]
    outcome(bytes(content))


INTEGERS = st.sampled_from([-(1 << 63), -(1 << 31), -7, -1, 0, 1, 2, 3, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1])


@st.composite
def attribute(draw: st.DrawFn, name: str) -> AttributeProto:
    """An attribute of any type with values that sizes and axes should not have."""
    made = AttributeProto(name=name)
    made.type = draw(st.sampled_from([*AttributeProto.AttributeType.values()]))
    made.i = draw(INTEGERS)
    made.f = draw(st.floats(width=32))
    made.s = draw(st.binary(max_size=6))
    made.ints.extend(draw(st.lists(INTEGERS, max_size=5)))
    made.floats.extend(draw(st.lists(st.floats(width=32), max_size=5)))
    made.strings.extend(draw(st.lists(st.binary(max_size=3), max_size=3)))
    made.t.CopyFrom(numpy_helper.from_array(np.zeros(draw(st.integers(0, 3)), np.float32)))
    return made


def all_nodes(graph: onnx.GraphProto) -> list[NodeProto]:
    """Nodes of a graph and of the bodies in it."""
    found = list(graph.node)
    for node in graph.node:
        for a in node.attribute:
            if a.type == AttributeProto.GRAPH:
                found += all_nodes(a.g)
    return found


@settings(max_examples=MANY)
@given(st.data())
def test_attributes_of_wrong_types_and_sizes(data: st.DataObject) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(data.draw(st.sampled_from(models())))
    node = data.draw(st.sampled_from(all_nodes(model.graph)))
    schema = onnx.defs.get_schema(node.op_type, 17) if onnx.defs.has(node.op_type) else None
    names = sorted({*(a.name for a in node.attribute), *(schema.attributes if schema else ()), "other"})
    name = data.draw(st.sampled_from(names))
    kept = [a for a in node.attribute if a.name != name]
    node.ClearField("attribute")
    node.attribute.extend(kept)
    if data.draw(st.booleans()) or name in {a.name for a in kept}:
        node.attribute.append(data.draw(attribute(name)))
    outcome(model.SerializeToString())


@settings(max_examples=MANY)
@given(st.data())
def test_names_dims_and_types_of_other_values(data: st.DataObject) -> None:
    """Operands exchanged, left out or undefined; dimensions negative or huge; element types of other values."""
    model = onnx.ModelProto()
    model.CopyFrom(data.draw(st.sampled_from(models())))
    names = ["", "nowhere", *(n for node in all_nodes(model.graph) for n in (*node.input, *node.output))]
    for _ in range(data.draw(st.integers(1, 3))):
        node = data.draw(st.sampled_from(all_nodes(model.graph)))
        match data.draw(st.sampled_from(["input", "output", "op", "tensor", "declared", "elem", "dims"])):
            case "input" if node.input:
                node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
            case "output":
                node.output[data.draw(st.integers(0, len(node.output) - 1))] = data.draw(st.sampled_from(names))
            case "op":
                node.op_type = data.draw(st.sampled_from([n.op_type for m in models() for n in all_nodes(m.graph)]))
            case "tensor" if model.graph.initializer:
                tensor = data.draw(st.sampled_from(list(model.graph.initializer)))
                tensor.dims[:] = data.draw(st.lists(INTEGERS, max_size=4))
            case "declared":
                info = data.draw(st.sampled_from([*model.graph.input, *model.graph.output]))
                shape = info.type.tensor_type.shape
                dims = shape.dim or [shape.dim.add()]
                dims[data.draw(st.integers(0, len(dims) - 1))].dim_value = data.draw(INTEGERS)
            case "elem":
                info = data.draw(st.sampled_from([*model.graph.input, *model.graph.output]))
                info.type.tensor_type.elem_type = data.draw(st.integers(0, 30))
            case "dims":
                info = data.draw(st.sampled_from([*model.graph.input, *model.graph.output]))
                del info.type.tensor_type.shape.dim[data.draw(st.integers(0, 1)) :]
    outcome(model.SerializeToString())


# -------------------------------------------------------------------------------------------- chosen damage


def one_node(op_type: str, inputs: list[tuple[str, list[Any] | None]], weights: dict[str, np.ndarray], *,
             opset: int = 17, **attributes: Any) -> onnx.ModelProto:  # fmt: skip
    """A node on float inputs and stored weights."""
    node = helper.make_node(op_type, [*(n for n, _ in inputs), *weights], ["y"], "here", **attributes)
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


BIG = 1 << 40


@pytest.mark.parametrize(
    ("op_type", "shape", "weights", "attributes", "dims"),
    [
        ("Reshape", [2, 3], {"s": np.array([BIG, BIG, -1])}, {}, None),
        ("Expand", [1], {"s": np.array([BIG, BIG])}, {}, [BIG, BIG]),
        ("Tile", [3], {"s": np.array([BIG])}, {}, [3 * BIG]),
        ("MaxPool", [1, 1, 9], {}, {"kernel_shape": [BIG], "pads": [BIG, BIG]}, None),
        ("AveragePool", [1, 1, BIG], {}, {"kernel_shape": [3]}, [1, 1, BIG - 2]),
        ("Relu", [BIG, BIG], {}, {}, [BIG, BIG]),
        ("Pad", [2, 3], {"s": np.array([0, BIG, 0, BIG])}, {}, [2, 3 + 2 * BIG]),
    ],
)
def test_sizes_are_numbers_until_somebody_computes(
    op_type: str, shape: list[int], weights: dict[str, np.ndarray], attributes: dict[str, Any], dims: list[int] | None
) -> None:
    result = outcome(one_node(op_type, [("x", shape)], weights, **attributes).SerializeToString())
    if isinstance(result, Graph):
        assert dims is not None
        assert list(result.outputs[0].type.dims) == dims
    else:
        assert dims is None


@pytest.mark.parametrize("opset", [11, 17])
def test_a_constant_of_shape_is_not_computed(opset: int) -> None:
    model = one_node("ConstantOfShape", [], {"s": np.array([BIG, BIG])}, opset=opset)
    graph = outcome(model.SerializeToString())
    assert isinstance(graph, Graph)
    assert graph.outputs[0].type.dims == (BIG, BIG)
    exported = export_model(graph)
    assert exported.ByteSize() < 1000


def nested(depth: int, opset: int = 17) -> onnx.ModelProto:
    """An If in an If in an If…"""
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, [])]  # fmt: skip
    node = helper.make_node("Neg", ["x"], [f"v{depth}"])
    for level in range(depth - 1, -1, -1):
        info = helper.make_tensor_value_info(f"v{level + 1}", TensorProto.FLOAT, [2, 3])
        then = helper.make_graph([node], "t", [], [info])
        info = helper.make_tensor_value_info(f"e{level}", TensorProto.FLOAT, [2, 3])
        other = helper.make_graph([helper.make_node("Abs", ["x"], [f"e{level}"])], "e", [], [info])
        node = helper.make_node("If", ["c"], [f"v{level}" if level else "y"], then_branch=then, else_branch=other)
    graph = helper.make_graph([node], "net", ends, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("depth", [2, 10, 24])
@pytest.mark.parametrize("opset", [11, 17])
def test_deeply_nested_bodies(depth: int, opset: int) -> None:
    graph = outcome(nested(depth, opset).SerializeToString())
    assert isinstance(graph, Graph)
    assert {o and o.name for o in graph.ops[0].operands[1:]} == {"c", "x"}
    onnx.checker.check_model(export_model(graph), full_check=True)


def test_bodies_nested_too_deep_for_protobuf_are_refused() -> None:
    def wrapped(field: int, payload: bytes) -> bytes:
        """``payload`` as a length-delimited field."""
        size, length = len(payload), bytearray()
        while size > 127:
            length.append(size & 127 | 128)
            size >>= 7
        return bytes([field << 3 | 2, *length, size]) + payload

    node = helper.make_node("Neg", ["x"], ["v"]).SerializeToString()
    for _ in range(200):
        body = helper.make_graph([], "t", [], []).SerializeToString() + wrapped(1, node)
        attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH).SerializeToString()
        node = helper.make_node("If", ["c"], ["v"]).SerializeToString() + wrapped(5, attribute + wrapped(6, body))
    model = one_node("Relu", [("x", [2, 3])], {})
    model.graph.ClearField("node")
    graph = model.graph.SerializeToString() + wrapped(1, node)
    model.ClearField("graph")
    error = outcome(model.SerializeToString() + wrapped(7, graph))
    assert isinstance(error, InputError)
    assert "not an ONNX model" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        "{ y = Split <num_outputs = 1> (x) }",
        "{ y, b, c = Split <num_outputs = 1> (x) }",
        "{ a = of.others.Magic(x) b = RegexFullMatch(a) y = Relu(x) }",
        "{ a = of.others.Magic(x) b = EyeLike <dtype = 1> (a) y = Relu(x) }",
        """{ c = Constant <value_int = 1> () d = Cast <to = 9> (c)
            y = If <then_branch = t () => (float[2,3] ta) {
                        m = of.others.Magic(x) b = EyeLike <dtype = 1> (m) ta = Relu(x) },
                    else_branch = e () => (float[2,3] ea) { ea = Neg(x) }> (d) }""",
    ],
)
@pytest.mark.parametrize("opset", [11, 18, 20])
def test_nodes_that_crash_shape_inference(body: str, opset: int) -> None:
    """ONNX 1.23 reads types that are not there, and outputs that are not there: the process would be gone."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {opset}, "of.others" : 1]>
        net (float[2,3] x) => (float[2,3] y) {body}""")
    outcome(model.SerializeToString())


@pytest.mark.parametrize(
    ("op_type", "name"),
    [("Squeeze", "axes"), ("Unsqueeze", "axes"), ("ReduceSum", "axes"), ("Upsample", "mode"), ("Split", "split")],
)
@pytest.mark.parametrize("where", ["graph", "body", "function"])
def test_attributes_that_crash_the_version_converter(op_type: str, name: str, where: str) -> None:
    bodies = {
        "graph": "{{ y = {op} (x) }}",
        "body": """{{ y = If <then_branch = t () => (float[2,3] ta) {{ ta = {op} (x) }},
            else_branch = e () => (float[2,3] ea) {{ ea = Neg(x) }}> (c) }}""",
        "function": """{{ y = f.f(x) }} <opset_import: ["" : 9], domain: "f"> f (x) => (y) {{ y = {op} (x) }}""",
    }
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {11 if where == "function" else 9}, "f" : 1]>
        net (float[2,3] x, bool c) => (float[2,3] y) {bodies[where].format(op=f"{op_type} <{name} = {3}>")}""")
    error = outcome(model.SerializeToString())
    assert isinstance(error, InputError)
    assert f"attribute {name!r} is of type INT, not " in str(error)


def test_errors_show_no_control_characters() -> None:
    evil = "\x1b[31mred\x07\r\n\u202e"
    model = one_node("Relu", [("x", [2, 3])], {})
    for field in ("input", "output", "name", "op_type"):
        damaged = onnx.ModelProto()
        damaged.CopyFrom(model)
        node = damaged.graph.node[0]
        if field in ("input", "output"):
            getattr(node, field)[0] = evil
        else:
            setattr(node, field, evil)
            node.input[0] = "nowhere"
        error = outcome(damaged.SerializeToString())
        assert isinstance(error, AmctcError)
        assert all(c.isprintable() for c in str(error))


@pytest.mark.parametrize("place", ["name", "value", "symbol", "attribute", "op_type", "metadata", "body"])
def test_names_that_are_not_utf8_are_refused(place: str) -> None:
    """protobuf reads them as bytes and cannot write them again."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17], metadata_props: ["mark": "metaaa"]>
        net (float[SYMBOL,3] x, bool c) => (float[SYMBOL,3] y) {
        [nodename] valuename = LeakyRelu<alpha = 0.5>(x)
        y = If <then_branch = t () => (float[SYMBOL,3] u) { u = Relu(valuename) },
                else_branch = e () => (float[SYMBOL,3] bodyname) { bodyname = Neg(valuename) }> (c) }""")
    texts = {"name": b"nodename", "value": b"valuename", "symbol": b"SYMBOL", "attribute": b"alpha",
             "op_type": b"LeakyRelu", "metadata": b"metaaa", "body": b"bodyname"}  # fmt: skip
    data = model.SerializeToString()
    text = texts[place]
    assert text in data
    damaged = onnx.ModelProto.FromString(data.replace(text, b"\xff" * len(text)))
    with pytest.raises(InputError, match="not UTF-8"):
        import_model(damaged)


@pytest.mark.parametrize(
    ("equation", "fine"),
    [("ij,jk->ik", True), (" i j , jk ", True), ("...ii->...i", True), ("->", True), ("...ii -x...i", False),
     ("ij->ik->k", False), ("i-j", False), ("i..j", False), ("i1", False),
     ("i" * (1 << 20) + "!", False)],
    ids=lambda v: v[:9] if isinstance(v, str) else "",
)  # fmt: skip
def test_an_equation_that_onnx_would_parse_for_ever_is_refused(equation: str, fine: bool) -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[3,3] x) => (float y) { y = Einsum<equation = "">(x, x) }""")
    model.graph.node[0].attribute[0].s = equation.encode()
    if fine:
        import_model(model)
    else:
        with pytest.raises(InputError, match="equation"):
            import_model(model)
