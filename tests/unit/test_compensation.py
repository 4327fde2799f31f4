"""Error compensation of whole models: our own folders and a QDQ file of another tool, in Python and as a command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from amctc import Session, compensate, evaluate, examples, load, open_samples_for
from amctc.api import compress
from amctc.calibrate.samples import Samples
from amctc.compensation import COMPENSATION_FILE
from amctc.errors import UsageError
from tests.command_line import invoke

MODEL = load(examples.model_path())
FOUR_BITS = {"quantize-weights": {"bits": 4}}


def samples(path: object, count: int | None = None) -> Samples:
    return open_samples_for(MODEL, path, preprocess="unit", limit=count)


def decibels(model: object) -> float:
    """SQNR on samples that corrected nothing."""
    found = evaluate(Session(model), samples(examples.test_path(), 300), Session(MODEL))
    assert found.sqnr_db is not None
    return found.sqnr_db


def test_what_rounding_to_nearest_lost_comes_back(tmp_path: Path) -> None:
    made = compress(MODEL, samples(examples.calibration_path()), preset="fast", options=FOUR_BITS, out=tmp_path / "out")
    found = compensate(made.files["fakequant"], samples(examples.calibration_path()), MODEL, out=tmp_path / "better")
    assert decibels(tmp_path / "better" / "model_deploy.onnx") > decibels(made.files["deploy"]) + 3.0
    first, *others = found.report.sweeps
    assert first.kept
    assert first.sqnr_after_db > first.sqnr_before_db + 3.0
    assert all(sweep.kept for sweep in others[:-1])
    assert len({name for name, _ in first.layers}) == len(first.layers) > 6
    written = json.loads((tmp_path / "better" / COMPENSATION_FILE).read_text())
    assert (written["corrected"], written["held_back"]) == (75, 25)


class _Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = iter(samples(examples.calibration_path(), 32))

    def get_next(self) -> object:
        return next(self._left, None)


def by_onnx_runtime(folder: Path, *, folded: bool) -> Path:
    """A QDQ file by ONNX Runtime, one scale per weight; normalisations folded by its pre-processing, or not."""
    model, quantized = folder / "model.onnx", folder / "qdq.onnx"
    shutil.copy(examples.model_path(), model)  # the quantizer writes beside it
    if folded:
        quant_pre_process(model, model, skip_symbolic_shape=True)  # that needs sympy
    quantize_static(model, quantized, _Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8)  # fmt: skip
    return quantized


def test_a_qdq_file_of_another_tool(tmp_path: Path) -> None:
    quantized = by_onnx_runtime(tmp_path, folded=True)
    found = compensate(quantized, samples(examples.calibration_path()), examples.model_path())
    assert found.report.sweeps[0].kept
    assert decibels(found.result.deploy_graph) > decibels(quantized) + 1.0


def test_layers_that_are_others_in_the_reference(tmp_path: Path) -> None:
    """Normalisations are not folded, and relus are left to quantizers: no layer is bent to what it is not."""
    quantized = by_onnx_runtime(tmp_path, folded=False)
    found = compensate(quantized, samples(examples.calibration_path()), examples.model_path())
    assert all(s.sqnr_after_db > s.sqnr_before_db - 2.0 for s in found.report.sweeps)
    assert decibels(found.result.deploy_graph) > decibels(quantized) - 1.0


def test_what_is_refused() -> None:
    made = compress(MODEL, samples(examples.calibration_path(), 8), preset="fast")
    with pytest.raises(UsageError, match="the model is a float model, where a qdq one is needed"):
        compensate(MODEL, samples(examples.calibration_path()), MODEL)
    with pytest.raises(UsageError, match="the reference is a qdq model, where a float one is needed"):
        compensate(made.qdq_graph, samples(examples.calibration_path()), made.qdq_graph)
    with pytest.raises(UsageError, match="the model is a deploy model"):
        compensate(made.deploy_graph, samples(examples.calibration_path()), MODEL)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(examples.model_path(), "model.onnx")
    shutil.copy(examples.calibration_path(), "cal.npz")
    assert invoke("compress", "model.onnx", "-d", "cal.npz", "-p", "unit", "-o", "out", "--preset", "fast", "--set",
               "quantize-weights.bits=4", "-t", "ascend310p3").exit_code == 0  # fmt: skip
    result = invoke("compensate", "out", "-d", "cal.npz", "-n", "48", "-o", "better")
    assert result.exit_code == 0, result.output
    assert "out/model_fakequant.onnx beside model.onnx" in result.stdout
    assert "scale and bias corrected: its outputs come from" in result.stdout
    assert "Corrected on 36 samples, judged on 12 others." in result.stdout
    report = json.loads(Path("better/report.json").read_text())
    assert (report["target"], report["preprocess"], report["model"]) == ("ascend310p3", "unit", "model.onnx")
    biases = invoke(
        "compensate", "out/model_fakequant.onnx", "-d", "cal.npz", "-p", "unit", "-n", "48", "--no-rescale", "-o", "b"
    )
    assert "bias corrected" in biases.stdout
    assert "scale and bias" not in biases.stdout
    shutil.copy("out/model_fakequant.onnx", "alone.onnx")
    refused = invoke("compensate", "alone.onnx", "-d", "cal.npz", "-p", "unit", "-o", "b")
    assert refused.exit_code == 2
    assert "no float model to compare with" in refused.stderr
    missing = invoke("compensate", "nothing", "-d", "cal.npz", "-p", "unit", "-o", "b")
    assert (missing.exit_code, missing.stderr) == (3, "amctc: error: nothing: no such model; check the path\n")
