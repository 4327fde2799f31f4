"""Reading deploy models: what real files of the vendor's tool hold, spellings of other tools, what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from amctc.backends.onnx_file import model_bytes
from amctc.errors import AmctcError, InputError, UnsupportedError
from amctc.frontends.deploy import import_deploy, is_deploy
from amctc.frontends.onnx_file import load
from amctc.interp import Kernel, Plan
from amctc.ir import Graph, Op, constant_data, layer_name
from amctc.kernels.ascend_table import ascend_table
from amctc.numerics.int4 import pack_int4, unpack_int4
from amctc.onnx_bridge import CARRIED
from amctc.ops import ascend, nn
from amctc.targets import load_profile
from amctc.text import print_graph
from amctc.types import F16, F32, I4, Array

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
REAL = ["mlp_default", "mlp_dmq", "mlp_fp16mode", "mlp_w4", "net_b2", "net_default", "net_dmq", "net_fp16mode",
        "net_hfmg", "net_pertensor", "net_skip", "net_sym", "net_w4", "net_w4conv", "res_default", "res_dmq",
        "res_nofusion", "res_w4conv"]  # fmt: skip
TARGET = {**ascend_table(load_profile("ascend910b1")), **CARRIED}

golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not here")


def full_scale(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """What the vendor's fake quantization computes: the float32 scale of the file, one float32 product.

    It averages before it multiplies; over the 2 by 2 windows of these files dividing is exact, on either side.
    """
    kind, words = op.kind, constants[1]
    assert isinstance(kind, ascend.Dequant)
    assert words is not None
    scale = (words & 0xFFFFFFFF).astype(np.uint32).view(np.float32) / np.float32(kind.divisor)
    return lambda acc, _: acc.astype(np.float32) * scale.reshape(-1, *(1,) * (acc.ndim - 1 - kind.axis))


def vectors(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / f"e2e_{name}.npz") as file:
        return {key: file[key] for key in file.files}


def deploy_model(name: str) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(vectors(name)["out_deploy_onnx"].tobytes())


def fake_quant(name: str, output: str | None = None) -> Array:
    """The vendor's fake-quantized model on the test input, in ONNX Runtime without optimisation.

    (The stored outputs come from ONNX's reference evaluator, which has batch normalisation of opset 11 wrong.)
    """
    data = vectors(name)
    model = onnx.ModelProto.FromString(data["out_fake_quant_onnx"].tobytes())
    if output is not None:
        model.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=output))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": data["in_x_test"]})
    return np.asarray(y)


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@golden
@pytest.mark.parametrize("name", REAL)
def test_real_files_hold_what_the_graph_holds(name: str) -> None:
    model = deploy_model(name)
    graph, tensors = import_deploy(model), initializers(model)
    quantizers = {n.name: {a.name: helper.get_attribute_value(a) for a in n.attribute}
                  for n in model.graph.node if n.op_type == "AscendQuant"}  # fmt: skip
    types = ("AveragePool", "Conv", "ConvTranspose", "Gemm", "MatMul")
    layers = {n.name: n for n in model.graph.node if n.op_type in types}
    offsets = {}
    for op in graph.ops:
        if isinstance(op.kind, ascend.Quant):
            attributes = quantizers[op.origins[0].name]
            assert (op.kind.scale, op.kind.offset) == (attributes["scale"], attributes["offset"])
            offsets[op.result] = op.kind.offset
        if isinstance(op.kind, ascend.SumPool):
            assert op.kind.offset_x == offsets[op.operands[0]]  # type: ignore[index]
            assert op.kind.kernel == (2, 2)
        if isinstance(op.kind, ascend.Layer) and not isinstance(op.kind, ascend.BatchMatMul):
            node = layers.pop(layer_name(op))
            data, weight = op.operands[0], op.operands[1]
            assert data is not None
            assert weight is not None
            assert op.kind.offset_x == offsets[data]  # type: ignore[index]
            stored, ours = tensors[node.input[1]], read(weight)
            if weight.type.elem == I4:
                axis = next(i for i in range(stored.ndim) if stored.shape[i] != ours.shape[i])
                assert -8 <= ours.min() <= ours.max() <= 7
                np.testing.assert_array_equal(pack_int4(ours, axis), stored)
            else:
                np.testing.assert_array_equal(ours, stored)
            if len(node.input) > 2:
                np.testing.assert_array_equal(read(op.operands[2]), tensors[node.input[2]])
        if isinstance(op.kind, ascend.Dequant):
            acc, parameter = op.operands
            assert acc is not None
            assert acc.producer is not None
            np.testing.assert_array_equal(read(parameter), tensors[f"{layer_name(acc.producer)}.dequant.param"])
    assert len(offsets) == len(quantizers)
    assert {n.op_type for n in layers.values()} <= {"AveragePool"} or name == "net_skip"  # which leaves layers in float


def read(value: Any) -> Array:
    data = constant_data(value)
    assert data is not None
    return data.read()


@golden
@pytest.mark.parametrize("name", REAL)
def test_integer_execution_equals_the_vendors_fake_quantization_bit_for_bit(name: str) -> None:
    graph, wanted = import_deploy(deploy_model(name)), fake_quant(name)
    feeds = {"x": vectors(name)["in_x_test"]}
    (y,) = Plan(graph, {**TARGET, ascend.Dequant: full_scale}).run(feeds).values()
    np.testing.assert_array_equal(y, wanted)
    # On the chip scales lose 13 bits (2^-10 toward zero, N12) and islands are float16: a layer may move by 2^-9 of the
    # largest value, and one step of the next quantizer (2^-8 of it) where that crosses a rounding boundary.
    (y,) = Plan(graph, TARGET).run(feeds).values()
    layers = sum(isinstance(op.kind, ascend.Dequant) for op in graph.ops)
    assert np.abs(y - wanted).max() <= layers * (2**-9 + 2**-8) * np.abs(wanted).max()


@golden
@pytest.mark.parametrize("name", REAL)
def test_a_real_file_written_again_is_the_same_graph(name: str) -> None:
    graph = import_deploy(deploy_model(name))
    data = model_bytes(graph)
    again = import_deploy(onnx.ModelProto.FromString(data))
    assert without_loc(again) == without_loc(graph)
    assert model_bytes(again) == data


def without_loc(graph: Graph) -> list[str]:
    return [line.partition(" loc(")[0] for line in print_graph(graph).splitlines()]


@golden
@pytest.mark.parametrize("name", ["mlp_w4", "res_default"])
def test_a_real_file_cut_anywhere_ends_in_one_line(tmp_path: Path, name: str) -> None:
    data, path = vectors(name)["out_deploy_onnx"].tobytes(), tmp_path / "cut.onnx"
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(AmctcError, match=r"^[^\n]*cut\.onnx: [^\n]*$"):
            load(path)


@golden
def test_flipped_bytes_of_a_real_file_never_end_in_another_exception(tmp_path: Path) -> None:
    data, path = vectors("res_w4conv")["out_deploy_onnx"], tmp_path / "flipped.onnx"
    random = np.random.default_rng(0)
    for _ in range(60):
        broken = data.copy()
        broken[random.integers(0, data.size, 4)] = random.integers(0, 256, 4)
        path.write_bytes(broken.tobytes())
        with contextlib.suppress(AmctcError):
            load(path)


@golden
def test_int4_packing_is_the_vendors() -> None:
    with np.load(GOLDEN / "pack_int4.npz") as file:
        for axis in (0, 1):
            np.testing.assert_array_equal(pack_int4(file["in_int4"], axis), file[f"out_axis{axis}"])
            np.testing.assert_array_equal(unpack_int4(file[f"out_axis{axis}"], axis), file["in_int4"])


# ------------------------------------------------------------------------------------------------ single nodes


def quant(x: str, q: str, **attributes: Any) -> NodeProto:
    fixed = {"scale": 10.0, "offset": -3.0, "dst_type": "INT8", **attributes}
    return helper.make_node("AscendQuant", [x], [q], f"{q}.quant", **{k: v for k, v in fixed.items() if v is not None})


def deploy(*nodes: NodeProto, shape: Sequence[Any] = ("N", 4, 6, 6), **tensors: Array) -> onnx.ModelProto:
    """A model from float ``x`` to ``y``; ``w`` and ``p`` are there unless given."""
    arrays = {"w": np.ones((8, 4, 3, 3), np.int8), "p": np.full(8, 0x3F000000, np.uint64), **tensors}
    graph = helper.make_graph(
        list(nodes), "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def conv(q: str = "q", w: str = "w", **attributes: Any) -> NodeProto:
    return helper.make_node("Conv", [q, w], ["acc"], "c", **attributes)


def average(q: str = "q", **attributes: Any) -> NodeProto:
    return helper.make_node("AveragePool", [q], ["acc"], "p", **{"kernel_shape": [2, 2], **attributes})


def transposed(q: str = "q", **attributes: Any) -> NodeProto:
    return helper.make_node("ConvTranspose", [q, "w"], ["acc"], "t", **attributes)


def dequant(acc: str = "acc", **attributes: Any) -> NodeProto:
    return helper.make_node("AscendDequant", [acc, "p"], ["y"], "c.dequant", **attributes)


def kinds(graph: Graph) -> list[Any]:
    return [op.kind for op in graph.ops if op.operands]


def test_only_ascend_nodes_of_the_default_domain_make_a_deploy_model() -> None:
    assert is_deploy(deploy(quant("x", "y")))
    foreign = helper.make_node("AscendQuant", ["x"], ["y"], domain="other")
    assert not is_deploy(deploy(foreign))
    assert not is_deploy(deploy(helper.make_node("Relu", ["x"], ["y"])))


def test_spellings_of_other_tools_are_read() -> None:
    scales = np.asarray([0.5], np.float32)
    model = deploy(quant("x", "q", dst_type=None, quant_bit=8, offset=None), conv(), dequant(), p=scales)
    first, layer, last = kinds(import_deploy(model))
    assert first == ascend.Quant(10.0, 0)
    assert layer.offset_x == 0
    assert last == ascend.Dequant(1, F32)
    model = deploy(quant("x", "q"), conv(), dequant(dtype=1, relu_flag=1), p=np.asarray(0x3F000000, np.uint64))
    graph = import_deploy(model)
    assert kinds(graph)[2] == ascend.Dequant(1, F16, relu=True)


def test_the_offset_is_followed_back_through_ops_that_move_elements() -> None:
    moving = [
        quant("x", "q"), helper.make_node("MaxPool", ["q"], ["m"], kernel_shape=[1, 1]),
        helper.make_node("Concat", ["m", "q"], ["cat"], axis=1), helper.make_node("Identity", ["cat"], ["i"]),
        helper.make_node("Transpose", ["i"], ["t"], perm=[0, 1, 3, 2]), conv("t"), dequant(),
    ]  # fmt: skip
    found = kinds(import_deploy(deploy(*moving, w=np.ones((8, 8, 3, 3), np.int8))))
    assert [type(k) for k in found] == [ascend.Quant, nn.MaxPool, nn.Concat, nn.Identity, nn.Transpose, ascend.Conv,
                                        ascend.Dequant]  # fmt: skip
    assert found[5].offset_x == -3


def test_a_matmul_takes_the_constant_added_to_its_product_as_bias() -> None:
    bias = np.arange(5, dtype=np.int32)
    for operands in (["acc", "b"], ["b", "acc"]):
        nodes = [quant("x", "q"), helper.make_node("MatMul", ["q", "w"], ["acc"], "m"),
                 helper.make_node("Add", operands, ["sum"], "a"), dequant("sum")]  # fmt: skip
        model = deploy(*nodes, shape=(2, 3, 6), w=np.ones((6, 5), np.int8), b=bias, p=np.ones(5, np.uint64) << 29)
        graph = import_deploy(model)
        layer = next(op for op in graph.ops if isinstance(op.kind, ascend.MatMul))
        assert layer_name(layer) == "m"
        assert [o.name for o in layer.origins] == ["m", "a"]
        np.testing.assert_array_equal(read(layer.operands[2]), bias)
        assert kinds(graph)[-1].axis == 2


def test_int4_weights_are_seen_by_half_the_channels_and_not_under_groups() -> None:
    values = np.random.default_rng(1).integers(-8, 8, (8, 4, 3, 3)).astype(np.int8)
    layer = import_deploy(deploy(quant("x", "q"), conv(), dequant(), w=pack_int4(values, 1))).outputs[0].producer
    assert layer is not None
    weight = layer.operands[0].producer.operands[1]  # type: ignore[union-attr]
    assert weight is not None
    assert weight.type.elem == I4
    np.testing.assert_array_equal(read(weight), values)
    grouped = import_deploy(deploy(quant("x", "q"), conv(group=2), dequant(), w=np.ones((8, 2, 3, 3), np.int8)))
    assert "xi4>" not in print_graph(grouped)


def test_int4_weights_of_a_transposed_convolution_are_packed_along_their_first_axis() -> None:
    values = np.random.default_rng(2).integers(-8, 8, (4, 3, 2, 2)).astype(np.int8)
    packed, words = pack_int4(values, 0), np.full(3, 0x3F000000, np.uint64)
    graph = import_deploy(deploy(quant("x", "q"), transposed(), dequant(), w=packed, p=words))
    layer = next(op for op in graph.ops if isinstance(op.kind, ascend.ConvTranspose))
    assert layer.operands[1].type.elem == I4  # type: ignore[union-attr]
    np.testing.assert_array_equal(read(layer.operands[1]), values)
    assert layer.kind.offset_x == -3
    assert kinds(graph)[-1] == ascend.Dequant(1)


def test_the_dequantizer_of_an_average_divides_by_the_positions() -> None:
    nodes = [quant("x", "q"), average(kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1), dequant()]
    graph = import_deploy(deploy(*nodes, p=np.asarray([0x3F000000], np.uint64)))
    assert kinds(graph)[1:] == [ascend.SumPool((1, 1), (1, 0, 1, 1), (1, 1), (3, 2), -3), ascend.Dequant(1, divisor=6)]


def test_a_ceil_mode_that_adds_no_window_is_nothing_to_mind() -> None:
    model = deploy(quant("x", "q"), average(ceil_mode=1, strides=[2, 2]), dequant(), p=np.asarray([1 << 29], np.uint64))
    assert kinds(import_deploy(model))[1].kernel == (2, 2)


def test_a_matmul_of_two_symmetric_sides() -> None:
    nodes = [quant("x", "q", offset=0.0), quant("x", "r", offset=0.0, scale=2.0),
             helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
             helper.make_node("MatMul", ["q", "t"], ["acc"], "m"), helper.make_node("Add", ["acc", "b"], ["sum"], "a"),
             dequant("sum")]  # fmt: skip
    model = deploy(*nodes, shape=(2, 3, 6), b=np.arange(3, dtype=np.int32), p=np.asarray([1 << 29], np.uint64))
    graph = import_deploy(model)
    product = next(op for op in graph.ops if isinstance(op.kind, ascend.BatchMatMul))
    np.testing.assert_array_equal(read(product.operands[2]), [0, 1, 2])
    assert kinds(graph)[-1] == ascend.Dequant(2)


def test_anti_quant_negates_the_offset() -> None:
    model = deploy(quant("x", "q"), helper.make_node("AscendAntiQuant", ["q"], ["y"], scale=0.1, offset=-3.0))
    kind = kinds(import_deploy(model))[-1]
    assert kind == ascend.AntiQuant(float(np.float32(0.1)), 3, F32)


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ({"scale": float("nan")}, "N1"), ({"scale": 0.0}, "N1"), ({"scale": -1.0}, "N1"),
        ({"scale": float("inf")}, "N1"), ({"scale": None}, "N1"), ({"scale": "1"}, "N1"),
        ({"offset": 0.5}, "N25"), ({"offset": 128.0}, "N25"), ({"offset": float("nan")}, "N25"),
        ({"offset": float("inf")}, "N25"), ({"dst_type": "INT4", "offset": 8.0}, "N25"),
    ],
)  # fmt: skip
def test_bad_quantizers_are_refused_with_their_rule(attributes: dict[str, Any], rule: str) -> None:
    with pytest.raises(InputError, match=rf"node 'q.quant' \(AscendQuant\): .*\[{rule}\]"):
        import_deploy(deploy(quant("x", "q", **attributes), conv(), dequant()))


@pytest.mark.parametrize(
    ("parameter", "rule"),
    [
        (np.asarray([0], np.uint64), "N25"), (np.asarray([0x7F800000], np.uint64), "N25"),
        (np.asarray([0xBF800000], np.uint64), "N25"), (np.asarray([np.nan], np.float32), "N25"),
        (np.asarray([0x3F000000 | 1 << 40], np.uint64), "N10"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_with_their_rule(parameter: Array, rule: str) -> None:
    with pytest.raises(InputError, match=rf"\[{rule}\]"):
        import_deploy(deploy(quant("x", "q"), conv(), dequant(), p=parameter))


def test_the_signed_flag_of_a_parameter_is_no_weight_offset() -> None:
    import_deploy(deploy(quant("x", "q"), conv(), dequant(), p=np.asarray([0x3F000000 | 1 << 46], np.uint64)))


def test_data_of_two_quantizers_cannot_meet_in_a_layer() -> None:
    nodes = [quant("x", "q"), quant("x", "r", offset=4.0), helper.make_node("Concat", ["q", "r"], ["cat"], axis=1),
             conv("cat"), dequant()]  # fmt: skip
    with pytest.raises(InputError, match=r"node 'c' .*\[N19\]"):
        import_deploy(deploy(*nodes, w=np.ones((8, 8, 3, 3), np.int8)))


@pytest.mark.parametrize(
    ("nodes", "finding"),
    [
        ([quant("x", "q"), helper.make_node("GlobalAveragePool", ["q"], ["acc"], "p")], "GlobalAveragePool"),
        ([quant("x", "q"), average("q", pads=[1, 1, 0, 0])], r"different numbers of inputs \[N26\]"),
        ([quant("x", "q"), average("q", ceil_mode=1, kernel_shape=[3, 3], strides=[2, 2])], "different numbers"),
        ([quant("x", "q"), average("q", dilations=[2, 2])], "different numbers of inputs"),
        ([quant("x", "q"), transposed("q", output_shape=[12, 12])], "output_shape"),
        ([quant("x", "q"), transposed("q", auto_pad="SAME_UPPER")], "auto_pad"),
        ([quant("x", "q"), helper.make_node("MatMul", ["q", "q"], ["acc"], "m")], "not symmetric"),
        ([quant("x", "q"), helper.make_node("AscendRequant", ["q", "p"], ["acc"], "r")], "N18"),
        ([quant("x", "q", dst_type="INT16"), conv()], "i16"),
        ([quant("x", "q", round_mode="Floor"), conv()], "round_mode"),
        ([quant("x", "q", dst_type="INT2"), conv()], "INT2"),
        ([quant("x", "q"), conv("q", "q")], "not a constant"),
        ([quant("x", "q"), helper.make_node("Gemm", ["q", "w"], ["acc"], "g", alpha=2.0)], "alpha"),
        ([quant("x", "q"), conv(), helper.make_node("Add", ["acc", "acc"], ["sum"])], "N24"),
        ([helper.make_node("Cast", ["x"], ["q"], to=TensorProto.INT8), conv(), quant("x", "r")], "nn.cast"),
    ],
)
def test_what_is_not_simulated_is_refused(nodes: list[NodeProto], finding: str) -> None:
    with pytest.raises(UnsupportedError, match=finding):
        import_deploy(deploy(*nodes, dequant()))


@pytest.mark.parametrize(
    "node",
    [
        "AscendQuant",
        "AscendDequant",
        "AscendAntiQuant",
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "MaxPool",
    ],
)
def test_missing_operands_are_refused_by_node(node: str) -> None:
    alone = helper.make_node(node, [], ["y"], "lonely", scale=1.0)
    with pytest.raises(InputError, match="node 'lonely'"):
        import_deploy(deploy(quant("x", "q"), alone))


def test_a_long_chain_of_moves_is_followed_without_recursion() -> None:
    chain = [helper.make_node("Identity", [f"i{k}"], [f"i{k + 1}"]) for k in range(3000)]
    graph = import_deploy(deploy(quant("x", "i0"), *chain, conv("i3000"), dequant()))
    assert kinds(graph)[-2].offset_x == -3
