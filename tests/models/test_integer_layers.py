"""Whole compressions of small models with every integer layer of the target: what runs in int8, and how close it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import amctc
from amctc.api import evaluate_variants
from amctc.numerics.error import ErrorStatistics
from amctc.ops import ascend
from amctc.pipeline import Context, Pipeline
from amctc.session import Session
from amctc.targets import load_profile
from amctc.types import Array

RNG = np.random.default_rng(44)
ORDINARY_SQNR_DB = 30.0
"""8 bits give about 6 dB each; random weights and data, a few layers deep, stay well above this."""


def model(nodes: Sequence[NodeProto], shape: Sequence[int], **weights: tuple[int, ...]) -> onnx.ModelProto:
    """From ``x`` [N, *shape] to ``y``; ``weights`` are drawn, ``c`` is the constant 0.2."""
    drawn = {n: RNG.standard_normal(s) / np.sqrt(max(1, np.prod(s[1:]))) for n, s in weights.items()}
    tensors = [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in {**drawn, "c": np.array(0.2)}.items()]
    used = {i for node in nodes for i in node.input}
    graph = helper.make_graph(
        list(nodes), "m", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [t for t in tensors if t.name in used],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def node(op_type: str, *names: str, **attributes: Any) -> NodeProto:
    """The last name is the result, and the node's own."""
    return helper.make_node(op_type, list(names[:-1]), [names[-1]], names[-1], **attributes)


def transposed() -> onnx.ModelProto:
    """Groups, pads, output padding, between convolutions."""
    return model(
        [
            node("Conv", "x", "w0", "b0", "a", pads=[1] * 4), node("Relu", "a", "r"),
            node("ConvTranspose", "r", "w1", "b1", "t", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1], group=2),
            node("Relu", "t", "u"), node("Conv", "u", "w2", "y", pads=[1] * 4),
        ],
        (3, 8, 8), w0=(8, 3, 3, 3), b0=(8,), w1=(8, 3, 3, 3), b1=(6,), w2=(4, 6, 3, 3),
    )  # fmt: skip


def line() -> onnx.ModelProto:
    """One spatial axis; a stride above the kernel."""
    return model(
        [node("Conv", "x", "w0", "a", pads=[1, 1], dilations=[1]), node("ConvTranspose", "a", "w1", "t", strides=[5]),
         node("Conv", "t", "w2", "b2", "y", strides=[2])],
        (3, 16), w0=(8, 3, 3), w1=(8, 4, 4), w2=(5, 4, 3), b2=(5,),
    )  # fmt: skip


def room() -> onnx.ModelProto:
    """Three spatial axes."""
    return model(
        [node("Conv", "x", "w0", "b0", "a", pads=[1] * 6), node("Relu", "a", "r"),
         node("ConvTranspose", "r", "w1", "t", strides=[1, 2, 2]), node("Conv", "t", "w2", "y")],
        (2, 4, 6, 5), w0=(6, 2, 3, 3, 3), b0=(6,), w1=(6, 4, 2, 2, 2), w2=(3, 4, 1, 2, 2),
    )  # fmt: skip


def averaged() -> onnx.ModelProto:
    return model(
        [node("Conv", "x", "w0", "b0", "a", pads=[1] * 4), node("Relu", "a", "r"),
         node("AveragePool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Conv", "p", "w1", "d", pads=[1] * 4),
         node("AveragePool", "d", "y", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)],
        (3, 8, 8), w0=(8, 3, 3, 3), b0=(8,), w1=(4, 8, 3, 3),
    )  # fmt: skip


def attention() -> onnx.ModelProto:
    """Two products of computed sides: scores and mixture."""
    return model(
        [
            *(node("MatMul", "x", f"w{n}", n) for n in ("queries", "keys", "values")),
            node("Transpose", "keys", "turned", perm=[0, 2, 1]), node("MatMul", "queries", "turned", "scores"),
            node("Mul", "scores", "c", "scaled"), node("Softmax", "scaled", "shares", axis=-1),
            node("MatMul", "shares", "values", "mixture"), node("MatMul", "mixture", "wout", "y"),
        ],
        (12, 32), wqueries=(32, 32), wkeys=(32, 32), wvalues=(32, 32), wout=(32, 32),
    )  # fmt: skip


def residual() -> onnx.ModelProto:
    """An addition and a max pool whose inputs are quantized on request."""
    return model(
        [
            node("Conv", "x", "w0", "b0", "a", pads=[1] * 4), node("Relu", "a", "r"),
            node("MaxPool", "r", "largest", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "largest", "w1", "d", pads=[1] * 4), node("Add", "d", "largest", "sum"),
            node("Conv", "sum", "w2", "y", pads=[1] * 4),
        ],
        (3, 8, 8), w0=(8, 3, 3, 3), b0=(8,), w1=(8, 8, 3, 3), w2=(4, 8, 3, 3),
    )  # fmt: skip


def perceptron() -> onnx.ModelProto:
    return model(
        [node("MatMul", "x", "w0", "m"), node("Add", "m", "b0", "a"), node("Relu", "a", "r"),
         node("Gemm", "r", "w1", "b1", "g", transB=1), node("Tanh", "g", "h"), node("MatMul", "h", "w2", "y")],
        (96,), w0=(96, 64), b0=(64,), w1=(80, 64), b1=(80,), w2=(80, 10),
    )  # fmt: skip


