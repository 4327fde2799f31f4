"""Writing deploy models: the file says what the graph says, and reading it gives the graph back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.backends.deploy import export_deploy
from amctc.backends.onnx_file import is_lowered, model_bytes, save
from amctc.errors import UnsupportedError
from amctc.frontends.deploy import import_deploy
from amctc.frontends.onnx_file import load
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.kernels.ascend_table import ascend_table
from amctc.numerics.fixed_point import pack_dequant
from amctc.numerics.int4 import pack_int4
from amctc.onnx_bridge.sessions import open_session
from amctc.ops import ascend, nn
from amctc.targets import load_profile
from amctc.text import print_graph
from amctc.types import F16, F32, I4, I16, ScalarType, TensorType

RANDOM = np.random.default_rng(0)
WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}


def origin(name: str, op_type: str) -> tuple[Origin, ...]:
    return (Origin(name, op_type),)


def graph_of(x: Value, *outputs: Value, **metadata: str) -> Graph:
    assert isinstance(x, GraphInput)
    return Graph((x,), outputs, tuple(f"y{i}" for i in range(len(outputs))), "net").with_metadata(**metadata)


def integers(*shape: int, name: str, elem: ScalarType | None = None) -> Value:
    low, high = (-8, 8) if elem is I4 else (-128, 128)
    return const(RANDOM.integers(low, high, shape).astype(np.int8), elem, name=name)


def words(count: int, name: str) -> Value:
    return const(pack_dequant(RANDOM.uniform(1e-4, 1e-2, count).astype(np.float32)), name=name)


def quantized(x: Value, name: str = "q", offset: int = -5) -> Value:
    return apply(ascend.Quant(float(np.float32(1 / 0.03)), offset), x, name=name)


def layer(
    q: Value,
    name: str,
    weight: Value,
    bias: Value | None = None,
    *,
    group: int = 1,
    relu: bool = False,
    to: ScalarType = F32,
) -> Value:
    where = origin(name, "Conv")
    kind = ascend.Conv(**WINDOW, group=group, offset_x=-5)
    acc = apply(kind, q, weight, bias, name=f"{name}/acc", origins=where)
    channels = weight.type.dims[0]
    assert isinstance(channels, int)
    scale = words(channels, f"{name}.dequant.param")
    return apply(ascend.Dequant(1, to, relu), acc, scale, name=f"{name}/y", origins=where)


def image(channels: int = 4) -> GraphInput:
    return GraphInput("x", TensorType(("N", channels, 6, 6), F32))


def conv_graph() -> Graph:
    x = image()
    q = quantized(x)
    bias = const(RANDOM.integers(-999, 999, 8).astype(np.int32), name="c1.bias")
    y = layer(q, "c1", integers(8, 4, 3, 3, name="c1.weight"), bias, relu=True)
    return graph_of(x, apply(nn.Relu(), y, name="r"))


def rich_graph() -> Graph:
    """Shared and joined quantizers, int4, groups, float16, a float island, an anti-quantizer, every matmul form."""
    x = image()
    q = quantized(x)
    pooled = apply(nn.MaxPool(**{**WINDOW, "pads": (0, 0, 0, 0)}, kernel=(1, 1)), q, name="pooled")
    joined = apply(nn.Concat(1), q, pooled, name="joined")
    a = layer(joined, "a", integers(8, 8, 3, 3, name="a.weight", elem=I4))
    b = layer(q, "b", integers(8, 2, 3, 3, name="b.weight"), group=2, to=F16)
    real = apply(ascend.AntiQuant(0.5, 5), q, name="real")
    half = apply(ascend.AntiQuant(0.5, -7, F16), quantized(x, "q16"), name="half")
    wide = apply(ascend.AntiQuant(0.25, 300), apply(ascend.Quant(4.0, -300, I16), x, name="q_wide"), name="wide")
    flat = apply(nn.Flatten(1), apply(nn.Sigmoid(), a, name="s"), name="flat")
    qf = quantized(flat, "qf", 0)
    bias = const(np.arange(5, dtype=np.int32), name="g.bias")
    gemm = apply(
        ascend.MatMul(True), qf, integers(5, 288, name="g.weight"), bias, name="g/acc", origins=origin("g", "Gemm")
    )
    tokens = quantized(apply(nn.Reshape((-1, 6, 6)), x, name="tokens"), "qt", 9)
    fours = const(np.arange(4, dtype=np.int32), name="m.bias")
    matmul = apply(ascend.MatMul(False, 9), tokens, integers(6, 4, name="m.weight", elem=I4), fours, name="m/acc",
                   origins=origin("m", "MatMul"))  # fmt: skip
    ends = [
        apply(ascend.Dequant(1), gemm, words(1, "g.dequant.param"), name="g/y", origins=origin("g", "Gemm")),
        apply(ascend.Dequant(2), matmul, words(4, "m.dequant.param"), name="m/y", origins=origin("m", "MatMul")),
    ]
    return graph_of(x, *ends, b, real, half, wide, amctc__target="ascend910b1", amctc__fusion="requant")


def layers_graph() -> Graph:
    """Transposed convolutions, average pools, a product of two computed sides, tensors quantized alone."""
    x = image()
    q = quantized(x)
    up = apply(ascend.ConvTranspose((2, 2), (1, 0, 1, 1), (1, 1), 2, (1, 0), -5), q,
               integers(4, 3, 3, 2, name="t.weight"), const(np.arange(6, dtype=np.int32), name="t.bias"), name="t/acc",
               origins=origin("t", "ConvTranspose"))  # fmt: skip
    fours = apply(ascend.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 1, (), -5), q,
                  integers(4, 5, 1, 1, name="u.weight", elem=I4), name="u/acc",
                  origins=origin("u", "ConvTranspose"))  # fmt: skip
    mean = apply(ascend.SumPool((2, 1), (1, 0, 1, 1), (1, 1), (3, 2), -5), q, name="p/acc",
                 origins=origin("p", "AveragePool"))  # fmt: skip
    largest = apply(nn.MaxPool(**{**WINDOW, "pads": (0, 0, 0, 0)}, kernel=(2, 2)), q, name="largest")
    left, right = quantized(x, "left", 0), quantized(x, "right", 0)
    scores = apply(ascend.BatchMatMul(), left, right, const(np.arange(6, dtype=np.int32), name="s.bias"), name="s/acc",
                   origins=origin("s", "MatMul"))  # fmt: skip
    ends = [
        apply(ascend.Dequant(1), up, words(6, "t.dequant.param"), name="t/y", origins=origin("t", "ConvTranspose")),
        apply(ascend.Dequant(1), fours, words(5, "u.dequant.param"), name="u/y", origins=origin("u", "ConvTranspose")),
        apply(ascend.Dequant(1, divisor=6), mean, words(1, "p.dequant.param"), name="p/y",
              origins=origin("p", "AveragePool")),
        apply(ascend.Dequant(3), scores, words(1, "s.dequant.param"), name="s/y", origins=origin("s", "MatMul")),
        apply(ascend.AntiQuant(0.25, 5), largest, name="largest/y"),
    ]  # fmt: skip
    return graph_of(x, *ends)


def weight_only(
    name: str, x: Value, weight: Value, sizes: tuple[int, ...], *, group: int = 0, trans_b: bool = False,
    offsets: bool = False, bias: bool = False, op_type: str = "Gemm",
) -> Value:  # fmt: skip
    kind, columns = ascend.WeightQuantMatMul(trans_b, group), weight.type.dims[0 if trans_b else 1]
    scale = const(RANDOM.uniform(0.01, 0.1, sizes).astype(np.float32), name=f"{name}.scale")
    offset = const(RANDOM.integers(-7, 9, sizes).astype(np.int32), name=f"{name}.offset") if offsets else None
    b = const(np.ones(columns, x.type.elem.dtype), name=f"{name}.bias") if bias else None
    return apply(kind, x, weight, scale, offset, b, name=f"{name}/y", origins=origin(name, op_type))


def weight_only_graph(elem: ScalarType = F32) -> Graph:
    """Every form of scales; int4 and int8; Gemm, MatMul with and without its bias; no node of the target's own."""
    x = GraphInput("x", TensorType(("N", 6), elem))
    rows = GraphInput("rows", TensorType(("N", 3, 6), elem))
    outputs = (
        weight_only("a", x, integers(6, 4, name="a.weight"), (4,), bias=True),
        weight_only("b", x, integers(4, 6, name="b.weight", elem=I4), (4, 2), group=4, trans_b=True, offsets=True),
        weight_only("c", rows, integers(6, 4, name="c.weight"), (3, 4), group=2, bias=True, op_type="MatMul"),
        weight_only("d", rows, integers(6, 4, name="d.weight", elem=I4), (1,), offsets=True, op_type="MatMul"),
    )
    names = tuple(f"y{i}" for i in range(len(outputs)))
    return Graph((x, rows), outputs, names, "net").with_metadata(amctc__target="ascend910b1")


