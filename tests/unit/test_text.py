"""Graphs as text: printing, parsing back, and errors that point at the place."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.data import ArrayData
from amctc.errors import InputError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, build, const, constant_data
from amctc.ops import nn, onnx, quant
from amctc.parser import parse_graph, parse_type
from amctc.text import excerpt, format_attribute, format_name, print_graph
from amctc.types import BF16, F32, I4, I8, I32, Array, QuantizedType, TensorType

GOLDEN = Path(__file__).parents[1] / "golden"


def round_trip(graph: Graph) -> Graph:
    """The graph read back from its text, which must print the same; attributes are compared, too."""
    text = print_graph(graph)
    back = parse_graph(text)
    assert print_graph(back) == text
    assert [o.kind for o in back.ops] == [o.kind for o in graph.ops]
    return back


def of(value: Value, *inputs: GraphInput) -> Graph:
    return Graph(inputs, (value,), ("y",))


def read_back(array: Array, **kwargs: object) -> Array:
    data = constant_data(round_trip(of(const(array, **kwargs))).outputs[0])  # type: ignore[arg-type]
    assert data is not None
    return data.read()


def small_network() -> Graph:
    x = GraphInput("image", TensorType(("N", 1, 4, 4), F32))
    w = const(np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3), name="w", origins=(Origin("conv1", "Conv"),))
    conv = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), activation=nn.Clip(0.0, 6.0))
    y = apply(conv, x, w, name="feature map", origins=(Origin("conv1", "Conv"), Origin("relu6", "Clip")))
    q = apply(quant.Quantize(QuantizedType.per_tensor(0.5, -3)), y)
    flat = apply(nn.Flatten(), apply(quant.Dequantize(), q))
    return Graph((x,), (flat, y), ("logits", "map"), "net", (("amctc.stage", "qdq"),))


# ---------------------------------------------------------------------------------------------------- golden text


def test_the_text_of_a_small_network() -> None:
    assert print_graph(small_network()) == (GOLDEN / "small_network.txt").read_text()


def test_elided_text_of_a_small_network() -> None:
    assert print_graph(small_network(), elide=True) == (GOLDEN / "small_network_elided.txt").read_text()


def test_the_golden_text_parses() -> None:
    graph = parse_graph((GOLDEN / "small_network.txt").read_text())
    conv = graph.outputs[1].producer
    assert conv is not None
    assert conv.kind == nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 1, nn.Clip(0.0, 6.0))
    assert conv.result.name == "feature map"
    assert conv.origins == (Origin("conv1", "Conv"), Origin("relu6", "Clip"))
    assert graph.output_names == ("logits", "map")
    assert graph.metadata == (("amctc.stage", "qdq"),)


def test_text_with_elided_contents_cannot_be_parsed() -> None:
    with pytest.raises(InputError, match=r"line 2 column 45: the contents of this constant were elided"):
        parse_graph((GOLDEN / "small_network_elided.txt").read_text())


# ---------------------------------------------------------------------------------------------------- names


NAMES = ["x", "_", "0", "1", "a b", 'say "hi"', "back\\slash", "", "é", "卷积", "line\nbreak", "\x1b[31m", "a.b", "a-b",
         "inf", "nan", "tensor", "\udc80", "%x", "as", "loc"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives(name: str) -> None:
    x = GraphInput(name, TensorType((2,), F32))
    y = apply(nn.Relu(), x, name=name or None, origins=(Origin(name, name),))
    back = round_trip(Graph((x,), (y, y), (name, name + "2"), name, ((name, name),)))
    assert (back.name, back.inputs[0].name, back.output_names) == (name, name, (name, name + "2"))
    assert (back.outputs[0].name, back.ops[0].origins) == (name or None, (Origin(name, name),))
    assert back.metadata == ((name, name),)


def test_an_input_named_like_a_result_number() -> None:
    zero, one = (GraphInput(n, TensorType((2,), F32)) for n in "01")
    text = print_graph(of(apply(nn.Sub(), one, apply(nn.Add(), zero, one)), zero, one))
    assert '  %0 = nn.add(%"0", %"1") : tensor<2xf32>\n  %1 = nn.sub(%"1", %0) : tensor<2xf32>\n' in text
    assert print_graph(parse_graph(text)) == text


@given(st.text(max_size=8))
def test_names_are_quoted_unless_plain(name: str) -> None:
    x = GraphInput(name, TensorType((name or "N",), F32))
    back = parse_graph(print_graph(of(x, x)))
    assert (back.inputs[0].name, back.inputs[0].type) == (name, x.type)


def test_plain_names_are_ascii_identifiers() -> None:
    assert [format_name(n) for n in ("x1", "_a", "1x", "é")] == ["x1", "_a", '"1x"', '"\\u00e9"']


# ---------------------------------------------------------------------------------------------------- constants


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -0.0], [math.inf, math.nan]], np.float32),
        np.array(2.5, np.float64),
        np.zeros((0, 3), np.int8),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.array([2**64 - 1], np.uint64),
        np.array([1.5, -2.0], ml_dtypes.bfloat16),
        np.array([0.5], ml_dtypes.float8_e4m3fn),
        np.arange(6, dtype=np.int16).reshape(2, 3).T,
    ],
    ids=lambda a: f"{a.dtype.name}{list(a.shape)}",
)
def test_constants_keep_their_bits(array: Array) -> None:
    back = read_back(array)
    assert (back.shape, back.dtype, back.tobytes()) == (array.shape, array.dtype, array.tobytes())


def test_strings_survive() -> None:
    array = np.array([["a", ""], ['"', "é\n\\"]], object)
    assert read_back(array).tolist() == array.tolist()
    assert read_back(np.zeros((0, 2), object)).shape == (0, 2)
    assert read_back(np.array([""], object)).tolist() == [""]


def test_int4_and_quantized_constants() -> None:
    q = QuantizedType(I8, BF16, (0.5, 0.25), (1, -2), 0, -7, 7)
    back = round_trip(of(const(np.array([[7], [-7]], np.int8), q)))
    assert back.outputs[0].type == TensorType((2, 1), q)
    assert round_trip(of(const(np.array([-8, 7], np.int8), I4))).outputs[0].type == TensorType((2,), I4)


def test_elements_can_be_listed() -> None:
    line = "%c = const {data = dense<float32[2,2] [1, -2.5, inf, nan]>, elem = f32} : tensor<2x2xf32>"
    data = constant_data(parse_graph('graph "g"() -> ("y" = %c) {' + line + "}").outputs[0])
    assert data is not None
    np.testing.assert_array_equal(data.read(), np.array([[1, -2.5], [np.inf, np.nan]], np.float32))


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.array([True, False]), "dense<bool[2] [true, false]>"),
        (np.array([1.5, np.inf], np.float32), "dense<float32[2] [1.5, inf]>"),
        (np.zeros(9, np.int8), "dense<int8[9] …>"),
        (np.array(["a"] * 9, object), "strings<[9] …>"),
        (np.array(["a"], object), 'strings<[1] ["a"]>'),
    ],
)
def test_elided_contents(array: Array, shown: str) -> None:
    assert format_attribute(ArrayData(array), elide=True) == shown


def test_defaults_of_inputs() -> None:
    x = GraphInput("x", TensorType((2,), F32), ArrayData(np.array([1, 2], np.float32)))
    default = round_trip(of(x, x)).inputs[0].default
    assert default is not None
    assert default.read().tolist() == [1.0, 2.0]


# ---------------------------------------------------------------------------------------------------- attributes


def test_infinite_and_not_a_number_attributes() -> None:
    x = GraphInput("x", TensorType((2,), F32))
    assert round_trip(of(apply(nn.Clip(-math.inf, math.inf), x), x)).ops[0].kind == nn.Clip()
    kind = parse_graph(print_graph(of(apply(nn.LeakyRelu(math.nan), x), x))).ops[0].kind
    assert isinstance(kind, nn.LeakyRelu)
    assert math.isnan(kind.alpha)


def test_a_whole_number_for_a_float_attribute() -> None:
    text = 'graph "g"(%x: tensor<2xf32>) -> ("y" = %y) { %y = nn.clip(%x) {low = 0, high = 6} : tensor<2xf32> }'
    kind = parse_graph(text).ops[0].kind
    assert kind == nn.Clip(0.0, 6.0)
    assert isinstance(kind, nn.Clip)
    assert type(kind.high) is float


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (None, "none"), (-3, "-3"), (1e-08, "1e-08"), (-math.inf, "-inf"), ('a"b', '"a\\"b"'),
        (b"\x00\xff", 'bytes<"0x00ff">'), ((1, (2.0, "a")), '[1, [2.0, "a"]]'), (I4, "i4"),
        (nn.Clip(0.0, 6.0), "#nn.clip{low = 0.0, high = 6.0}"), (nn.Relu(), "#nn.relu"),
        (TensorType((None,), F32), "tensor<?xf32>"),
    ],
)  # fmt: skip
def test_attribute_text(value: object, text: str) -> None:
    assert format_attribute(value) == text


def test_what_is_no_attribute() -> None:
    with pytest.raises(TypeError, match="set is no attribute"):
        format_attribute({1})


def carried() -> tuple[Op, GraphInput]:
    t, i = TensorType(("batch size", None), F32), TensorType(None, I32)
    node = onnx.Node("My Op", 'dom"ain', 3, b"\x08\x01", (t, None, t), (t, i, TensorType((0,), BF16)))
    x = GraphInput("x", t)
    return build(node, x, None, x, names=("a", None, 'c "d"'), origins=(Origin("node/1", "com.x::My Op"),)), x


def test_a_carried_op_of_several_results_and_an_absent_operand() -> None:
    op, x = carried()
    back = round_trip(Graph((x,), (op.results[2], op.results[0]), ("p", "q"))).ops[0]
    assert [o is None for o in back.operands] == [False, True, False]
    assert [r.name for r in back.results] == ["a", None, 'c "d"']
    assert back.origins == (Origin("node/1", "com.x::My Op"),)
    assert [r.type for r in back.results] == [r.type for r in op.results]


def test_text_of_a_carried_op() -> None:
    op, x = carried()
    left, _, right = print_graph(of(op.results[0], x)).splitlines()[1].partition("} : ")
    assert left == (
        '  %0, %1, %2 = onnx.node(%x, _, %x) {op_type = "My Op", domain = "dom\\"ain", version = 3, '
        'proto = bytes<"0x0801">, operand_types = [tensor<"batch size"x?xf32>, none, tensor<"batch size"x?xf32>], '
        'result_types = [tensor<"batch size"x?xf32>, tensor<*xi32>, tensor<0xbf16>]'
    )
    assert right == (
        'tensor<"batch size"x?xf32>, tensor<*xi32>, tensor<0xbf16> as "a", _, "c \\"d\\"" loc("node/1": "com.x::My Op")'
    )


# ---------------------------------------------------------------------------------------------------- excerpts


def test_an_excerpt_shows_the_neighbours_without_constants() -> None:
    graph = small_network()
    (dequantize,) = (o for o in graph.ops if isinstance(o.kind, quant.Dequantize))
    assert excerpt(graph, dequantize, context=1) == (
        '  %2 = quant.quantize(%1) {to = quant<i8:f32, {0.5:-3}>} : tensor<"N"x1x4x4xquant<i8:f32, {0.5:-3}>>\n'
        '> %3 = quant.dequantize(%2) : tensor<"N"x1x4x4xf32>\n'
        '  %4 = nn.flatten(%3) {axis = 1} : tensor<"N"x16xf32>'
    )


# ---------------------------------------------------------------------------------------------------- errors


HEAD = 'graph "g"(%x: tensor<2xf32>) -> ("y" = %y) {\n'


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("  %y = nn.relu(%z) : tensor<2xf32>", 16, "%z is used before it is defined"),
        ("  %y = nn.rely(%x) : tensor<2xf32>", 8, "unknown op 'nn.rely'; did you mean nn.relu"),
        ("  %y = nn.relu(%x) : tensor<3xf32>", 8, "nn.relu gives tensor<2xf32>, not what the text says"),
        ("  %y, %z = nn.relu(%x) : tensor<2xf32>", 12, "nn.relu has 1 results, 2 are named"),
        ('  %y = nn.relu(%x) : tensor<2xf32> as "a", "b"', 8, "1 results, but 2 names after 'as'"),
        ("  %x = nn.relu(%x) : tensor<2xf32>", 8, "%x is defined twice"),
        ("  %y = nn.relu(%x : tensor<2xf32>", 19, "expected ',', found ':'"),
        ("  %y = nn.relu(%) : tensor<2xf32>", 17, "expected a value's name, found ')'"),
        ("  %y = nn.relu(%x) : tensor<2xf31>", 31, "'f31' is no element type"),
        ("  %y = nn.relu(%x) : tensor<2xf32.5>", 34, "unexpected '.5'"),
        ('  %y = nn.relu(%x) : tensor<""xf32>', 22, "'' is not a dimension [T1]"),
        ('  %y = nn.relu(%x) : tensor<"\\q"xf32>', 29, "not a JSON string: Invalid \\escape"),
        ("  %y = nn.relu(%x) : tensor<2xquant<i8:f32, {-1}>>", 31, "finite, positive and exact in float32 [T2]"),
        ("  %y = nn.relu(%x) : tensor<2xquant<i8:f32, {a}>>", 31, "could not convert string to float: 'a'"),
        ("  %y = nn.clip(%x) {lo = 0} : tensor<2xf32>", 21, "nn.clip has no attribute 'lo'"),
        ("  %y = nn.clip(%x) {low = 0, low = 0} : tensor<2xf32>", 30, "attribute 'low' is given twice"),
        ("  %y = nn.cast(%x) : tensor<2xf32>", 8, "nn.cast needs the attribute 'to'"),
        ("  %y = nn.cast(%x) {to = f33} : tensor<2xf32>", 26, "'f33' is no element type"),
        ("  %y = nn.softmax(%x) {axis = 1} : tensor<2xf32>", 8, "axis 1 of a rank 1 operand [nn.softmax.C2]"),
        ("  %y = nn.relu(%x) : tensor<2xf32> loc(a)", 40, "expected a quoted string, found 'a'"),
        ('  %y = nn.relu(%x) : tensor<2xf32> as "a\\q"', 39, "not a JSON string: Invalid \\escape"),
        ('  %y = nn.relu(%x) : tensor<2xf32> as "a', 39, "unexpected a string that never ends"),
        ("  %y = nn.relu(%x) : tensor<2xf32> & }", 36, "unexpected '&'"),
        ("  %y = const {data = dense<float31[2] []>, elem = f32} : tensor<f32>", 28, "'float31' is no data type"),
        ('  %y = const {data = dense<int8[3] "0x00">, elem = i8} : tensor<i8>', 22, "1 elements for shape [3]"),
        ('  %y = const {data = dense<int8[-1] "0x">, elem = i8} : tensor<i8>', 33, "a negative size"),
        ("  %y = const {data = dense<int8[a] []>, elem = i8} : tensor<i8>", 33, "expected an integer, found 'a'"),
        ('  %y = const {data = dense<int8[1] "0x0g">, elem = i8} : tensor<i8>', 36, "non-hexadecimal number"),
        ('  %y = const {data = dense<int8[1] "00">, elem = i8} : tensor<i8>', 36, "bytes are written as 0x"),
        ('  %y = const {data = dense<int16[1] "0x00">, elem = i16} : tensor<1xi16>', 37, "multiple of element size"),
        ("  %y = const {data = dense<int8[1] [999]>, elem = i8} : tensor<1xi8>", 36, "out of bounds for int8"),
        ("  %y = const {data = strings<[1] [1]>, elem = string} : tensor<1xstring>", 34, "listed in double quotes"),
        ("  %y = const {data = dense<int8[4294967296,4294967296] []>, elem = i8} : tensor<i8>", 22, "0 elements"),
        ("  %q = nn.relu(%x) : tensor<2xf32>\n}", None, "output %y is never defined"),
        ("  %y = nn.relu(%x) : tensor<2xf32>\n} meta", None, "expected a quoted string, found the end"),
        ("  %y = nn.relu(%x) : tensor<2xf32>\n} more", None, "'more' after the graph"),
        ("  %", 4, "expected a value's name, found the end"),
        ("", 1, "expected '%', found the end"),
    ],
)
def test_errors_point_at_the_place(line: str, column: int | None, message: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_graph(HEAD + line)
    assert message in str(raised.value)
    if column is not None:
        assert raised.value.where == f"line 2 column {column}"
        assert raised.value.detail == f"{line}\n{' ' * (column - 1)}^"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "line 1 column 1", "expected 'graph', found the end"),
        ("// a comment\n\n  grape", "line 3 column 3", "expected 'graph', found 'grape'"),
        ('graph "g"(%x: tensor<2xf32>, %x: tensor<f32>) -> () {}', "line 1 column 30", "%x is defined twice"),
        ('graph "g"(%x: tensor<f32> = f32) -> () {}', "line 1 column 29", "expected 'dense' or 'strings', found 'f32'"),
        ('graph "g"(%x: tensor<f32>) -> ("y" = %x, "y" = %x) {}', "line 1 column 1", "two graph outputs have one name"),
        ('graph "g"() -> ("y" = %x) {}', "line 1 column 23", "output %x is never defined"),
        ('graph "g"(%x: tensor<4294967296x', "line 1 column 33", "expected an element type"),
    ],
)
def test_errors_outside_the_ops(text: str, where: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_graph(text)
    assert message in str(raised.value)
    assert raised.value.where == where


def test_attributes_nested_too_deeply() -> None:
    text = HEAD + "  %y = nn.transpose(%x) {permutation = " + "[" * 50_000
    with pytest.raises(InputError, match="attributes are nested too deeply"):
        parse_graph(text)


@given(st.text('graph"%x:=<>{}[](),0"\\ntensor.f32-', max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(InputError):
        parse_graph(HEAD + text + "&")


@given(st.data())
def test_cutting_a_good_text_anywhere_is_an_input_error(data: st.DataObject) -> None:
    text = (GOLDEN / "small_network.txt").read_text()
    cut = data.draw(st.integers(0, text.index("meta") - 3))
    with pytest.raises(InputError):
        parse_graph(text[:cut])


@pytest.mark.parametrize("text", ["tensor<2xf32", "tensor<2xf32>x", "vector<f32>", "tensor<-1xf32>", "tensor<f32x2>"])
def test_malformed_types(text: str) -> None:
    with pytest.raises(InputError, match="line 1 column"):
        parse_type(text)
