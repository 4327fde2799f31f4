"""Samples and evaluators in the user's own files: loaded on request, blamed by file and line."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from amctc.calibrate.samples import InputSpec, open_samples
from amctc.calibrate.user_function import load_function
from amctc.errors import InputError, UsageError

SPEC = InputSpec("x", ("N", 2), np.dtype(np.float32))
CODE = """
import numpy as np
import a_sibling_of_mine
calls = []

def batches():
    calls.append(1)
    for i in range(4):
        yield {"x": np.full((3, 2), i + a_sibling_of_mine.OFFSET, np.float32), "y": np.full(3, i)}

def arrays():
    yield np.zeros((2, 2), np.float32)

def at_once():
    return {"x": np.ones((5, 2)), "y": np.arange(5)}

def late():
    yield np.zeros((2, 2), np.float32)
    deep()

def deep():
    raise RuntimeError("no\\nmore")

def stops():
    raise SystemExit(0)

def misfit():
    yield np.zeros((2, 2), np.float32)
    yield np.zeros((2, 3), np.float32)

def number():
    return 3

def endless():
    while True:
        yield np.zeros((10, 2), np.float32)

def hungry(argument):
    return []
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The path of a file of functions, with another module beside it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "a_sibling_of_mine.py").write_text("OFFSET = 10\n")
    path = tmp_path / "samples.py"
    path.write_text(CODE)
    yield str(path)
    sys.modules.pop("a_sibling_of_mine", None)


def test_a_generator_is_read_once_and_gives_every_pass_the_same(file) -> None:
    samples = open_samples(f"{file}:batches", [SPEC], batch_size=5)
    passes = [np.concatenate([b["x"] for b in samples]) for _ in range(3)]
    assert len(samples) == 12
    assert passes[0][:, 0].tolist() == [10] * 3 + [11] * 3 + [12] * 3 + [13] * 3
    assert all(np.array_equal(p, passes[0]) for p in passes)
    assert samples.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert sys.modules["amctc_user_samples"].calls == [1]


def test_other_things_a_function_may_give(file) -> None:
    assert len(open_samples(f"{file}:arrays", [SPEC])) == 2
    samples = open_samples(f"{file}:at_once", [SPEC])
    assert (len(samples), samples.labels.tolist()) == (5, [0, 1, 2, 3, 4])
    assert len(open_samples(f"{file}:endless", [SPEC], limit=25)) == 25


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("late", "samples.py:22: RuntimeError: no more; correct this code"),
        ("stops", "samples.py:25: SystemExit: 0"),
        ("misfit", r"samples.py:misfit, batch 1: input 'x' wants \[N,2\], got \[2,3\]"),
        ("number", "samples.py: the function returns int, not batches"),
        ("hungry", "samples.py: TypeError: hungry"),
        ("none", "no function 'none'; its functions are batches, arrays, at_once, late"),
        ("calls", "no function 'calls'"),
    ],
)
def test_errors_are_one_line_with_the_place(file, function, words) -> None:
    with pytest.raises(InputError, match=words) as caught:
        open_samples(f"{file}:{function}", [SPEC])
    assert "\n" not in str(caught.value)


def test_files_that_do_not_load(tmp_path) -> None:
    for name, text, words in (
        ("broken.py", "x = 1\ndef f(:\n", r"broken\.py:2: SyntaxError"),
        ("raises.py", "\n\n1 / 0\n", r"raises\.py:3: ZeroDivisionError"),
        ("lacks.py", "import nothing_of_that_name\n", r"lacks\.py:1: ModuleNotFoundError"),
        ("empty.py", "", "has no function 'f'; it defines no function"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=words):
            load_function(str(tmp_path / name) + ":f", option="--data")
        assert not list(tmp_path.glob("__pycache__"))
    assert "amctc_user_broken" not in sys.modules
    with pytest.raises(InputError, match="no such Python file"):
        load_function("gone.py:f", option="--data")
    with pytest.raises(UsageError, match=r"--evaluator 'f\.py' names no function; write f\.py:function"):
        load_function("f.py", option="--evaluator")
    with pytest.raises(UsageError, match=r"write file\.py:function"):
        load_function("f.txt:f", option="--evaluator")


def test_an_edited_file_is_loaded_anew(tmp_path) -> None:
    path = tmp_path / "edited.py"
    path.write_text("def f(): return 1\n")
    assert load_function(f"{path}:f", option="-e").call() == 1
    path.write_text("def f(): return 22\n")
    os.utime(path, ns=(1, 1))
    assert load_function(f"{path}:f", option="-e").call() == 22


def test_what_one_run_is_fed_may_be_yielded_as_it_is(tmp_path) -> None:
    path = tmp_path / "runs.py"
    path.write_text("import numpy as np\n\ndef f():\n    for i in (2, 5):\n"
                    "        yield {'state': np.full((2, i), i, np.float32), 'rate': np.float32(i)}\n")  # fmt: skip
    inputs = [InputSpec("state", (2, "N"), np.dtype(np.float32)), InputSpec("rate", (), np.dtype(np.float32))]
    samples = open_samples(f"{path}:f", inputs)
    assert [(b["state"].shape, float(b["rate"])) for b in samples] == [((2, 2), 2.0), ((2, 5), 5.0)]


def test_labels_come_from_the_function_itself(file, tmp_path) -> None:
    with pytest.raises(UsageError, match="labels in a file do not go with samples from a function"):
        open_samples(f"{file}:batches", [SPEC], labels=tmp_path / "l.csv")


def test_our_own_errors_keep_their_kind(tmp_path) -> None:
    path = tmp_path / "ours.py"
    path.write_text("from amctc.errors import UsageError\n\ndef f():\n    raise UsageError('mine', remedy='r')\n")
    with pytest.raises(UsageError, match=r"ours\.py:4: mine; r"):
        load_function(f"{path}:f", option="-e").call()


def test_a_link_to_a_file_of_another_suffix(tmp_path) -> None:
    (tmp_path / "script").write_text("def f():\n    return 7\n")
    (tmp_path / "a.py").symlink_to("script")
    assert load_function(f"{tmp_path / 'a.py'}:f", option="--evaluator").call() == 7
    (tmp_path / "b.py").symlink_to("/proc/self/mem")
    with pytest.raises(InputError):
        load_function(f"{tmp_path / 'b.py'}:f", option="--evaluator")