def weight_only_half() -> Graph:
    return weight_only_graph(F16)


def test_weight_only_layers_are_standard_onnx() -> None:
    """ONNX Runtime, which multiplies in float32, agrees with the target's kernel on float32 data."""
    graph = weight_only_graph()
    model = export_deploy(graph)
    assert [o.version for o in model.opset_import] == [21]
    onnx.checker.check_model(model)
    feeds = {v.name: RANDOM.standard_normal((2, *v.type.dims[1:])).astype(np.float32) for v in graph.inputs}
    ours = evaluate(graph, feeds, ascend_table(load_profile("ascend910b1")))
    theirs = open_session(model.SerializeToString(), optimise=False).run(None, feeds)
    for name, array in zip(graph.output_names, theirs, strict=True):
        np.testing.assert_allclose(ours[name], array, rtol=1e-4, atol=1e-4)  # sums of six terms of at most 40
    eights = Graph(graph.inputs[:1], graph.outputs[:1], ("y",))
    assert [o.version for o in export_deploy(eights).opset_import] == [17]


def test_a_divided_scale_belongs_to_a_pool() -> None:
    graph = conv_graph()
    dequant = graph.outputs[0].producer.operands[0].producer  # type: ignore[union-attr]
    y = apply(ascend.Dequant(1, divisor=4), *dequant.operands, origins=dequant.origins)  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match=r"c1: a scale divided by 4.*\[N26\]"):
        export_deploy(Graph(graph.inputs, (y,), ("y",)))


