"""Every form in which ONNX Runtime quantizes a convolutional network and a perceptron: all layers run in int8."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

import amctc
from amctc.numerics.error import sqnr_db
from amctc.ops import ascend, nn
from amctc.types import Array
from tests.models.odd_builder import Draw, model, node, tensor

quantization = pytest.importorskip("onnxruntime.quantization")

SHAPES: dict[str, tuple[int, ...]] = {"convolutions": (3, 12, 12), "perceptron": (12,)}
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {}


def network(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Enter a network under the name of its function."""
    NETWORKS[build.__name__] = build
    return build


@network
def convolutions() -> onnx.ModelProto:
    """A stem, a depthwise separable block whose channels differ in size, a residual block, a classifier."""
    d = Draw(31)
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4), node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1] * 4, group=8, strides=[2, 2]),
        node("Clip", ["c2", "zero", "six"], ["r2"], "relu6"),
        node("Conv", ["r2", "w3"], ["c3"], "conv3"), node("Relu", ["c3"], ["r3"], "relu3"),
        node("MaxPool", ["r3"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w4"], ["c4"], "conv4"), node("Add", ["c4", "p"], ["a"], "add"),
        node("GlobalAveragePool", ["a"], ["g"], "mean"), node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w5", "b5"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    depthwise = d.rng.standard_normal((8, 1, 3, 3)) * np.exp(d.rng.standard_normal((8, 1, 1, 1))) / 3
    weights = [
        d.weight("w1", 8, 3, 3, 3), d.weight("b1", 8), tensor("w2", depthwise), d.weight("b2", 8),
        d.weight("w3", 16, 8, 1, 1), d.weight("w4", 16, 16, 1, 1), d.weight("w5", 10, 16), d.weight("b5", 10),
        tensor("zero", 0.0), tensor("six", 6.0),
    ]  # fmt: skip
    return model(nodes, {"x": ["n", *SHAPES["convolutions"]]}, {"y": ["n", 10]}, weights)


@network
def perceptron() -> onnx.ModelProto:
    """A product with its bias added, a Gemm, a product without bias."""
    d = Draw(32)
    nodes = [
        node("MatMul", ["x", "w1"], ["m1"], "fc1"), node("Add", ["m1", "b1"], ["a1"], "bias1"),
        node("Relu", ["a1"], ["r1"], "relu1"), node("Gemm", ["r1", "w2", "b2"], ["g2"], "fc2"),
        node("Tanh", ["g2"], ["t2"], "tanh2"), node("MatMul", ["t2", "w3"], ["y"], "fc3"),
    ]  # fmt: skip
    weights = [d.weight("w1", 12, 24), d.weight("b1", 24), d.weight("w2", 24, 24), d.weight("b2", 24),
               d.weight("w3", 24, 5)]  # fmt: skip
    return model(nodes, {"x": ["n", 12]}, {"y": ["n", 5]}, weights)


def batches(name: str) -> list[dict[str, Array]]:
    """What calibrates is what is compared: no input leaves the ranges found."""
    rng = np.random.default_rng(33)
    return [{"x": rng.standard_normal((8, *SHAPES[name])).astype(np.float32)} for _ in range(4)]


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches as ONNX Runtime wants them."""

    def __init__(self, name: str) -> None:
        self._batches = iter(batches(name))

    def get_next(self) -> Any:
        return next(self._batches, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the advice to preprocess, which these networks do not need."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def check(path: Path, name: str, result: amctc.api.Compression, *, least: float) -> None:
    """Every layer of the network in int8, and the integer run near the quantized model in ONNX Runtime."""
    count = sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in NETWORKS[name]().graph.node)
    assert sum(isinstance(op.kind, nn.Layer) for op in result.float_graph.ops) == count
    assert sum(isinstance(op.kind, ascend.Layer) for op in result.integer_graph.ops) == count
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    theirs, ours = InferenceSession(str(path), options), amctc.Session(result.deploy_graph)
    pairs = [(theirs.run(None, feeds)[0], ours.run(feeds)["y"]) for feeds in batches(name)]
    expected, found = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert sqnr_db(expected, found) >= least


# Signed data with unsigned weights is refused by the quantizer itself.
STATIC = list(itertools.product(NETWORKS, ("QDQ", "QOperator"), ("u8u8", "u8s8", "s8s8"), (False, True)))
TYPES = {"u8": "QUInt8", "s8": "QInt8"}


@pytest.mark.parametrize(("name", "form", "types", "per_channel"), STATIC)
def test_static(name: str, form: str, types: str, per_channel: bool, tmp_path: Path) -> None:
    """Ranges are the model's own, so what differs is a step here and there.

    More where weights had zero points: every channel beyond int8 is rounded a second time.
    """
    onnx.save(NETWORKS[name](), tmp_path / "float.onnx")
    with quiet():
        quantization.quantize_static(
            str(tmp_path / "float.onnx"), str(tmp_path / "quantized.onnx"), Reader(name), per_channel=per_channel,
            quant_format=quantization.QuantFormat[form], activation_type=quantization.QuantType[TYPES[types[:2]]],
            weight_type=quantization.QuantType[TYPES[types[2:]]],
        )  # fmt: skip
    result = amctc.compress(tmp_path / "quantized.onnx")
    again = any("a second time" in n for layer in result.report.layers for n in layer.notes)
    assert again <= (types == "u8u8")
    check(tmp_path / "quantized.onnx", name, result, least=28 if again else 30)


@pytest.mark.parametrize(("name", "weight", "per_channel"), list(itertools.product(NETWORKS, TYPES, (False, True))))
def test_dynamic(name: str, weight: str, per_channel: bool, tmp_path: Path) -> None:
    """Ranges are calibrated, and two quantizers of eight bits differ more than two runs of one."""
    onnx.save(NETWORKS[name](), tmp_path / "float.onnx")
    with quiet():
        quantization.quantize_dynamic(
            str(tmp_path / "float.onnx"), str(tmp_path / "quantized.onnx"), per_channel=per_channel,
            weight_type=quantization.QuantType[TYPES[weight]],
        )  # fmt: skip
    result = amctc.compress(tmp_path / "quantized.onnx", batches(name))
    check(tmp_path / "quantized.onnx", name, result, least=25)
    assert all("made a float layer" in layer.notes[0] for layer in result.report.layers)
    assert result.report.notes == ()


def test_dynamic_behind_an_embedding(tmp_path: Path) -> None:
    """Its table comes in integers too, and is no sign that anything was calibrated: layers become int8."""
    d = Draw(34)
    nodes = [
        node("Gather", ["table", "ids"], ["e"], "embedding"), node("MatMul", ["e", "w1"], ["m"], "fc1"),
        node("Relu", ["m"], ["r"], "relu"), node("MatMul", ["r", "w2"], ["y"], "fc2"),
    ]  # fmt: skip
    weights = [d.weight("table", 50, 16), d.weight("w1", 16, 32), d.weight("w2", 32, 5)]
    inputs = {"ids": (onnx.TensorProto.INT64, ["n", 7])}
    onnx.save(model(nodes, inputs, {"y": ["n", 7, 5]}, weights), tmp_path / "float.onnx")
    with quiet():
        quantization.quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "quantized.onnx"))
    samples = [{"ids": d.rng.integers(0, 50, (8, 7))} for _ in range(4)]
    result = amctc.compress(tmp_path / "quantized.onnx", samples)
    assert [layer.action for layer in result.report.layers] == ["int8", "int8"]
    theirs, ours = (amctc.Session(m).run(samples[0])["y"] for m in (tmp_path / "quantized.onnx", result.deploy_graph))
    assert sqnr_db(theirs, ours) > 25
    assert result.report.notes == ()


def test_dynamic_models_are_carried_when_only_loaded(tmp_path: Path) -> None:
    onnx.save(perceptron(), tmp_path / "float.onnx")
    with quiet():
        quantization.quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "quantized.onnx"))
    amctc.save(amctc.load(tmp_path / "quantized.onnx"), tmp_path / "again.onnx")
    x = batches("perceptron")[0]
    first, again = (amctc.Session(tmp_path / f"{n}.onnx").run(x)["y"] for n in ("quantized", "again"))
    np.testing.assert_array_equal(again, first)
    kinds = [sorted(n.op_type for n in onnx.load(tmp_path / f"{f}.onnx").graph.node) for f in ("quantized", "again")]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("between", ["Identity", "Neg"])
@pytest.mark.parametrize(("storage", "zero"), [("uint8", 100), ("int8", -28)])
def test_integer_interfaces(storage: str, zero: int, between: str, tmp_path: Path) -> None:
    """As converted TFLite models have them: integers go in and come out, in both signs."""
    built = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        net ({storage}[8,4] x) => ({storage}[8,3] y) <float s = {{0.05}}, {storage} z = {{{zero}}}, float t = {{0.4}},
        int8[4,3] w = {{1,2,3,-4,5,6,7,8,-9,10,11,12}}, float ws = {{0.125}}, int8 wz = {{0}}> {{
        a = DequantizeLinear(x, s, z) b = DequantizeLinear(w, ws, wz) c = MatMul(a, b) d = {between}(c)
        y = QuantizeLinear(d, t, z) }}""")
    onnx.save(built, tmp_path / "model.onnx")
    result = amctc.compress(tmp_path / "model.onnx")
    assert sum(isinstance(op.kind, ascend.Layer) for op in result.integer_graph.ops) == 1
    info = np.iinfo(storage)
    x = {"x": np.random.default_rng(34).integers(info.min, info.max + 1, (8, 4)).astype(storage)}
    theirs, ours = (amctc.Session(m).run(x)["y"] for m in (tmp_path / "model.onnx", result.deploy_graph))
    assert ours.dtype == theirs.dtype
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert len(np.unique(theirs)) > 10
