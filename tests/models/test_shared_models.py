"""Real models, where the data folder is beside the checkout: import, export, compress, run as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import amctc
from amctc.errors import UnsupportedError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")

# Model, samples, preprocessing, agreement with float that the integer run must reach on 64 samples.
MODELS = {
    "mobilenetv2": ("imagenet", "imagenet", 0.85),
    "squeezenet1.1": ("imagenet", "imagenet", 0.88),
    "mobilenet_v1_0.25_224": ("imagenet", "tf", 0.65),
    "cifar10_resnet20": ("data/cifar10_test_jpeg.npz", "imagenet", 0.95),
    "mnist-8": ("data/mnist_test.npz", "unit", 0.98),
}


@pytest.mark.parametrize("name", [*MODELS, "vit_fashion"])
def test_export_of_an_untouched_model(name: str, tmp_path: Path) -> None:
    path = DATA / "models" / f"{name}.onnx"
    graph = amctc.load(path)
    amctc.save(graph, tmp_path / "copy.onnx")
    rng = np.random.default_rng(0)
    feeds = {
        i.name: rng.normal(size=[d if isinstance(d, int) else 2 for d in i.type.dims]).astype(np.float32)
        for i in graph.inputs
    }
    before, after = (onnxruntime.InferenceSession(str(p)).run(None, feeds) for p in (path, tmp_path / "copy.onnx"))
    assert len(before) == len(after)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_compress_and_run(name: str) -> None:
    folder, preprocess, least = MODELS[name]
    path = DATA / "models" / f"{name}.onnx"
    reference = amctc.Session(path)
    samples = amctc.open_samples_for(reference, DATA / folder, preprocess=preprocess)
    result = amctc.compress(path, samples.limited(0, 32), compare_samples=2)
    assert {layer.action for layer in result.report.layers} == {"int8"}
    assert not result.report.overflows
    assert result.report.bytes_after < 0.4 * result.report.bytes_before
    assert result.report.time_us is not None
    integer = amctc.Session(result.deploy_graph)
    scores = amctc.evaluate(integer, samples.limited(100, 164), reference)
    assert scores.agreement is not None
    assert scores.agreement >= least


def test_a_quantized_model_is_not_compressed_again(tmp_path: Path) -> None:
    path = DATA / "models" / "mnist-8.onnx"
    samples = amctc.open_samples_for(amctc.load(path), DATA / "data/mnist_test.npz", preprocess="unit", limit=4)
    result = amctc.compress(path, samples, out=tmp_path / "out")
    with pytest.raises(UnsupportedError, match="quantized already"):
        amctc.compress(result.files["deploy"], samples)