def without_loc(graph: Graph) -> list[str]:
    """The text with outputs under their interface names, which is where a file keeps them."""
    named = dict(zip(graph.outputs, graph.output_names, strict=True))
    lines = [line.partition(" loc(")[0] for line in print_graph(graph).splitlines()]
    for value, name in named.items():
        lines = [line.replace(f'as "{value.name}"', f'as "{name}"') for line in lines]
    return lines


def reread(graph: Graph) -> Graph:
    return import_deploy(onnx.ModelProto.FromString(model_bytes(graph)))


@pytest.mark.parametrize("make", [conv_graph, rich_graph, layers_graph, weight_only_graph, weight_only_half])
def test_reading_what_was_written_gives_the_graph_back(make: Any) -> None:
    graph = make()
    again = reread(graph)
    assert without_loc(again) == without_loc(graph)
    assert model_bytes(again) == model_bytes(graph) == model_bytes(graph)


def node_of(model: onnx.ModelProto, name: str) -> tuple[onnx.NodeProto, dict[str, Any]]:
    node = next(n for n in model.graph.node if n.name == name)
    return node, {a.name: helper.get_attribute_value(a) for a in node.attribute}


def test_the_file_has_the_forms_that_the_converter_reads() -> None:
    model = export_deploy(conv_graph())
    tensors = {t.name: t for t in model.graph.initializer}
    quant, attributes = node_of(model, "c1.quant")
    assert (quant.op_type, quant.domain) == ("AscendQuant", "")
    assert attributes == {"scale": np.float32(1 / 0.03), "offset": -5.0, "dst_type": b"INT8"}
    conv, _ = node_of(model, "c1")
    assert conv.op_type == "Conv"
    assert [tensors[n].data_type for n in conv.input[1:]] == [TensorProto.INT8, TensorProto.INT32]
    dequant, attributes = node_of(model, "c1.dequant")
    assert dequant.op_type == "AscendDequant"
    assert attributes == {"dtype": 0, "relu_flag": 1}
    assert dequant.input[1] == "c1.dequant.param"
    assert tensors["c1.dequant.param"].data_type == TensorProto.UINT64
    assert list(tensors["c1.dequant.param"].dims) == [8]
    assert [o.version for o in model.opset_import] == [17]


