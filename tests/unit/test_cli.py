"""The command line end to end: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amctc import __version__, examples
from amctc.api import load
from amctc.cli import amctc
from amctc.cli.evaluate import Recorded, located
from amctc.errors import LimitError
from amctc.pipeline import pass_names
from amctc.targets import profile_names
from amctc.verify import verify
from tests.command_line import done, invoke, refused

SHIPPED = {
    "model.onnx": examples.model_path(),
    "cal.npz": examples.calibration_path(),
    "test.npz": examples.test_path(),
}
FILES = {"model_deploy.onnx", "model_fakequant.onnx", "record.txt", "report.json"}
COMPRESS = ("compress", "model.onnx", "-d", "cal.npz", "-p", "unit", "-n", "16")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with the shipped example in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name, path in SHIPPED.items():
        shutil.copy(path, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """An output folder of compress, with the model it came from beside it."""
    folder = tmp_path_factory.mktemp("compressed")
    shutil.copy(SHIPPED["model.onnx"], folder / "model.onnx")
    words = ("compress", folder / "model.onnx", "-d", SHIPPED["cal.npz"], "-p", "unit", "-o", folder / "out")
    done(*words, "--skip", "/head/*")
    return folder / "out"


# ------------------------------------------------------------------------------------------------- what works


def test_the_overview_groups_commands_with_an_example_each():
    text = done("--help")
    assert text == done() == done("-h")
    for name in ("demo", "compress", "eval", "inspect", "passes", "targets", "run"):
        assert f"\n  {name} " in text
        assert f"$ amctc {name}" in text
    assert text.index("Start here") < text.index("Compress a model") < text.index("Look inside")


def test_version():
    assert done("--version") == done("-V") == f"amctc {__version__}\n"


@pytest.mark.parametrize("name", sorted(amctc.commands))
def test_help_shows_examples_as_they_are(name):
    text = done(name, "--help")
    assert text == done(name, "-h")
    assert amctc.commands[name].examples
    for line in amctc.commands[name].examples:
        assert f"\n  {line}\n" in text


def test_compress(compressed):
    assert {p.name for p in compressed.iterdir()} == FILES
    report = json.loads((compressed / "report.json").read_text())
    actions = {layer["name"]: layer["action"] for layer in report["layers"]}
    assert actions.pop("/head/conv/Conv") == "float"
    assert set(actions.values()) == {"int8"}


def test_weights_only_need_no_samples(here):
    text = done("compress", "model.onnx", "--preset", "weight-only", "-o", "out")
    assert "model.onnx for ascend910b1: 1 of 12 layers quantized, compared on 0 samples" in text
    assert {p.name for p in Path("out").iterdir()} == FILES
    report = json.loads(Path("out/report.json").read_text())
    assert {layer["action"] for layer in report["layers"]} == {"float", "weight-only"}
    assert report["agreement"] is None
    done("eval", "out", "-d", "cal.npz", "-p", "unit")


def test_calibration_needs_samples(here):
    assert "calibration needs samples" in refused(2, "compress", "model.onnx", "-o", "out")


def test_compress_quantizes_tensors(here):
    done(*COMPRESS, "-o", "out", "--tensor", "*")
    pipeline = json.loads(Path("out/report.json").read_text())["pipeline"]
    assert "observe{tensor=[*]}" in pipeline
    assert "tensor=[*]" in pipeline.partition("place-qdq")[2]


def test_compress_prints_the_report(here):
    skip = 'place-qdq.skip=["/stem/*", "/classifier/*"]'
    options = ("--method", "min-max", "--symmetric", "--set", "observe.bins=1024", "--set", skip, "-t", "ascend310p3")
    text = done(*COMPRESS, "-o", "out", *options)
    assert "model.onnx for ascend310p3: 10 of 12 layers in int8, calibrated on 16 samples" in text
    for part in (
        "/stem/conv/Conv: skipped on request",
        "atc --framework=5",
        "[I] quant_mode = fp16",
        "out/report.json",
    ):
        assert part in text
    pipeline = json.loads(Path("out/report.json").read_text())["pipeline"]
    assert "observe{bins=1024}" in pipeline
    assert "symmetric method=min-max" in pipeline


def test_compress_repeats_itself(here):
    first, second = (done(*COMPRESS, "-o", name).replace(f"  {name}/", "").splitlines() for name in "ab")
    assert first[1:] == second[1:]  # the first line says how long it took
    for name in FILES:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_eval_of_an_output_folder_finds_the_float_model(compressed):
    text = done("eval", compressed, "-d", SHIPPED["test.npz"], "-p", "unit", "--limit", "64", "--skip-first", "10")
    rows = [line.split() for line in text.splitlines()[2:]]
    assert [row[0] for row in rows] == ["float", "QDQ,", "int8"]
    assert all("64" in row for row in rows)
    assert float(rows[1][-1]) > 25  # dB
    assert float(rows[2][-1]) > 25


def test_eval_without_labels_compares_only(compressed):
    rng = np.random.default_rng(0)
    np.savez(compressed.parent / "plain.npz", image=rng.random((5, 1, 8, 8), np.float32))
    text = done("eval", compressed, "-d", compressed.parent / "plain.npz", "--no-fusion")
    assert "top-1" not in text
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["QDQ,", "int8"]


def test_eval_prepares_images_as_the_calibration_did(compressed):
    assert done("eval", compressed, "-d", SHIPPED["test.npz"]) == done(
        "eval", compressed, "-d", SHIPPED["test.npz"], "-p", "unit"
    )


@pytest.mark.parametrize("kind", ["model_fakequant.onnx", "model_deploy.onnx"])
def test_eval_of_one_file(compressed, kind):
    text = done(
        "eval", compressed / kind, "-d", SHIPPED["test.npz"], "-p", "unit", "-n", "32", "-r", SHIPPED["model.onnx"]
    )
    assert text.splitlines()[2].startswith("float")
    assert "agreement" in text


def test_eval_of_a_float_model():
    text = done("eval", SHIPPED["model.onnx"], "-d", SHIPPED["test.npz"], "-p", "unit")
    assert text.splitlines()[2].split() == ["float", "600", "100.00", "%", "100.00", "%"]


def test_eval_says_when_the_float_model_is_gone(compressed, here):
    shutil.copytree(compressed, "moved")
    report = Path("moved/report.json")
    report.write_text(json.dumps({**json.loads(report.read_text()), "model": "gone\x1b.onnx"}))
    result = invoke("eval", "moved", "-d", "test.npz", "-p", "unit", "-n", "16")
    assert result.exit_code == 0
    assert "not there; name it with --reference" in result.stderr
    assert "\x1b" not in result.stderr
    report.unlink()
    assert located("moved") == (str(Path("moved/model_deploy.onnx")), Recorded())


@pytest.mark.parametrize("executor", ["numpy", "onnxruntime", "reference"])
def test_eval_by_any_executor_gives_the_same_table(compressed, here, executor):
    words = ("eval", compressed, "-d", "test.npz", "-p", "unit", "--skip-first", 500, "-n", 40)
    checked = done(*words, "--executor", executor, "--check-executor", 2)
    first, table = checked.split("\n", 1)
    assert first.startswith(f"executor {executor}: ")
    assert "bit for bit" in first
    assert table == done(*words)


def test_eval_in_threads_gives_the_same_table(compressed, here):
    words = ("eval", compressed, "-d", "test.npz", "-p", "unit", "--skip-first", 500, "--batch-size", 7)
    assert done(*words, "--jobs", 3) == done(*words)


def test_plan_lists_steps_and_memory(compressed, here):
    own = done("plan", compressed, "--batch", 4, "--measure")
    assert "depthwise taps, float32" in own
    assert "Measured: " in own
    joined = done("plan", compressed, "--executor", "onnxruntime")
    assert "10 ascend.conv" in joined
    assert len(joined.splitlines()) < len(own.splitlines()) / 2
    assert "run by ONNX Runtime" in refused(2, "plan", "model.onnx")
    Path("metric.py").write_text("def score(session):\n    return 1.0\n")
    assert "needs samples" in refused(2, "eval", compressed, "--check-executor", 1, "-e", "metric.py:score")


def test_run_writes_onnx_and_text_that_can_be_read_back(here):
    text = done("run", "fold-batch-norm,fuse-activation", "model.onnx", "-o", "f.onnx")
    assert "93 → 49" in text
    assert "fold_batch_norm 11" in text
    assert "seconds" not in text
    verify(load("f.onnx"))
    done("run", "observe,place-qdq", "model.onnx", "-d", "cal.npz", "-p", "unit", "-o", "q.txt")
    again = done("run", "drop-identity", "q.txt", "-o", "r.txt", "--timing")
    assert "seconds" in again
    assert Path("q.txt").read_text() == Path("r.txt").read_text()
    assert "qdq model" in done("inspect", "q.txt")


def test_run_a_pipeline_file(here):
    Path("p.txt").write_text("# fold first\nfold-batch-norm,\n  # then fuse\nfuse-activation\n")
    assert "fuse_activation 8" in done("run", "@p.txt", "model.onnx")


def test_run_prints_the_graph_alone_on_standard_output(here):
    result = invoke("run", "fold-batch-norm", "model.onnx", "--print")
    assert result.stdout.startswith('graph "digits_cnn"(')
    assert result.stdout.endswith("}\n")
    assert "fold-batch-norm" in result.stderr


def test_explain_before_the_pass_that_applies_the_rule(here):
    text = done("run", "fold-batch-norm,fuse-activation", "model.onnx", "--explain", "fuse_activation")
    assert "before pass fuse-activation" in text
    assert text.count(" yes") == 8
    text = done("run", "", "model.onnx", "--explain", "fuse_activation")
    assert "at the end of the pipeline" in text
    assert text.count(" no ") == 8
    assert "nn.batch_norm" in text
    assert "there is none" in done("run", "repeat(fuse-requant)", "model.onnx", "--explain", "fuse_requant")


def test_inspect(here, compressed):
    text = done("inspect", "model.onnx")
    for part in ("float model, opset 17", "f32 [N, 1, 8, 8]", "conv 11", "64×32×1×1", "27.3 k", "775.8 k", "12 in all"):
        assert part in text
    deploy = done("inspect", compressed / "model_deploy.onnx", "--full")
    for part in ("deploy model", "amctc.target = ascend910b1", "ascend.dequant", "f32 [N, 10]", "47 in all"):
        assert part in deploy
    assert "12 in all" in done("inspect", compressed / "model_fakequant.onnx")
    assert done("inspect", "model.onnx", "--text").startswith('graph "digits_cnn"')


def test_passes():
    text = done("passes")
    assert [n for n in pass_names() if f"\n{n} " not in text] == []
    one = done("passes", "place-qdq")
    for part in ("percentile", "99.99", "mse", "requires", "ensures", "effect"):
        assert part in one
    for name in pass_names():
        assert done("passes", name).startswith(name)
    assert "fold_batch_norm" in done("passes", "fold-batch-norm")
    assert "quantize_before_pool" in done("passes", "fuse-requant")
    assert "ascend.requant" in done("passes", "--ops")
    assert "attributes" in done("passes", "--ops", "nn.conv")


def test_targets():
    text = done("targets")
    assert [n for n in profile_names() if n not in text] == []
    for name in profile_names():
        one = done("targets", name)
        assert "quant_mode" in one
        assert ("not published" in one) == (name in ("ascend950", "ascend910a"))


def test_demo(here):
    text = done("demo")
    assert {p.name for p in Path("amctc-demo").iterdir()} == FILES
    for part in ("top-1 accuracy", "100.00 %", "12 of 12", "129.8 KiB", "µs", "amctc-demo/model_deploy.onnx", "Next"):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 120


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("status", "extra", "words"),
    [
        (2, ("-t", "ascend910"), "ascend910a or ascend910b1"),
        (2, ("--skip", "nolayer"), "'nolayer' matches no layer"),
        (2, ("--method", "msee"), "mse or percentile or min-max"),
        (2, ("--set", "place-qdq.bits=7"), "bits=7"),
        (2, ("--set", "place-qd.bits=8"), "did you mean place-qdq?"),
        (2, ("--set", "place-qdq.nope=8"), "has no option 'nope'"),
        (2, ("--set", "bits=8"), "pass.option=value"),
        (2, ("--set", "place-qdq.bits="), "pass.option=value"),
        (2, ("--set", "place-qdq.bits=8}"), "pass.option=value"),
        (2, ("--preset", "balnced"), "did you mean balanced"),
        (2, ("-p", "unity"), "did you mean unit?"),
        (2, ("--batch-size", "0"), "x>=1"),
        (2, ("--skpi", "x"), "--skip"),
        (3, ("-d", "nothing"), "nothing: no such samples"),
    ],
)
def test_compress_refuses_wrong_options(here, status, extra, words):
    assert words in refused(status, *COMPRESS, "-o", "out", *extra)


def test_compress_refuses_files_that_are_no_model(here):
    Path("text.onnx").write_text("hello")
    Path("cut.onnx").write_bytes(Path("model.onnx").read_bytes()[:5000])
    Path("folder.onnx").mkdir()
    for name, words in (("text.onnx", "looks like text"), ("cut.onnx", "the end of the file is missing"),
                        ("none.onnx", "no such model"), ("folder.onnx", "is a folder")):  # fmt: skip
        line = refused(3, "compress", name, *COMPRESS[2:], "-o", "out")
        assert name in line
        assert words in line


def test_compress_refuses_samples_that_do_not_fit(here):
    np.savez("nan.npz", image=np.full((4, 1, 8, 8), np.nan, np.float32))
    np.savez("shape.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    for name, words in (("nan.npz", "NaN or infinity in sample 0"), ("shape.npz", "wants [N,1,8,8], got [4,3,8,8]")):
        assert words in refused(3, "compress", "model.onnx", "-d", name, "-o", "out")


def test_images_need_a_preprocessing(here):
    Path("images").mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(f"images/{i}.png")
    assert "add --preprocess" in refused(2, "compress", "model.onnx", "-d", "images", "-o", "out")
    assert "add --preprocess" in refused(2, "compress", "model.onnx", "-d", "cal.npz", "-o", "out")
    assert "12 of 12" in done("compress", "model.onnx", "-d", "images", "-p", "unit", "-o", "out")


def test_outputs_that_cannot_be_written(here):
    Path("file").write_text("mine")
    assert "is a file" in refused(2, *COMPRESS, "-o", "file")
    assert "does not exist" in refused(2, *COMPRESS, "-o", "no/such/folder")
    assert "is a file" in refused(2, "demo", "-o", "file")
    Path("folder.txt").mkdir()
    for out, words in (("x.pb", ".onnx nor .txt"), ("folder.txt", "is a folder"), ("no/x.txt", "does not exist")):
        assert words in refused(2, "run", "fold-batch-norm", "model.onnx", "-o", out)
    assert Path("file").read_text() == "mine"


def test_a_deploy_model_is_not_compressed_again(compressed, here):
    line = refused(4, "compress", compressed / "model_deploy.onnx", *COMPRESS[2:], "-o", "out")
    assert "a deploy model is quantized already" in line


def test_a_qdq_model_is_lowered_as_it_is(compressed, here):
    text = done("compress", compressed / "model_fakequant.onnx", *COMPRESS[2:], "-o", "out")
    assert "model_fakequant.onnx for ascend910b1: 11 of 12 layers in int8, compared on 16 samples" in text
    assert "its quantizers came with the model: nothing was calibrated" in text
    assert "/head/conv/Conv: the model brings no quantizers for it" in text
    assert "does not run pass 'place-qdq'" in refused(
        2, "compress", compressed / "model_fakequant.onnx", *COMPRESS[2:], "-o", "again", "--skip", "/stem/*"
    )


@pytest.mark.parametrize(
    ("pipeline", "column", "words"),
    [
        ("fold-batch-norm,fuse-activaton", 16, "did you mean fuse-activation"),
        ("place-qdq{bits=many}", 10, "wants an integer"),
        ("place-qdq{bit=8}", 10, "did you mean bits?"),
        ("fold-batch-norm,,", 16, "expected the name of a pass"),
        ("repeat(fold-batch-norm", 22, "expected ')'"),
    ],
)
def test_pipeline_errors_show_the_place(here, pipeline, column, words):
    error, text, caret = refused(2, "run", pipeline, "model.onnx", "-o", "x.onnx").splitlines()
    assert words in error
    assert text == f"  {pipeline}"
    assert caret == f"  {' ' * column}^"


def test_run_refuses(here):
    assert "calibration needs samples" in refused(2, "run", "observe", "model.onnx", "-o", "x.onnx")
    line = refused(2, "run", "fold-batch-norm", "model.onnx", "-o", "x.onnx", "--explain", "fold-batch")
    assert "fold_batch_norm" in line
    assert "no such pipeline file" in refused(3, "run", "@none", "model.onnx")
    Path("bad.txt").write_text("graph {")
    assert "line 1" in refused(3, "run", "", "bad.txt")


def test_eval_refuses(here):
    np.savez("plain.npz", image=np.zeros((3, 1, 8, 8), np.float32))
    assert "no labels and no float model" in refused(2, "eval", "model.onnx", "-d", "plain.npz")
    assert "0 samples from number 900" in refused(
        3, "eval", "model.onnx", "-d", "test.npz", "-p", "unit", "--skip-first", 900
    )
    Path("empty").mkdir()
    assert "no model_deploy.onnx" in refused(2, "eval", "empty", "-d", "plain.npz")
    Path("empty/model_deploy.onnx").touch()
    for text in ("[", "[]", "{}", "[" * 100_000):
        Path("empty/report.json").write_text(text)
        assert "no report of amctc compress" in refused(3, "eval", "empty", "-d", "plain.npz")


def test_unknown_names_suggest_the_nearest(here):
    assert "did you mean compress or compensate?" in refused(2, "compres")
    assert "commands: demo" in refused(2, "xyz")
    assert "fold-batch-norm" in refused(2, "passes", "fold-batch")
    assert "nn.conv" in refused(2, "passes", "--ops", "nn.con")
    assert "ascend310" in refused(2, "targets", "ascend31")
    assert "see 'amctc compress --help'" in refused(2, *COMPRESS)


# ------------------------------------------------------------------------------------------------- how it fails


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RuntimeError("no\x1b[31m\nluck"), 1, "amctc: internal error: RuntimeError: no"),
        (KeyboardInterrupt(), 130, "amctc: interrupted"),
        (MemoryError(), 5, "amctc: error: not enough memory"),
        (LimitError("too big", detail="a\nb"), 5, "amctc: error: too big"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_other_failures_end_in_one_line(monkeypatch, error, status, line):
    def fail(*args):
        raise error

    monkeypatch.setattr("amctc.targets.profile_names", fail)
    monkeypatch.setattr("os.dup2", lambda *files: None)
    result = invoke("targets")
    assert result.exit_code == status
    assert result.stderr.strip().startswith(line)
    assert len(result.stderr.strip().splitlines()) == bool(line)
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("words", [("--debug", "targets", "x"), ("targets", "x", "--debug")])
def test_debug_shows_the_traceback(words):
    result = invoke(*words)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("amctc: error: unknown target 'x'")


PROGRAM = (sys.executable, "-c", "from amctc.cli import main; main()")


def process(*args, **options):
    return subprocess.Popen([*PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_a_process_exits_with_the_status_of_the_error(here):
    for status, args in ((0, ["targets"]), (2, ["targets", "x"]), (3, ["inspect", "none.onnx"]), (2, ["--nope"])):
        running = process(*args)
        out, err = running.communicate()
        assert running.returncode == status
        assert (out == b"") == (status != 0)
        assert len(err.splitlines()) == (status != 0)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from amctc.cli import amctc\n"
        "try: amctc.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'pydantic', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error(here):
    reading, writing = os.pipe()
    os.close(reading)
    running = subprocess.Popen([*PROGRAM, "inspect", "model.onnx", "--text"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert running.communicate()[1] == b""
    assert running.returncode == 1


def test_a_terminal_that_cannot_show_it_gets_the_report(here):
    running = process("targets", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = running.communicate()
    assert running.returncode == 0
    assert err == b""
    assert b"ascend910b1" in out


def test_interrupt(here):
    code = """
import os, signal, time
import amctc.targets
from amctc.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
amctc.targets.profile_names = lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9))
main()
"""
    running = subprocess.run([sys.executable, "-c", code, "targets"], capture_output=True, check=False)
    assert running.returncode == 128 + signal.SIGINT
    assert running.stderr.split() == [b"amctc:", b"interrupted"]
