"""The shipped example through everything: the road that `amctc demo` takes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import amctc
import amctc.api
from amctc.examples import calibration_path, model_path, test_path
from amctc.ops import ascend
from amctc.types import F16

CHILD = """
import sys, amctc
from amctc.examples import calibration_path, model_path
graph = amctc.load(model_path())
samples = amctc.open_samples_for(graph, calibration_path(), preprocess="unit")
amctc.compress(model_path(), samples, out=sys.argv[1])
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> amctc.Compression:
    graph = amctc.load(model_path())
    samples = amctc.open_samples_for(graph, calibration_path(), preprocess="unit")
    return amctc.compress(model_path(), samples, out=tmp_path_factory.mktemp("example") / "out")


def images(session: amctc.Session) -> amctc.api.Samples:
    return amctc.open_samples_for(session, test_path(), preprocess="unit")


def test_untouched_model_exported_again_gives_the_same_outputs(tmp_path: Path) -> None:
    amctc.save(amctc.load(model_path()), tmp_path / "copy.onnx")
    onnx.checker.check_model(str(tmp_path / "copy.onnx"), full_check=True)
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    before, after = (
        onnxruntime.InferenceSession(str(p)).run(None, {"image": x})[0] for p in (model_path(), tmp_path / "copy.onnx")
    )
    assert np.array_equal(before, after)


def test_integer_model_loses_at_most_half_a_point(result: amctc.Compression) -> None:
    reference, integer = amctc.Session(model_path()), amctc.Session(result.files["deploy"])
    real, scores = amctc.evaluate(reference, images(reference)), amctc.evaluate(integer, images(integer), reference)
    assert real.samples == scores.samples == 600
    assert real.top1 is not None
    assert real.top1 >= 0.97
    assert scores.top1 is not None
    assert scores.top1 >= real.top1 - 0.005
    assert scores.agreement is not None
    assert scores.agreement >= 0.99
    assert scores.sqnr_db is not None
    assert scores.sqnr_db > 30
    assert not integer.overflows


def test_every_layer_is_integer_and_reported(result: amctc.Compression) -> None:
    report = json.loads(result.files["report"].read_text())
    assert [layer["action"] for layer in report["layers"]] == ["int8"] * 12
    assert all(layer["sqnr_db"] > 25 and layer["steps_max"] is not None for layer in report["layers"])
    assert report["bytes_after"] == result.files["deploy"].stat().st_size
    assert "--soc_version=Ascend910B1" in report["atc"]
    kinds = {type(op.kind) for op in result.integer_graph.ops}
    assert ascend.Requant in kinds
    assert ascend.Dequant in kinds
    islands = [r.type.elem for op in result.integer_graph.ops for r in op.results if op.kind.op_name == "nn.add"]
    assert islands == [F16, F16]


def test_fake_quant_model_is_valid_onnx_and_close_to_the_integer_run(result: amctc.Compression) -> None:
    onnx.checker.check_model(str(result.files["fakequant"]), full_check=True)
    qdq, integer = amctc.Session(result.files["fakequant"]), amctc.Session(result.files["deploy"])
    assert (qdq.kind, integer.kind) == ("qdq", "deploy")
    feeds = next(iter(images(integer)))
    a, b = qdq.run(feeds)["logits"], integer.run(feeds)["logits"]
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_batches_do_not_matter(result: amctc.Compression) -> None:
    session = amctc.Session(result.files["deploy"])
    x = np.random.default_rng(1).random((7, 1, 8, 8), np.float32)
    whole = session.run({"image": x})["logits"]
    parts = np.concatenate([session.run({"image": x[a:b]})["logits"] for a, b in ((0, 1), (1, 4), (4, 7))])
    assert np.array_equal(whole, parts)


def test_empty_batch(result: amctc.Compression) -> None:
    session = amctc.Session(result.files["deploy"])
    assert session.run({"image": np.zeros((0, 1, 8, 8), np.float32)})["logits"].shape == (0, 10)


def test_fusion_can_be_left_out(result: amctc.Compression) -> None:
    fused, unfused = (amctc.Session(result.files["deploy"], fusion=f) for f in (True, False))
    assert any(isinstance(op.kind, ascend.Requant) for op in fused.graph.ops)
    assert not any(isinstance(op.kind, ascend.Requant) for op in unfused.graph.ops)
    feeds = next(iter(images(fused)))
    difference = np.abs(fused.run(feeds)["logits"] - unfused.run(feeds)["logits"])
    assert 0 < difference.max() < 1


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_same_bytes_whatever_the_hash_seed(seed: str, result: amctc.Compression, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "out")], check=True, env=environment)
    here = {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in result.files.items()}
    there = {k: hashlib.sha256((tmp_path / "out" / p.name).read_bytes()).hexdigest() for k, p in result.files.items()}
    # The recorded preprocessing and path are the caller's; everything else must agree.
    assert here == there