def test_layers_keep_the_form_they_had_and_metadata_is_kept() -> None:
    graph = rich_graph()
    model = export_deploy(graph)
    types = {n.name: n.op_type for n in model.graph.node}
    assert (types["g"], types["m"], types["m/bias"]) == ("Gemm", "MatMul", "Add")
    assert node_of(model, "g")[1] == {"alpha": 1.0, "beta": 1.0, "transB": 1}
    assert node_of(model, "m.dequant")[0].input[0] == node_of(model, "m/bias")[0].output[0]
    assert {p.key: p.value for p in model.metadata_props} == dict(graph.metadata)
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names)


def test_a_shared_quantizer_is_called_after_the_first_layer_that_reads_it() -> None:
    x = image()
    q = quantized(x)
    second, first = (layer(q, n, integers(8, 4, 3, 3, name=f"{n}.weight")) for n in ("second", "first"))
    model = export_deploy(graph_of(x, first, second))
    assert [n.name for n in model.graph.node if n.op_type == "AscendQuant"] == ["first.quant"]
    deep = apply(nn.Identity(), q, name="i")
    model = export_deploy(graph_of(x, layer(deep, "only", integers(8, 4, 3, 3, name="w"))))
    assert node_of(model, "only.quant")[0].op_type == "AscendQuant"


def test_anti_quantizers_hold_the_quantizers_offset() -> None:
    x = image()
    y = apply(ascend.AntiQuant(0.5, 5), quantized(x, offset=-5), name="y")
    node = export_deploy(graph_of(x, y)).graph.node[1]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert node.op_type == "AscendAntiQuant"
    assert attributes == {"scale": 0.5, "offset": -5.0, "dst_type": b"INT8"}


def test_int4_weights_are_packed_along_their_input_channels() -> None:
    x = image()
    weight = integers(8, 4, 3, 3, name="w", elem=I4)
    model = export_deploy(graph_of(x, layer(quantized(x), "c", weight)))
    (stored,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")
    data = weight.producer.kind.data  # type: ignore[union-attr]
    np.testing.assert_array_equal(stored, pack_int4(data.read(), 1))
    assert stored.dtype == np.int8


def odd_channels() -> Value:
    return layer(quantized(image(3)), "c", integers(8, 3, 3, 3, name="w", elem=I4))


def grouped_int4() -> Value:
    return layer(quantized(image()), "c", integers(8, 2, 3, 3, name="w", elem=I4), group=2)


def unpacked() -> Value:
    y = layer(quantized(image()), "c", integers(8, 4, 3, 3, name="w"))
    acc = y.producer.operands[0]  # type: ignore[union-attr]
    return apply(ascend.Dequant(1), acc, const(np.ones(8, np.float32)), origins=origin("c", "Conv"))


def fused() -> Value:
    acc = unpacked().producer.operands[0]  # type: ignore[union-attr]
    return apply(ascend.Requant(1, 3), acc, words(8, "p"), origins=origin("c", "Conv"))


@pytest.mark.parametrize(
    ("make", "finding"),
    [(odd_channels, "N4"), (grouped_int4, "N4"), (unpacked, "run pack-constants"), (fused, r"\[N18\]")],
)
def test_what_the_form_cannot_say_is_refused_by_layer(make: Any, finding: str) -> None:
    y = make()
    x = y
    while x.producer is not None:
        x = x.producer.operands[0]
    with pytest.raises(UnsupportedError, match=rf"^c: .*{finding}"):
        export_deploy(graph_of(x, y))


def test_a_parameter_that_is_also_an_output_is_written_once() -> None:
    graph = conv_graph()
    dequant = graph.outputs[0].producer.operands[0].producer  # type: ignore[union-attr]
    assert dequant is not None
    parameter = dequant.operands[1]
    assert parameter is not None
    both = Graph(graph.inputs, (*graph.outputs, parameter), ("y", "p"), "net")
    again = reread(both)
    assert again.outputs[1].type == parameter.type


def test_saving_chooses_the_form(tmp_path: Path) -> None:
    graph = rich_graph()
    assert is_lowered(graph)
    save(graph, tmp_path / "net.onnx")
    assert without_loc(load(tmp_path / "net.onnx")) == without_loc(graph)
    x = image()
    plain = graph_of(x, apply(nn.Relu(), x, name="r"))
    assert not is_lowered(plain)
    onnx.checker.check_model(onnx.ModelProto.FromString(model_bytes(plain)))