def drawn(made: onnx.ModelProto, count: int) -> list[dict[str, Array]]:
    shape = [d.dim_value or 4 for d in made.graph.input[0].type.tensor_type.shape.dim]
    return [{"x": RNG.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def sqnr(wanted: Session, found: Session, feeds: dict[str, Array]) -> float:
    return ErrorStatistics().updated(wanted.run(feeds)["y"], found.run(feeds)["y"]).sqnr_db


CASES: dict[str, tuple[onnx.ModelProto, dict[str, Any], type]] = {
    "transposed": (transposed(), {}, ascend.ConvTranspose),
    "line": (line(), {}, ascend.ConvTranspose),
    "room": (room(), {}, ascend.ConvTranspose),
    "averaged": (averaged(), {}, ascend.SumPool),
    "attention": (attention(), {}, ascend.BatchMatMul),
    "residual": (residual(), {n: {"tensor": ["sum", "largest"]} for n in ("observe", "place-qdq")}, ascend.AntiQuant),
}


@pytest.mark.parametrize("name", CASES)
def test_all_layers_run_in_integers(name: str, tmp_path: Path) -> None:
    made, options, kind = CASES[name]
    onnx.save(made, tmp_path / "float.onnx")
    result = amctc.compress(
        tmp_path / "float.onnx", drawn(made, 4), out=tmp_path / "out", options=options, preset="fast"
    )
    assert {layer.name: layer.action for layer in result.report.layers if layer.action != "int8"} == {}
    assert any(isinstance(op.kind, kind) for op in result.integer_graph.ops)
    real, chip = Session(tmp_path / "float.onnx"), Session(tmp_path / "out" / "model_deploy.onnx")
    (feeds,) = drawn(made, 1)
    assert sqnr(real, chip, feeds) >= ORDINARY_SQNR_DB
    np.testing.assert_array_equal(chip.run(feeds)["y"], Session(result.deploy_graph).run(feeds)["y"])
    unfused = Session(tmp_path / "out" / "model_deploy.onnx", fusion=False)
    assert sqnr(real, unfused, feeds) >= ORDINARY_SQNR_DB


def test_averages_in_either_form_agree_with_the_float_model(tmp_path: Path) -> None:
    made = averaged()
    onnx.save(made, tmp_path / "float.onnx")
    result = amctc.compress(tmp_path / "float.onnx", drawn(made, 4), preset="fast")
    variants = evaluate_variants(result.deploy_graph, drawn(made, 2), Session(tmp_path / "float.onnx"))
    (other,) = (v for v in variants if v.choice == "average_pool_int8")
    assert (other.value, other.default, other.simulated) == ("f16", "requant", True)
    assert other.same is not None
    assert other.same < 1
    assert other.sqnr_db is not None
    assert other.sqnr_db >= ORDINARY_SQNR_DB


def test_products_of_computed_sides_stay_in_float_where_they_do_not_pay(tmp_path: Path) -> None:
    made = attention()
    onnx.save(made, tmp_path / "float.onnx")
    report = amctc.compress(tmp_path / "float.onnx", drawn(made, 2), target="ascend310p3").report
    floats = {layer.name: layer.notes for layer in report.layers if layer.action == "float"}
    reason = "left in float: both sides are computed, which does not pay on ascend310p3"
    assert floats == {"scores": (reason,), "mixture": (reason,)}


WEIGHT_ONLY = ("bits=8", "bits=8 symmetric=false", "bits=8 group=32", "bits=4 group=32 symmetric=false")


@pytest.mark.parametrize("options", WEIGHT_ONLY)
def test_weight_only_models(options: str, tmp_path: Path) -> None:
    """The file reads back as it was written and runs as the target would, in float16, close to the QDQ model."""
    made, profile = perceptron(), load_profile("ascend910b1")
    onnx.save(made, tmp_path / "float.onnx")
    context = Context(target=profile)
    quantized = (
        Pipeline.parse(f"fold-affine,fuse-activation,quantize-weights-only{{{options}}}")
        .run(amctc.load(tmp_path / "float.onnx"), context)
        .graph
    )
    lowered = Pipeline.parse("legalize,to-ascend,pack-constants").run(quantized, context).graph
    assert [op.kind.op_name for op in lowered.ops].count("ascend.weight_quant_matmul") == 3
    deploy = lowered.with_metadata(amctc__target=profile.name)
    amctc.save(deploy, tmp_path / "deploy.onnx")
    chip = Session(tmp_path / "deploy.onnx")
    assert chip.kind == "deploy"
    (feeds,) = drawn(made, 1)
    np.testing.assert_array_equal(chip.run(feeds)["y"], Session(deploy).run(feeds)["y"])
    # What is left between the two is float16: 11 bits of data, weights and results in three layers.
    assert sqnr(Session(quantized), chip, feeds) >= 50
    if "bits=8" in options:
        assert sqnr(Session(tmp_path / "float.onnx"), chip, feeds) >= ORDINARY_SQNR_DB
