"""Forms of samples, evaluators, executors, providers and custom operators on the command line, with exit statuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc import examples
from tests.command_line import done, refused

FUNCTIONS = """
import numpy as np

def batches():
    for i in range(5):
        yield {"image": np.random.default_rng(i).random((4, 1, 8, 8)).astype(np.float32)}

def broken():
    yield np.zeros((2, 1, 8, 8), np.float32)
    {}["nope"]

def accuracy(session, samples):
    outputs = [session.run(feeds)[session.output_names[0]] for feeds in samples]
    return (np.concatenate(outputs).argmax(axis=1) == samples.labels).mean()

def of_ones(session):
    (image,) = session.inputs
    return session.run({image.name: np.ones((1, 1, 8, 8), np.float32)})[session.output_names[0]].max()

def words(session):
    return "good"

def misfed(session):
    return session.run({"no such input": 3})
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the shipped model, samples in several forms and a file of functions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copy(examples.model_path(), "model.onnx")
    with np.load(examples.calibration_path()) as pixels:
        images = (pixels["x"][:24].reshape(-1, 1, 8, 8) / np.float32(255)).astype("<f4")
        np.savez("labelled.npz", image=images, y=pixels["y"][:24])
    Path("bins").mkdir()
    for i in range(6):
        images[4 * i : 4 * i + 4].tofile(f"bins/{i}.bin")
    Path("mine.py").write_text(FUNCTIONS)
    return tmp_path


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """Token ids and mask → scores, as an ONNX file."""
    rng = np.random.default_rng(5)
    weights = {"table": (40, 8), "w": (8, 8), "v": (8, 3)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["wide"]),
        helper.make_node("Mul", ["rows", "wide"], ["masked"]),
        helper.make_node("MatMul", ["masked", "w"], ["hidden"], name="hidden"),
        helper.make_node("ReduceMean", ["hidden"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "v"], ["scores"], name="scores"),
    ]
    graph = helper.make_graph(
        nodes, "text",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", "T"]) for n in ("ids", "mask")],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()]
        + [numpy_helper.from_array(np.int64([2]), "last")],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("text") / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def rows(text):
    """The lines of a table of scores, split into words."""
    return [line.split() for line in text.splitlines()[2:]]


# ------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (24, ("-d", "labelled.npz")),
        (24, ("--samples", "bins")),
        (4, ("-d", "bins/0.bin")),
        (24, ("-d", "bins/;")),
        (24, ("-d", "bins", "--input-shape", "image:4,1,8,8", "--data-types", "float32")),
        (20, ("-d", "mine.py:batches")),
        (7, ("-d", "mine.py:batches", "-n", "7")),
    ],
)
def test_forms_of_samples(here, count, data):
    assert f"calibrated on {count} samples" in done("compress", "model.onnx", *data, "-o", "out")


def test_raw_files_of_several_inputs_and_token_sequences(here, text_model):
    ids = np.random.default_rng(1).integers(0, 40, (12, 5))
    for name, array in (("ids", ids.astype("<i8")), ("mask", np.ones((12, 5), "<i4"))):
        Path(name).mkdir()
        array[:6].tofile(f"{name}/0.bin")
        array[6:].tofile(f"{name}/1.bin")
    raw = ("--input-shape", "ids:6,5;mask:6,5", "--data-types", "int64;int32")
    assert "calibrated on 12 samples" in done("compress", text_model, "-d", "ids;mask", *raw, "-o", "raw")
    np.savez("t.npz", ids=ids, mask=np.ones((12, 5), np.int64))
    Path("t.jsonl").write_text("".join(json.dumps({"ids": row.tolist()}) + "\n" for row in ids))
    for form in ("t.npz", "t.jsonl"):
        done("compress", text_model, "-d", form, "-o", form[2:])
        for file in ("model_deploy.onnx", "record.txt"):
            assert Path(form[2:], file).read_bytes() == Path("raw", file).read_bytes()


@pytest.mark.parametrize(
    ("status", "words", "data"),
    [
        (2, "names no function; write mine.py:function", ("-d", "mine.py")),
        (3, "mine.py:10: KeyError: 'nope'; correct this code", ("-d", "mine.py:broken")),
        (3, "no function 'none'; its functions are batches, broken", ("-d", "mine.py:none")),
        (3, "no such Python file", ("-d", "gone.py:f")),
        (3, "0.bin: it has 1024 bytes", ("-d", "bins", "--input-shape", "image:5,1,8,8")),
        (2, "'nope' has a shape and is no input", ("-d", "bins", "--input-shape", "nope:4,1,8,8")),
        (2, "'float' is no number type", ("-d", "bins", "--data-types", "float")),
        (2, "2 paths of .bin files, and the inputs are image", ("-d", "bins;bins")),
        (2, "describe .bin files", ("-d", "labelled.npz", "--data-types", "float32")),
        (3, "samples are a folder of images or of .bin files, an .npz", ("-d", "model.onnx")),
    ],
)
def test_samples_that_are_refused(here, status, words, data):
    assert words in refused(status, "compress", "model.onnx", *data, "-o", "out")


