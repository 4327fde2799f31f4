"""Real models with products of computed matrices, quantized additions and weights alone in integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import amctc
from amctc.ops import ascend
from amctc.types import Array

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")
ATTENTION = DATA / "models" / "vit_fashion.onnx"
RESIDUAL = DATA / "models" / "cifar10_resnet20.onnx"


def fashion(first: int, end: int) -> list[dict[str, Array]]:
    """Batches of 50 images as the transformer was trained on: standardised with the mean and deviation of the data."""
    with np.load(DATA / "data" / "fashion_test.npz") as data:
        images = (data["x"][first:end, None].astype(np.float32) / 255 - np.float32(0.286)) / np.float32(0.353)
    return [{"image": images[i : i + 50]} for i in range(0, len(images), 50)]


def agreement(model: amctc.Graph, reference: Path, batches: list[dict[str, Array]]) -> float:
    """The share of samples with the same largest score."""
    first, second = amctc.Session(reference), amctc.Session(model)
    same = [
        first.run(b)[first.output_names[0]].argmax(1) == second.run(b)[second.output_names[0]].argmax(1)
        for b in batches
    ]
    return float(np.concatenate(same).mean())


def kinds(result: amctc.Compression) -> Counter[type]:
    return Counter(type(op.kind) for op in result.integer_graph.ops)


def test_attention_in_int8() -> None:
    """Two products of computed matrices in each of four blocks; default on because it costs so little."""
    result = amctc.compress(ATTENTION, fashion(0, 100), compare_samples=1)
    assert {layer.action for layer in result.report.layers} == {"int8"}
    assert kinds(result)[ascend.BatchMatMul] == 8
    assert agreement(result.deploy_graph, ATTENTION, fashion(100, 400)) >= 0.98
    off = amctc.compress(ATTENTION, fashion(0, 100), compare_samples=1, options={"place-qdq": {"two_sided": False}})
    assert kinds(off)[ascend.BatchMatMul] == 0
    left = [layer for layer in off.report.layers if layer.action == "float"]
    assert len(left) == 8
    assert {layer.notes for layer in left} == {("left in float: both sides are computed (two-sided=false)",)}


def test_residual_additions_on_integers() -> None:
    """Every convolution leaves as int8, where without quantized additions half of them leave as float16."""
    reference = amctc.Session(RESIDUAL)
    samples = amctc.open_samples_for(reference, DATA / "data/cifar10_test_jpeg.npz", preprocess="imagenet")
    plain = amctc.compress(RESIDUAL, samples.limited(0, 64), compare_samples=1, preset="fast")
    options = {"observe": {"tensor": ("*",)}, "place-qdq": {"tensor": ("*",)}}
    joined = amctc.compress(RESIDUAL, samples.limited(0, 64), compare_samples=1, options=options, preset="fast")
    assert (kinds(plain)[ascend.Requant], kinds(joined)[ascend.Requant]) == (9, 19)
    scores = amctc.evaluate(amctc.Session(joined.deploy_graph), samples.limited(100, 300), reference)
    assert scores.agreement is not None
    assert scores.agreement >= 0.95


@pytest.mark.parametrize(
    ("options", "least", "share"),
    [({}, 0.99, 0.35), ({"bits": 4, "group": 32}, 0.95, 0.25)],
)  # fmt: skip
def test_weights_alone(options: dict[str, int], least: float, share: float) -> None:
    result = amctc.compress(ATTENTION, preset="weight-only", options={"quantize-weights-only": options})
    report = result.report
    actions = Counter(layer.action for layer in report.layers)
    assert actions["weight-only"] >= 16
    assert report.bytes_after < share * report.bytes_before
    assert agreement(result.deploy_graph, ATTENTION, fashion(100, 400)) >= least
