"""compress --select: which samples calibrate, what is printed, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from amctc import examples
from amctc.api import load, open_samples_for
from amctc.calibrate.selection import select_samples
from tests.command_line import invoke

COMPRESS = ("compress", "model.onnx", "-d", "cal.npz", "-p", "unit", "--preset", "fast", "-o")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    shutil.copy(examples.model_path(), tmp_path / "model.onnx")
    shutil.copy(examples.calibration_path(), tmp_path / "cal.npz")
    return tmp_path


def call(*words: str) -> tuple[int, str]:
    result = invoke(*words)
    return result.exit_code, result.output


def test_what_is_selected_calibrates(here: Path) -> None:
    """The same files as from a folder with those samples alone."""
    code, printed = call(*COMPRESS, "out", "--select", "8", "--select-by", "k-means")
    assert code == 0, printed
    assert "calibrated on 8 samples" in printed
    graph = load("model.onnx")
    samples = open_samples_for(graph, "cal.npz", preprocess="unit")
    _, selection = select_samples(graph, samples, 8, method="k-means")
    assert str(selection) in printed
    arrays = dict(np.load("cal.npz"))
    np.savez("few.npz", **{name: array[list(selection.indices)] for name, array in arrays.items()})
    words = [w if w != "cal.npz" else "few.npz" for w in COMPRESS]
    code, printed = call(*words, "again")
    assert code == 0, printed
    assert Path("out/model_deploy.onnx").read_bytes() == Path("again/model_deploy.onnx").read_bytes()


def test_among_the_first(here: Path) -> None:
    code, printed = call(*COMPRESS, "out", "-n", "20", "--select", "5")
    assert code == 0, printed
    assert "5 of 20 samples chosen by k-center" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--select", "0"), "--select"),
        (("--select", "4", "--select-by", "chance"), "--select-by"),
        (("--select", "4", "--max-drop", "1"), "--held-back"),
    ],
)
def test_refused(here: Path, words: tuple[str, ...], message: str) -> None:
    code, printed = call(*COMPRESS, "out", *words)
    assert code == 2
    assert message in printed


def test_nothing_to_select_from(here: Path) -> None:
    code, printed = call("compress", "model.onnx", "--preset", "weight-only", "-o", "out", "--select", "4")
    assert code == 2
    assert "no samples to select from" in printed