def test_run_takes_the_same_forms(here):
    done("run", "observe", "model.onnx", "-d", "bins", "-o", "a.txt", "--jobs", "2")
    done("run", "observe", "model.onnx", "-d", "labelled.npz", "-o", "b.txt")
    assert Path("a.txt").read_text() == Path("b.txt").read_text()


# ------------------------------------------------------------------------------------------------- evaluators


@pytest.fixture
def out(here):
    """The output folder of a compression."""
    done("compress", "model.onnx", "-d", "labelled.npz", "-o", "out")
    return "out"


def test_an_evaluator_scores_float_qdq_and_integer_model(out):
    text = done("eval", out, "-d", "labelled.npz", "--evaluator", "mine.py:accuracy")
    assert text.splitlines()[0].split() == ["model", "samples", "accuracy"]
    assert [(row[0], row[-2:]) for row in rows(text)] == [(n, ["24", "1"]) for n in ("float", "QDQ,", "int8")]
    plain = done("eval", out, "-d", "labelled.npz")
    assert [row[-2] for row in rows(text)] == ["24"] * 3
    assert "top-1" in plain


def test_an_evaluator_with_samples_of_its_own_needs_no_data(out):
    text = done("eval", out, "--evaluator", "mine.py:of_ones")
    assert text.splitlines()[0].split() == ["model", "of_ones"]
    scores = [float(row[-1]) for row in rows(text)]
    assert len(scores) == 3
    assert max(scores) - min(scores) < 0.2 * abs(scores[0])
    assert len(rows(done("eval", "model.onnx", "-e", "mine.py:of_ones"))) == 1


@pytest.mark.parametrize(
    ("status", "words", "options"),
    [
        (2, "no samples to evaluate on; give --data, or an --evaluator", ()),
        (2, "'accuracy' takes samples; give them (--data)", ("-e", "mine.py:accuracy")),
        (3, "'words' gave str, not a number", ("-e", "mine.py:words")),
        (3, "mine.py:24: input 'image' is missing", ("-e", "mine.py:misfed")),
        (2, "--evaluator 'mine.py' names no function", ("-e", "mine.py")),
        (2, "--variants needs samples; give --data", ("-e", "mine.py:of_ones", "--variants")),
    ],
)
def test_evaluators_that_are_refused(out, status, words, options):
    assert words in refused(status, "eval", out, *options)


# ------------------------------------------------------------------------------------------------- where it runs


def test_jobs_change_nothing(here):
    data = ("compress", "model.onnx", "-d", "labelled.npz", "--batch-size", "5")
    for name, options in (("a", ()), ("b", ("-j", "3")), ("c", ("--workers", "processes", "-j", "2"))):
        done(*data, "-o", name, *options)
    for file in ("model_deploy.onnx", "model_fakequant.onnx", "record.txt", "report.json"):
        assert Path("a", file).read_bytes() == Path("b", file).read_bytes() == Path("c", file).read_bytes()


@pytest.mark.parametrize(
    ("status", "words", "options"),
    [
        (2, "a serial executor runs no 2 jobs", ("--workers", "serial", "-j", "2")),
        (2, "is not one of 'serial', 'threads', 'processes'", ("--workers", "fibers")),
        (2, "x>=1", ("-j", "0")),
        (2, "no provider 'abacus' here; it has", ("--provider", "abacus")),
        (3, "none.so: no such library of custom operators", ("--custom-ops", "none.so")),
        (3, "mine.py: ONNX Runtime cannot load this library", ("--custom-ops", "mine.py")),
    ],
)
def test_ways_to_run_that_are_refused(here, status, words, options):
    assert words in refused(status, "compress", "model.onnx", "-d", "labelled.npz", "-o", "out", *options)


def test_an_op_that_the_runtime_does_not_know_is_named(here):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    nodes = [
        helper.make_node("Foo", ["x"], ["f"], name="foo_1", domain="my.ops"),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="product"),
    ]
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    between = helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight], value_info=[between])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "custom.onnx")
    np.savez("x.npz", x=np.ones((3, 4), np.float32))
    line = refused(4, "compress", "custom.onnx", "-d", "x.npz", "-o", "out")
    assert "node 'foo_1': ONNX Runtime does not know the op my.ops:Foo" in line
    assert "--custom-ops LIB.so" in line
