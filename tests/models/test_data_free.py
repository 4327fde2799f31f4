"""A real model compressed without data, where the data folder is beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

import amctc
from amctc.errors import UsageError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")


def test_statistics_of_normalisations_replace_samples() -> None:
    """All layers but the first, whose input nothing is known of; rounding to nearest by samples has 11 dB."""
    path = DATA / "models" / "mobilenet_v1_0.25_224.onnx"
    result = amctc.compress(path, preset="data-free")
    floats = [layer for layer in result.report.layers if layer.action != "int8"]
    assert [layer.notes for layer in floats] == [("left in float: its input was not observed",)]
    samples = amctc.open_samples_for(amctc.load(path), DATA / "imagenet", preprocess="tf").limited(0, 32)
    scores = amctc.evaluate(amctc.Session(result.deploy_graph), samples, amctc.Session(path))
    assert scores.sqnr_db is not None
    assert scores.sqnr_db > 15


def test_folded_normalisations_are_refused() -> None:
    with pytest.raises(UsageError, match="no layer reads what a batch normalisation determines"):
        amctc.compress(DATA / "models" / "mobilenetv2.onnx", preset="data-free")
