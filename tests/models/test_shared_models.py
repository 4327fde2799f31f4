"""Real models, where the data folder is beside the checkout: import, export, compress, run as integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import amctc
from amctc.calibrate.preprocess import Preprocess
from amctc.errors import UnsupportedError
from amctc.preset import load_preset

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")

# Model, samples, preprocessing, agreement with float that the integer run must reach on 64 samples.
MODELS = {
    "mobilenetv2": ("imagenet", "imagenet", 0.92),
    "squeezenet1.1": ("imagenet", "imagenet", 0.92),
    "mobilenet_v1_0.25_224": ("imagenet", "tf", 0.85),
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
    floats = [layer for layer in result.report.layers if layer.action != "int8"]
    assert all("it alone limits the outputs" in layer.notes[0] for layer in floats), "rolled back, and nothing else"
    assert sum(layer.macs or 0 for layer in floats) <= 0.1 * sum(layer.macs or 0 for layer in result.report.layers)
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


def test_formulas_that_an_exporter_wrote_out_are_recognised() -> None:
    """PyTorch at opset 13: nine layer normalisations of nine nodes each, four gelus of five."""
    graph = amctc.load(DATA / "models" / "vit_fashion.onnx")
    prepared = load_preset("balanced").prepare.run(graph, amctc.Context()).graph
    found = Counter(op.kind.op_name for op in prepared.ops)
    assert (found["nn.layer_norm"], found["nn.gelu"]) == (9, 4)
    assert not any(found[f"nn.{name}"] for name in ("erf", "sqrt", "sub", "reduce_mean"))
    preprocess = Preprocess(divisor=255.0, mean=(0.2860,), std=(0.3530,))
    samples = amctc.open_samples_for(graph, DATA / "data" / "fashion_test.npz", preprocess=preprocess)
    scores = amctc.evaluate(amctc.Session(prepared), samples.limited(0, 64), amctc.Session(graph))
    assert scores.agreement == 1.0


def test_the_deploy_file_computes_what_the_graph_in_memory_does(tmp_path: Path) -> None:
    """The file's opset has no gelu: its formula is found again when the file is compiled."""
    path = DATA / "models" / "vit_fashion.onnx"
    preprocess = Preprocess(divisor=255.0, mean=(0.2860,), std=(0.3530,))
    samples = amctc.open_samples_for(amctc.load(path), DATA / "data" / "fashion_test.npz", preprocess=preprocess)
    result = amctc.compress(path, samples.limited(0, 16), out=tmp_path / "out", compare_samples=2)
    sessions = [amctc.Session(g) for g in (result.deploy_graph, tmp_path / "out" / "model_deploy.onnx")]
    for feeds in samples.limited(100, 102):
        memory, file = (session.run(feeds) for session in sessions)
        np.testing.assert_array_equal(memory["logits"], file["logits"])
