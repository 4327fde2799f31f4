"""Products of rows in deploy files: the nodes of the graph engine's reader, read back, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from amctc.backends.deploy import export_deploy
from amctc.errors import UnsupportedError
from amctc.frontends.deploy import import_deploy, is_deploy
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, build, const
from amctc.kernels.ascend_table import ascend_table
from amctc.ops import ascend
from amctc.targets import load_profile
from amctc.text import print_graph
from amctc.types import F16, F32, I8, I32, ScalarType, TensorType

RNG = np.random.default_rng(7)
A2 = ascend_table(load_profile("ascend910b1"))
X = GraphInput("x", TensorType(("N", 3, 6), F32))
FC = (Origin("fc", "MatMul"),)


def graph(to: ScalarType = F32, *, trans_b: bool = False, bias: bool = True, offset: int = 0) -> Graph:
    q, steps = build(ascend.DynamicQuant(), X, names=("x.quant", "x.scale")).results
    weight = const(RNG.integers(-99, 99, (4, 6) if trans_b else (6, 4)).astype(np.int8), name="fc.weight")
    scale, b = const(np.float32([0.01, 0.02, 0.5, 1]), name="fc.scale"), const(np.float32([1, 2, 3, 4]), name="fc.bias")
    acc = apply(ascend.MatMul(trans_b, offset), q, weight, origins=FC)
    y = apply(ascend.DequantRows(to), acc, scale, steps, *([b] if bias else []), name="fc/y", origins=FC)
    return Graph((X,), (y,), ("y",))


def nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {n.op_type: n for n in model.graph.node}


def test_the_file_has_the_nodes_that_the_reader_takes() -> None:
    """QuantBatchMatMul: x, w, scale, no offset, bias, row scales; float16 is data type 1 of the graph engine."""
    model = export_deploy(graph(trans_b=True))
    found = nodes(model)
    assert set(found) == {"NPUDynamicQuant", "QuantBatchMatMul", "Cast"}
    quantizer, product = found["NPUDynamicQuant"], found["QuantBatchMatMul"]
    assert (quantizer.name, list(quantizer.output)) == ("fc.quant", ["x.quant", "x.scale"])
    assert (product.name, product.domain) == ("fc", "")
    assert list(product.input) == ["x.quant", "fc.weight", "fc.scale", "", "fc.bias", "x.scale"]
    attributes = {a.name: helper.get_attribute_value(a) for a in product.attribute}
    assert attributes == {"dtype": 1, "transpose_x1": 0, "transpose_x2": 1}
    types = {i.name: i.data_type for i in model.graph.initializer}
    assert types == {"fc.weight": onnx.TensorProto.INT8, "fc.scale": onnx.TensorProto.FLOAT,
                     "fc.bias": onnx.TensorProto.FLOAT}  # fmt: skip


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("to", [F16, F32])
def test_reading_what_was_written_computes_the_same(to: ScalarType, bias: bool, trans_b: bool) -> None:
    """What the file casts to float32 is a cast again; nothing else differs, and a second trip changes nothing."""
    written = graph(to, bias=bias, trans_b=trans_b)
    model = export_deploy(written)
    assert is_deploy(model)
    back = import_deploy(model)
    assert [o.origins for o in back.ops if isinstance(o.kind, ascend.MatMul)] == [(Origin("fc", "QuantBatchMatMul"),)]
    x = RNG.standard_normal((2, 3, 6)).astype(np.float32)
    a, b = (evaluate(g, {"x": x}, A2)["y"] for g in (written, back))
    np.testing.assert_array_equal(a, b)
    again = import_deploy(export_deploy(back))
    assert print_graph(again).replace("y/product", "") == print_graph(back).replace("y/product", "")


def test_float16_data_and_rows_that_two_products_read() -> None:
    x = GraphInput("x", TensorType((3, 6), F16))
    q, steps = build(ascend.DynamicQuant(), x).results
    ends = []
    for name in ("a", "b"):
        weight = const(RNG.integers(-99, 99, (6, 2)).astype(np.int8))
        acc = apply(ascend.MatMul(), q, weight, origins=(Origin(name, "MatMul"),))
        ends.append(apply(ascend.DequantRows(F16), acc, const(np.float32([0.1])), steps))
    two = Graph((x,), tuple(ends), ("a", "b"))
    back = import_deploy(export_deploy(two))
    assert sum(isinstance(op.kind, ascend.DynamicQuant) for op in back.ops) == 1
    feeds = {"x": RNG.standard_normal((3, 6)).astype(np.float16)}
    for name, array in evaluate(two, feeds, A2).items():
        np.testing.assert_array_equal(evaluate(back, feeds, A2)[name], array)


def integer_bias() -> Graph:
    (y,) = graph().outputs
    assert y.producer is not None
    acc, *rest = y.producer.operands
    assert acc is not None
    assert acc.producer is not None
    biased = apply(acc.producer.kind, *acc.producer.operands, const(np.arange(4, dtype=np.int32)))
    return Graph((X,), (apply(ascend.DequantRows(), biased, *rest),), ("y",))


def accumulator_from_outside() -> Graph:
    acc = GraphInput("acc", TensorType((3, 4), I32))
    steps = const(np.ones(3, np.float32))
    return Graph((acc,), (apply(ascend.DequantRows(), acc, const(np.ones(1, np.float32)), steps),), ("y",))


@pytest.mark.parametrize("make", [lambda: graph(offset=3), integer_bias, accumulator_from_outside])
def test_what_the_node_cannot_say_is_refused(make: Any) -> None:
    with pytest.raises(UnsupportedError, match="scales per row of something that is no product"):
        export_deploy(make())


def changed(**attributes: int) -> onnx.ModelProto:
    model = export_deploy(graph(F16))
    product = nodes(model)["QuantBatchMatMul"]
    kept = [a for a in product.attribute if a.name not in attributes]
    del product.attribute[:]
    product.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in attributes.items())])
    return model


def without_input(op_type: str, index: int, name: str = "") -> onnx.ModelProto:
    model = export_deploy(graph(F16))
    node = nodes(model)[op_type]
    while len(node.input) <= index:
        node.input.append("")
    node.input[index] = name
    return model


def int32_weight() -> onnx.ModelProto:
    model = export_deploy(graph(F16))
    (weight,) = (i for i in model.graph.initializer if i.name == "fc.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.int32), "fc.weight"))
    return model


REFUSED: dict[str, Any] = {
    "another type": (lambda: changed(dtype=27), "without a scale per row"),
    "transposed data": (lambda: changed(transpose_x1=1), "without a scale per row"),
    "no scale per row": (lambda: without_input("QuantBatchMatMul", 5), "without a scale per row"),
    "an offset": (lambda: without_input("QuantBatchMatMul", 3, "fc.bias"), "with an offset"),
    "a computed weight": (lambda: without_input("QuantBatchMatMul", 1, "x.quant"), "no constant of int8"),
    "a weight of words": (int32_weight, "no constant of int8"),
    "smooth scales": (lambda: without_input("NPUDynamicQuant", 1, "fc.scale"), "smooth scales"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_other_forms_are_refused(form: str) -> None:
    make, finding = REFUSED[form]
    with pytest.raises(UnsupportedError, match=finding):
        import_deploy(make())


def test_empty_smooth_scales_are_none() -> None:
    """As torch_npu writes them where there are none."""
    model = without_input("NPUDynamicQuant", 1, "none")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "none"))
    value: Value = import_deploy(model).outputs[0]
    assert value.type == TensorType(("N", 3, 4), F16)
    assert I8 in {v.type.elem for v in import_deploy(model).values()}
