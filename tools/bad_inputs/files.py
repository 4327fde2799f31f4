"""Presets, texts, functions, reports and output places that must be refused."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tools import small_models
from tools.bad_inputs.__main__ import Bad
from tools.bad_inputs.bombs import make_socket
from tools.bad_inputs.samples import MODEL, compress, with_model
from tools.damage import damaged_text

RANDOM_CASES = 24


def cases(seed: int) -> Iterator[Bad]:
    """All of them; ``seed`` chooses the random damage."""
    yield from _settings()
    yield from _texts(seed)
    yield from _code()
    yield from _reports()
    yield from _outputs()
    yield from _special()


# ----------------------------------------------------------------------------------------------- settings, texts


def _settings() -> Iterator[Bad]:
    shared = {
        "empty": b"", "not UTF-8": b"\xff\xfe", "nested": b"a = " + b"[" * 50000,
        "nested tables": b"a = " + b"{a = " * 900, "digits": b"a = " + b"9" * 5000,
        "dots": b".".join([b"a"] * 30000) + b" = 1",
        "many dots": b"".join(b"b%d" % i + b".a" * 2000 + b" = 1\n" for i in range(200)),
        "1 GiB of text": b"a" * (1 << 18), "twice": b"a = 1\na = 2\n", "control": b'"\x1b[31m" = 1\n',
        "unknown": b"mean_squared = 1\n", "a list": b"- a\n- b\n",
        "a date": b"layout = 1979-05-27\n", "NUL": b"\0" * 100,
    }  # fmt: skip
    for name, data in shared.items():
        yield Bad("preset", name, compress("s.npz", "--preset", "p.toml"), with_model(**{"p.toml": data}))
        yield Bad("preprocess", name, compress("s.npz", "-p", "p.toml"), with_model(**{"p.toml": data}))
        yield Bad("preprocess", f"{name}, YAML", compress("s.npz", "-p", "p.yaml"), with_model(**{"p.yaml": data}))
    presets = {
        "extends itself": b'extends = "p.toml"', "extends nothing": b'extends = "none"',
        "extends a list": b"extends = [1]",
        "extends a device": b'extends = "/dev/zero.toml"',
        "an unknown pass": b'extends = "balanced"\nprepare = "nothing"',
        "nested repeats": b'extends = "balanced"\nprepare = "' + b"repeat(" * 500 + b'"', "a number": b"prepare = 1",
        "control": b'extends = "\\u001b[31m"',
        "an endless repeat": b'extends = "balanced"\nprepare = "repeat()"\nquantize = "x"',
    }  # fmt: skip
    for name, data in presets.items():
        yield Bad("preset", name, compress("s.npz", "--preset", "p.toml"), with_model(**{"p.toml": data}))
    yaml = {
        "aliases": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a tag": b"!!python/object/apply:os.system ['touch hacked']\n",
        "merge": b"<<: {a: 1}\nlayout: x\n", "deep": b"a: " + b"[" * 5000, "a NaN": b"mean: [.nan, .nan, .nan]\n",
        "documents": b"---\na: 1\n---\nb: 2\n",
    }  # fmt: skip
    for name, data in yaml.items():
        yield Bad("preprocess", name, compress("s.npz", "-p", "p.yaml"), with_model(**{"p.yaml": data}))


def _texts(seed: int) -> Iterator[Bad]:
    from amctc.onnx_bridge import import_model
    from amctc.text import print_graph

    pipelines = ("nothing", "fold-batch-norm,,", "repeat(", "repeat(" * 500, "observe{bins=" + "9" * 5000 + "}",
        "observe{bins=x}",
                 "place-qdq{skip=" + "[" * 500, "\x1b[31m", "observe{bins=1 bins=2}", "fold-batch-norm}", "{", '"',
                 "a" * 70000,
                 "@none.txt", "@.", "observe{bins=-1}", "observe{bins=1e999}")  # fmt: skip
    for index, text in enumerate(pipelines):
        yield Bad("pipeline", f"{index}: {text[:20]!r}", ("run", text, MODEL), with_model())
    for option in (
        "observe",
        "observe.bins",
        "x.y=1",
        "observe.nothing=1",
        "observe.bins=[",
        "observe.bins=\x1b",
        ".=",
        "observe.bins=a b",
    ):
        yield Bad("option", f"--set {option!r}", compress("s.npz", "--set", option), with_model())
    for arguments in (("--override", "x{"), ("--override", "*{bits=x}"), ("--skip", "none*"), ("--method", "none"),
        ("--target", "x"),
                      ("--preset", "none"), ("--jobs", "0"), ("--batch-size", "-1"), ("--provider", "none"),
                          ("--custom-ops", "none.so"),
                      ("--custom-ops", "s.npz"), ("--nothing",), ("--seed", "9" * 5000)):  # fmt: skip
        yield Bad("option", " ".join(arguments)[:30], compress("s.npz", *arguments), with_model())
    graph = print_graph(import_model(small_models.convolutions())).encode()
    texts = {"empty": b"", "cut": graph[: len(graph) // 2], "NUL": b"\0" * 9, "not UTF-8": b"\xff" * 9,
        "nested": graph.replace(b"[", b"[" * 5000, 1),
             "digits": graph.replace(b"6x6", b"9" * 5000 + b"x6", 1), "an open string": b'graph "' + b"a" * (1 << 20),
             "tokens": b"graph " + b"," * (1 << 23),
             "huge": graph.replace(b"2x6x6", b"%dx6x6" % (1 << 62)), "no graph": b"hello"}  # fmt: skip
    for name, data in texts.items():
        yield Bad("graph text", name, ("inspect", "g.txt"), {"g.txt": data})
    for number in range(RANDOM_CASES):
        data = damaged_text(graph, random.Random(seed * 100 + number))
        yield Bad("graph text", f"damaged {number}", ("inspect", "g.txt"), {"g.txt": data}, may_pass=True)


# ---------------------------------------------------------------------------------------------- code and reports


def _code() -> Iterator[Bad]:
    scripts = {
        "syntax": b"def f(:\n", "raises": b"def f(run):\n    raise ValueError('two\\nlines \\x1b[31m')\n",
        "exits": b"import sys\ndef f(run):\n    sys.exit(0)\n",
        "exits at once": b"raise SystemExit(0)\n", "text": b"def f(run):\n    return 'x'\n",
        "nothing": b"def f(run):\n    pass\n", "NaN": b"def f(run):\n    return float('nan')\n",
        "no function": b"f = 1\n", "not UTF-8": b"\xff\xfe", "NUL": b"\0", "an import": b"import nothing_there\n",
        "recursion": b"def f(run):\n    return f(run)\n",
        "wrong feeds": b"def f(run):\n    return run({'z': 1})\n",
        "memory": b"def f(run):\n    return len(bytes(1 << 44))\n", "arguments": b"def f(a, b, c):\n    return 1\n",
        "wrong shape": b"import numpy\ndef f(run):\n    run({'x': numpy.zeros((1, 9))})\n    return 1\n",
    }  # fmt: skip
    for name, data in scripts.items():
        yield Bad("evaluator", name, ("eval", MODEL, "-e", "e.py:f"), with_model(**{"e.py": data}))
    batches = {
        "a number": b"def f():\n    return 1\n", "nothing": b"def f():\n    return None\n",
        "no batches": b"def f():\n    return []\n",
        "wrong keys": b"def f():\n    yield {'z': 1}\n", "ragged": b"def f():\n    yield [[1, 2], [3]]\n",
        "raises": b"def f():\n    yield 1 / 0\n",
        "objects": b"def f():\n    yield {'x': object()}\n", "text": b"def f():\n    return 'abc'\n",
        "NaN": b"import numpy\ndef f():\n    yield numpy.full((1, 2, 6, 6), numpy.nan, 'float32')\n",
    }  # fmt: skip
    for name, data in batches.items():
        yield Bad("evaluator", f"samples: {name}", compress("e.py:f"), with_model(**{"e.py": data}))
    for text in ("none.py:f", "e.py", "e.py:", ":f", "e.txt:f"):
        yield Bad("evaluator", text, ("eval", MODEL, "-e", text), with_model(**{"e.py": b"def f(run): return 1\n"}))


def _reports() -> Iterator[Bad]:
    model = small_models.quantized().SerializeToString()
    texts = {"empty": b"", "no JSON": b"{", "a list": b"[]", "a number": b"1", "nested": b"[" * 100000,
        "no model": b"{}", "not UTF-8": b"\xff",
             "lists": b"[" + b"[]," * (1 << 24) + b"[]]", "digits": b'{"model": ' + b"9" * 5000 + b"}"}  # fmt: skip
    for name, data in texts.items():
        yield Bad("report", name, ("eval", "out", "-d", "s.npz"),
                  {"out/model_deploy.onnx": model, "out/report.json": data,
                      "s.npz": small_models.samples()})  # fmt: skip
    yield Bad("report", "a long name", ("eval", "out", "-d", "s.npz"), {
        "out/model_deploy.onnx": model, "out/report.json": b'{"model": "%s"}' % (b"n" * 5000),
        "s.npz": small_models.samples()},
        may_pass=True)  # fmt: skip
    yield Bad(
        "report",
        "no model in the folder",
        ("eval", "out", "-d", "s.npz"),
        {"out/x": b"", "s.npz": small_models.samples()},
    )


# ---------------------------------------------------------------------------------------------- places and files


def _outputs() -> Iterator[Bad]:
    def making(make: Callable[[Path], object]) -> Callable[[Path], None]:
        return lambda folder: (make(folder), None)[1]

    folders: dict[str, tuple[str, Callable[[Path], object]]] = {
        "a missing folder": ("none/out", lambda f: None), "a file": (MODEL, lambda f: None),
        "a file as parent": (f"{MODEL}/out", lambda f: None),
        "a dangling link": ("link", lambda f: (f / "link").symlink_to("nowhere")), "a FIFO": ("fifo",
        lambda f: os.mkfifo(f / "fifo")),
        "a device": ("/dev/null", lambda f: None), "a long name": ("n" * 300, lambda f: None),
        "a full device": ("/dev/full", lambda f: None),
        "a link among the files": ("out", lambda f: ((f / "out").mkdir(),
        (f / "out" / "record.txt").symlink_to("../m.onnx"))),
        "a folder among the files": ("out", lambda f: (f / "out" / "report.json").mkdir(parents=True)),
        "proc": ("/proc/out", lambda f: None), "a link to itself": ("self", lambda f: (f / "self").symlink_to("self")),
    }  # fmt: skip
    for name, (out, make) in folders.items():
        yield Bad(
            "output", f"folder: {name}", ("compress", MODEL, "-d", "s.npz", "-o", out), with_model(), making(make)
        )
    files: dict[str, tuple[str, Callable[[Path], object]]] = {
        "a missing folder": ("none/o.onnx", lambda f: None), "a folder": ("o.onnx", lambda f: (f / "o.onnx").mkdir()),
        "another suffix": ("o.txt.gz", lambda f: None), "a link": ("o.onnx",
        lambda f: (f / "o.onnx").symlink_to(MODEL)),
        "a FIFO": ("o.txt", lambda f: os.mkfifo(f / "o.txt")), "a long name": ("n" * 300 + ".onnx", lambda f: None),
        "a dangling link": ("o.onnx", lambda f: (f / "o.onnx").symlink_to("nowhere")), "proc": ("/proc/o.onnx",
        lambda f: None),
    }  # fmt: skip
    for name, (out, make) in files.items():
        yield Bad("output", f"file: {name}", ("run", "drop-identity", MODEL, "-o", out), with_model(), making(make))
    model = small_models.external().SerializeToString()
    renamed = small_models.external("o.onnx").SerializeToString()
    yield Bad(
        "output",
        "the model's own weights",
        ("run", "drop-identity", MODEL, "-o", "o.onnx"),
        {MODEL: renamed, "o.onnx": small_models.EXTERNAL},
    )
    yield Bad("output", "a model without its weights", ("run", "drop-identity", MODEL, "-o", "o.onnx"), {MODEL: model})


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a folder": lambda p: p.mkdir(), "a FIFO": os.mkfifo, "a socket": make_socket,
    "a link to itself": lambda p: p.symlink_to(p.name),
    "a dangling link": lambda p: p.symlink_to("nowhere"), "/dev/zero": lambda p: p.symlink_to("/dev/zero"),
    "missing": lambda p: None,
    "/proc/self/mem": lambda p: p.symlink_to("/proc/self/mem"), "/dev/stdin": lambda p: p.symlink_to("/dev/null"),
    "empty": lambda p: p.touch(),
    "2 TiB": lambda p: os.truncate(os.open(p, os.O_CREAT | os.O_WRONLY), 1 << 41),
}  # fmt: skip
"""What may be where a file is expected."""


def _special() -> Iterator[Bad]:
    roles = {
        "z.onnx": ("inspect", "z.onnx"), "z.txt": ("inspect", "z.txt"), "z.npz": compress("z.npz"),
        "z.npy": compress("z.npy"),
        "z.bin": compress("z.bin"), "z.jsonl": compress("z.jsonl"), "z.csv": ("eval", MODEL, "-d", "s.npz",
        "--labels", "z.csv"),
        "z.toml": compress("s.npz", "--preset", "z.toml"), "z.yaml": compress("s.npz", "-p", "z.yaml"),
        "z.py": ("eval", MODEL, "-e", "z.py:f"), "z.pipeline": ("run", "@z.pipeline", MODEL), "reference.onnx":
        ("eval", MODEL, "-d", "s.npz", "-r", "reference.onnx"), "z.so": compress("s.npz", "--custom-ops", "z.so"),
    }  # fmt: skip
    for name, arguments in roles.items():
        for what, make in SPECIAL.items():
            fine = (name, what) in (("z.pipeline", "empty"), ("z.pipeline", "/dev/stdin"))
            yield Bad(
                "special",
                f"{name}: {what}",
                arguments,
                with_model(),
                lambda f, n=name, m=make: (m(f / n), None)[1],
                fine,
            )
