"""Models that ONNX Runtime's quantizer made, in both its formats, through everything."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import amctc
from amctc.examples import calibration_path, model_path, test_path
from amctc.ops import ascend, nn
from amctc.ops.onnx import Node

quantization = pytest.importorskip("onnxruntime.quantization")

FORMATS = ["QOperator", "QDQ"]
TYPES = ["QUInt8", "QInt8"]


class Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The shipped calibration images, as ONNX Runtime wants them."""

    def __init__(self) -> None:
        samples = amctc.open_samples_for(amctc.load(model_path()), calibration_path(), preprocess="unit")
        self._batches = iter(list(samples))

    def get_next(self) -> Any:
        return next(self._batches, None)


@pytest.fixture(scope="module", params=[(f, t) for f in FORMATS for t in TYPES], ids="-".join)
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network quantized by ONNX Runtime."""
    form, storage = request.param
    folder = tmp_path_factory.mktemp("quantized")
    original, path = folder / "float.onnx", folder / f"{form}.onnx"
    shutil.copyfile(model_path(), original)  # the quantizer writes a file beside the model it reads
    logging.disable(logging.WARNING)  # it recommends a preprocessing that the network does not need
    try:
        quantization.quantize_static(
            str(original), str(path), Batches(), quant_format=quantization.QuantFormat[form],
            activation_type=quantization.QuantType[storage], weight_type=quantization.QuantType.QInt8,
            per_channel=True, reduce_range=True,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return path


def test_every_layer_is_seen(quantized: Path) -> None:
    graph, original = amctc.load(quantized), amctc.load(model_path())
    assert not any(isinstance(op.kind, Node) for op in graph.ops)
    layers = [sum(isinstance(op.kind, nn.Layer) for op in g.ops) for g in (graph, original)]
    assert layers[0] == layers[1] > 0


def test_the_exported_model_agrees_with_the_quantizers_own(quantized: Path, tmp_path: Path) -> None:
    """At most a step of the last quantizer apart in each of ten outputs; the same digit but for ties."""
    amctc.save(amctc.load(quantized), tmp_path / "ours.onnx")
    onnx.checker.check_model(str(tmp_path / "ours.onnx"), full_check=True)
    model = amctc.load(quantized)
    digits = next(iter(amctc.open_samples_for(model, test_path(), preprocess="unit")))
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    theirs, ours = (InferenceSession(str(p), options).run(None, digits)[0] for p in (quantized, tmp_path / "ours.onnx"))
    same = (theirs.argmax(1) == ours.argmax(1)).mean()
    assert same >= 1 - 2 / len(ours)
    assert (theirs == ours).mean() > 0.5


def test_compress_lowers_it_without_samples(quantized: Path, tmp_path: Path) -> None:
    result = amctc.compress(quantized, None, out=tmp_path / "out")
    layers = [op for op in result.deploy_graph.ops if isinstance(op.kind, ascend.Layer)]
    assert len(layers) == sum(isinstance(op.kind, nn.Layer) for op in result.float_graph.ops)
    reference, integer = amctc.Session(quantized), amctc.Session(result.files["deploy"])
    images = amctc.open_samples_for(integer, test_path(), preprocess="unit")
    before, after = amctc.evaluate(reference, images), amctc.evaluate(integer, images, reference)
    assert before.top1 is not None
    assert after.top1 is not None
    assert after.top1 >= before.top1 - 0.01
    assert before.top1 >= 0.95


@pytest.mark.parametrize("threshold", [0, 1 << 30])
def test_weights_may_lie_beside_the_files(tmp_path: Path, threshold: int) -> None:
    samples = amctc.open_samples_for(amctc.load(model_path()), calibration_path(), preprocess="unit").limited(0, 40)
    result = amctc.compress(model_path(), samples, out=tmp_path / "out", external_data_threshold=threshold,
                            compare_samples=8)  # fmt: skip
    names = {p.name for p in (tmp_path / "out").iterdir()}
    outside = {"model_deploy.onnx.data", "model_fakequant.onnx.data"}
    assert names == {"model_deploy.onnx", "model_fakequant.onnx", "record.txt", "report.json"} | (
        set() if threshold else outside
    )
    x = {"image": np.random.default_rng(0).random((5, 1, 8, 8), np.float32)}
    for key, graph in (("deploy", result.deploy_graph), ("fakequant", result.qdq_graph)):
        written, held = amctc.Session(result.files[key]).run(x), amctc.Session(graph).run(x)
        for name, array in held.items():
            np.testing.assert_array_equal(written[name], array)
    files = [p for p in (tmp_path / "out").iterdir() if p.name.startswith("model_deploy")]
    assert result.report.bytes_after == sum(p.stat().st_size for p in files)
