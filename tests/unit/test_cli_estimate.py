"""`amctc estimate` and `amctc eval --variants`, end to end."""

from __future__ import annotations

import shutil

import pytest

from amctc import examples
from amctc.api import save
from amctc.ir import Graph, GraphInput, apply
from amctc.ops import nn
from amctc.types import F32, TensorType
from tests.command_line import done, refused


@pytest.fixture(autouse=True)
def _plain(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shipped example, and beside it what compress makes of it."""
    here = tmp_path_factory.mktemp("estimate")
    shutil.copy(examples.model_path(), here / "model.onnx")
    words = ("compress", here / "model.onnx", "-d", examples.calibration_path(), "-p", "unit", "-n", "16")
    assert done(*words, "-o", here / "out")
    return here


def totals(text):
    """Lines of the table of totals by (target, form)."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("target "))
    rows = [line.split() for line in lines[start + 2 :]]
    return {(r[0], r[1]): r[2:] for r in rows[: next(i for i, r in enumerate(rows) if r[0] == "Estimates")]}


def test_an_output_folder_in_both_forms_on_several_chips(folder):
    text = done("estimate", folder / "out", "--target", "ascend910b1, ascend310p3,ascend950,ascend310,ascend310")
    assert text.startswith("model_deploy.onnx, 1 sample\n")
    rows = totals(text)
    names = ("ascend910b1", "ascend310p3", "ascend950", "ascend310")
    assert list(rows) == [(n, form) for n in names for form in ("float16", "int8")]
    for name in ("ascend910b1", "ascend310p3", "ascend310"):
        assert f"int8 on {name}, the 15 slowest of" in text
        assert f"Hints for int8 on {name}" in text
        assert float(rows[name, "int8"][0]) < float(rows[name, "float16"][0])
        assert "bound" in text
    assert rows["ascend950", "int8"][:2] == ["–", "–"]
    assert "KiB" in rows["ascend950", "int8"]  # memory needs no figures
    assert "ascend950: no times, its cores, clock and bandwidth are not published" in text
    assert "/stem/conv/Conv wastes 97 % of the cube on 1 input channel in blocks of 32" in text


def test_a_float_model_runs_in_float16_on_the_default_chip(folder):
    text = done("estimate", folder / "model.onnx", "--full")
    assert list(totals(text)) == [("ascend910b1", "float16")]
    assert "slowest" not in text
    assert "all ops" in text
    assert "94 %" in text  # one input channel in blocks of 16
    lines = text[text.index("Hints for") :].strip().splitlines()
    assert 2 <= len([line for line in lines[1:] if line]) <= 8


def test_a_deploy_model_is_estimated_for_its_own_chip(folder, tmp_path):
    shutil.copy(folder / "out/model_deploy.onnx", tmp_path / "alone.onnx")
    assert list(totals(done("estimate", tmp_path / "alone.onnx"))) == [("ascend910b1", "int8")]


def test_batches(folder):
    one, eight = (done("estimate", folder / "out", "-b", n) for n in (1, 8))
    assert eight.startswith("model_deploy.onnx, batches of 8")
    assert "per sample" in eight
    assert "per sample" not in one
    assert float(totals(eight)["ascend910b1", "int8"][2]) < float(totals(one)["ascend910b1", "int8"][0])


def fixed(path, *shape):
    x = GraphInput("x", TensorType(shape, F32))
    save(Graph((x,), (apply(nn.Sigmoid(), x),), ("y",)), path)
    return path


def test_a_model_with_a_batch_of_its_own(tmp_path):
    model = fixed(tmp_path / "fixed.onnx", 4, 3)
    assert done("estimate", model).startswith("fixed.onnx, batches of 4")
    assert done("estimate", model, "-b", 4) == done("estimate", model)
    assert "batches of 4 only, not of 2" in refused(2, "estimate", model, "-b", 2)


def test_sizes_that_are_not_known(tmp_path):
    text = done("estimate", fixed(tmp_path / "open.onnx", "N", "L"))
    assert totals(text)["ascend910b1", "float16"] == ["–"] * 5


def test_only_a_chip_without_figures(folder):
    text = done("estimate", folder / "out", "-t", "ascend950")
    assert "no times" in text
    assert "Hints" not in text


def test_refusals(folder):
    assert "did you mean ascend910b1" in refused(2, "estimate", folder / "out", "-t", "ascend310,ascend910b")
    assert "no target named" in refused(2, "estimate", folder / "out", "-t", ",")
    assert "a QDQ model runs on no chip" in refused(2, "estimate", folder / "out/model_fakequant.onnx")
    assert "no model_deploy.onnx" in refused(2, "estimate", folder)
    assert refused(3, "estimate", folder / "none.onnx").startswith("amctc: error: ")


def test_the_overview_lists_it():
    assert "\n  estimate " in done("--help")


# ---------------------------------------------------------------------------------------------------- eval --variants


def test_variants_are_shown_below_the_scores(folder):
    words = ("eval", folder / "out", "-d", examples.test_path(), "-n", "16", "--variants")
    text = done(*words)
    scores, others = text.split("Other readings of the arithmetic")
    assert "int8 on ascend910b1" in scores
    rows = {tuple(line.split()[i] for i in (0, 3, 4)): line for line in others.splitlines()[3:9]}
    assert ("quant_mode", "fp32", "fp16") in rows
    assert ("dequant_overflow", "saturate", "inf") in rows
    assert "100.00 %" in rows["dequant_overflow", "saturate", "inf"]
    assert "SQNR" in others
    first = done(*words, "-t", "ascend310")
    assert "dequant_guard" in first
    assert "ascend310" in first


def test_variants_without_a_float_model(folder, tmp_path):
    shutil.copy(folder / "out/model_deploy.onnx", tmp_path / "alone.onnx")
    text = done("eval", tmp_path / "alone.onnx", "-d", examples.test_path(), "-p", "unit", "-n", "8", "--variants")
    assert "same class" in text
    assert "agreement" not in text


def test_variants_need_a_deploy_model(folder):
    words = ("eval", folder / "model.onnx", "-d", examples.test_path(), "-p", "unit", "-n", "8", "--variants")
    assert "a float model has no variants" in refused(2, *words)
