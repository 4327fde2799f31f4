"""Odd models of the real world through everything: load, save, compress, run in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import amctc
from tests.models import odd_forms, odd_images, odd_sequences  # noqa: F401 - they enter their models
from tests.models.odd_builder import MODELS

LEAST_DB = 20.0
"""An int8 layer keeps noise about 35 dB below its signal; these models have three layers at most, none chaotic."""


def outputs(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, node by node as the file says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def sqnr(reference: np.ndarray, actual: np.ndarray) -> float:
    noise = float(np.sum((reference.astype(np.float64) - actual) ** 2))
    return 10 * np.log10(float(np.sum(reference.astype(np.float64) ** 2)) / noise) if noise else np.inf


IN_INTEGERS = {"roll-back": {"budget": 0.0}}
"""Random weights make some layers sensitive; none is to leave for that."""


@pytest.mark.parametrize("name", MODELS)
def test_odd_model(name: str, tmp_path: Path) -> None:
    odd = MODELS[name]()
    source, copy = tmp_path / "model.onnx", tmp_path / "copy.onnx"
    onnx.save(odd.model, source)

    amctc.save(amctc.load(source), copy)
    expected = [outputs(source, feeds) for feeds in odd.samples]
    for feeds, before in zip(odd.samples, expected, strict=True):
        after = outputs(copy, feeds)
        assert list(after) == list(before)
        assert all(np.array_equal(before[n], after[n]) for n in before)

    brings_quantizers = any(node.op_type == "QuantizeLinear" for node in odd.model.graph.node)
    options = None if brings_quantizers else IN_INTEGERS
    result = amctc.compress(source, odd.samples, out=tmp_path / "out", options=options)
    report = result.report
    assert sum(layer.action == "int8" for layer in report.layers) == odd.int8
    for layer in report.layers:  # what stays in float says why, also in the file
        assert (layer.action == "int8") == (layer.name not in odd.reasons), layer
        assert any(odd.reasons.get(layer.name, "") in note for note in layer.notes) or layer.name not in odd.reasons
    for text in odd.notes:
        assert any(text in note for note in report.notes), report.notes
    assert not report.overflows

    session = amctc.Session(result.files["deploy"])
    assert session.kind == "deploy"
    for run in (session.run, lambda feeds: outputs(result.files["fakequant"], feeds)):
        pairs = [(before, run(feeds)) for feeds, before in zip(odd.samples, expected, strict=True)]
        floats = [
            (old[n], new[n]) for old, new in pairs for n in old
            if old[n].dtype.kind == "f" and n not in odd.picked
        ]  # fmt: skip
        assert floats
        old, new = (np.concatenate([side[i].reshape(-1) for side in floats]) for i in (0, 1))
        assert sqnr(old, new) >= LEAST_DB
