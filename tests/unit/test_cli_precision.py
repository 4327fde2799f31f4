"""Sensitivities, goals and budgets on the command line, on the shipped example."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from amctc import examples
from tests.command_line import done, refused

DATA = ("-d", "cal.npz", "-p", "unit", "-n", "24", "--preset", "fast")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    shutil.copy(examples.model_path(), tmp_path / "model.onnx")
    shutil.copy(examples.calibration_path(), tmp_path / "cal.npz")
    return tmp_path


def test_sensitivity(here: Path) -> None:
    text = done("sensitivity", "model.onnx", *DATA, "--candidates", "w8a8,w4a8", "--json", "s.json")
    assert "One in: only this layer is quantized" in text
    assert "One out: all layers are quantized but this one" in text
    assert text.endswith("Calibrated on the first 18 samples, measured on the 6 behind them.\n")
    report = json.loads((here / "s.json").read_text())
    assert (report["calibrated"], report["held_back"], report["metric"]) == (18, 6, "sqnr")
    assert len(report["layers"]) == 2 * (12 + 8), "the grouped convolutions and that of one channel take no int4"


def test_sensitivity_by_a_score_of_the_users_own(here: Path) -> None:
    (here / "score.py").write_text("def right(session, samples):\n    return 1.0 if session.kind == 'float' else 0.5\n")
    text = done("sensitivity", "model.onnx", *DATA, "--mode", "one-in", "--evaluator", "score.py:right")
    assert "score" in text
    assert "One out" not in text
    assert text.count("  0.5") == 12


def test_samples_that_are_held_back_follow_those_that_calibrate(here: Path) -> None:
    text = done("sensitivity", "model.onnx", *DATA, "--mode", "one-in", "--held-back", "10")
    assert "Calibrated on the first 24 samples, measured on the 10 behind them." in text


def test_a_goal(here: Path) -> None:
    text = done("compress", "model.onnx", *DATA, "-o", "out", "--min-sqnr", "42")
    assert "Goal: outputs of at least 42 dB: reached; kept: " in text
    report = json.loads((here / "out" / "report.json").read_text())
    precision = report["precision"]
    kept = next(t for t in precision["trials"] if t["name"] == precision["kept"])
    assert kept["sqnr_db"] >= 42 > precision["trials"][0]["sqnr_db"]
    floats = {layer["name"] for layer in report["layers"] if layer["action"] == "float"}
    assert floats == {name for name, chosen in kept["assignment"].items() if chosen == "f16"}
    assert 0 < len(floats) < 12
    done("eval", "out", "-d", "cal.npz")


def test_a_goal_that_is_missed_is_said_aloud(here: Path) -> None:
    text = done("compress", "model.onnx", *DATA, "-o", "out", "--min-sqnr", "120")
    assert "Goal: outputs of at least 120 dB: MISSED; kept: 12 layers in float" in text
    assert "the goal was missed: outputs of at least 120 dB; kept is what comes nearest" in text
    assert (here / "out" / "model_deploy.onnx").exists()


def test_labels_and_scores_of_the_users_own_are_goals(here: Path) -> None:
    (here / "score.py").write_text("def right(session):\n    return 1.0\n")
    text = done("compress", "model.onnx", *DATA, "-o", "out", "--max-drop", "0.5")
    assert "Goal: at most 0.5 points of top-1 lost: reached; kept: the preset as it is" in text
    text = done("compress", "model.onnx", *DATA, "-o", "out", "--max-drop", "0.5", "--evaluator", "score.py:right")
    assert "Goal: a score at most 0.5 below the float model's: reached" in text


def test_a_budget(here: Path) -> None:
    text = done("search", "model.onnx", *DATA, "-o", "out", "--budget-bytes", "0.55x")
    assert "Goal: at most 30.1 KiB: reached; kept: searched" in text
    assert "front.json: the front, with the precision of every layer" in text
    report = json.loads((here / "out" / "report.json").read_text())["precision"]
    assert json.loads((here / "out" / "front.json").read_text()) == report["front"]
    assert {chosen for t in report["front"] for chosen in t["assignment"].values()} == {
        "f16", "w8a16", "w8a8", "w4a8"}  # fmt: skip
    done("eval", "out", "-d", "cal.npz")


def test_a_model_slower_than_float16_is_remarked(here: Path) -> None:
    """Bytes alone leave small layers in float between integer ones."""
    text = done("search", "model.onnx", *DATA, "-n", "8", "-t", "ascend910a", "-o", "out", "--budget-bytes", "0.75x")
    found = json.loads((here / "out" / "report.json").read_text())["precision"]
    whole, _, searched = found["trials"]
    assert searched["time_us"] > whole["time_us"]
    assert found["remarks"] == ["by the estimate this model is slower than all in float16: give a budget of time too"]
    assert found["remarks"][0] in text


def test_a_search_gives_the_same_bytes_under_another_hash_seed(here: Path) -> None:
    words = ["search", "model.onnx", *DATA, "-n", "8", "--budget-time", "0.75x", "-o"]
    done(*words, "here")
    code = "import sys; from amctc.cli import amctc; amctc.main(sys.argv[1:])"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    subprocess.run([sys.executable, "-c", code, *words, "there"], env={**os.environ, "PYTHONHASHSEED": seed},
                   check=True, capture_output=True)  # fmt: skip
    first, second = ({p.name: p.read_bytes() for p in (here / out).iterdir()} for out in ("here", "there"))
    assert set(first) == {"front.json", "model_deploy.onnx", "model_fakequant.onnx", "record.txt", "report.json"}
    assert first == second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "model.onnx", *DATA, "-o", "out"), "no budget; give --budget-bytes or --budget-time"),
        (("search", "model.onnx", *DATA, "-o", "out", "--budget-time", "12KiB"), "--budget-time '12KiB' is no budget"),
        (("search", "model.onnx", "-o", "out", "--budget-time", "0.5x"), "no samples to calibrate and to measure with"),
        (("search", "model.onnx", *DATA, "-o", "out", "--budget-bytes", "0.5x", "--candidates", "w8a16,f16", "--target",
          "ascend310b1"), "ascend310b1 computes no integer weights under float data"),
        (("compress", "model.onnx", *DATA, "-o", "out", "--max-drop", "1", "--min-sqnr", "30"), "a goal is one of"),
        (("compress", "model.onnx", *DATA, "-o", "out", "--held-back", "9"), "go with a goal"),
        (("compress", "model.onnx", *DATA, "-o", "out", "--min-sqnr", "30", "--evaluator", "a.py:f"),
         "--evaluator goes with --max-drop"),
        (("compress", "model.onnx", "-o", "out", "--max-drop", "1"), "no samples to measure with"),
        (("compress", "model.onnx", *DATA, "-o", "out", "--max-drop", "1", "--checkpoint", "c"),
         "a checkpoint keeps one calibration"),
        (("sensitivity", "model.onnx"), "no samples to measure on; give --data"),
        (("sensitivity", "model.onnx", *DATA, "--candidates", "w2"), "no candidate 'w2'"),
    ],
)  # fmt: skip
def test_refused(here: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refused(2, *words)
    assert not (here / "out").exists()
