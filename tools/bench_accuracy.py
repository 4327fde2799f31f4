#!/usr/bin/env python3
"""Accuracy of the integer models of each preset and of other quantizers, on models and labelled images in a folder.

    python -m tools.bench_accuracy DATA [--models NAME ...] [--presets fast balanced best] [--peers onnxruntime nncf]
                                        [--calibration 100] [--test 400] [--write]

DATA is a folder with ``models/``, ``imagenet/`` (images and labels.csv) and ``data/*.npz`` (labelled images). The first
samples calibrate, those behind them test, the same for all. Of ONNX Runtime's methods the one with the highest SQNR on
the test samples is shown; NNCF is left out where it is not installed. Every model is made in a process of its own.
``--write`` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amctc.calibrate.samples import Samples

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

MODELS: dict[str, tuple[str, str, str]] = {
    "mobilenetv2": ("models/mobilenetv2.onnx", "imagenet", "imagenet"),
    "squeezenet1.1": ("models/squeezenet1.1.onnx", "imagenet", "imagenet"),
    "mobilenet_v1_0.25": ("models/mobilenet_v1_0.25_224.onnx", "imagenet", "tf"),
    "cifar10_resnet20": ("models/cifar10_resnet20.onnx", "data/cifar10_test_jpeg.npz", "imagenet"),
    "mnist-8": ("models/mnist-8.onnx", "data/mnist_test.npz", "unit"),
    "vit_fashion": ("models/vit_fashion.onnx", "data/fashion_test.npz", "fashion"),
}
"""Model file, samples and preprocessing, relative to DATA."""

PREPROCESS: dict[str, dict[str, object]] = {"fashion": {"divisor": 255.0, "mean": (0.2860,), "std": (0.3530,)}}
"""Preprocessings that have no name of their own."""


ORT, NNCF = "onnxruntime", "nncf"

COLUMNS = ("model, images tested", "made by", "top-1", "agreement", "SQNR dB", "CPU s", "peak MiB")

Figures = dict[str, Any]


def opened(data: Path, name: str) -> tuple[Path, Samples]:
    """The file of a model of :data:`MODELS` and its samples, prepared for it."""
    import amctc
    from amctc.calibrate.preprocess import Preprocess

    file, samples_at, preprocess = MODELS[name]
    prepared = Preprocess(**PREPROCESS[preprocess]) if preprocess in PREPROCESS else preprocess
    return data / file, amctc.open_samples_for(amctc.load(data / file), data / samples_at, preprocess=prepared)


def measure(data: Path, name: str, maker: str, calibration: int, test: int) -> Figures:
    """Quantize one model and score it; runs in its own process. ``maker`` is a preset, another quantizer or float."""
    import amctc
    from tools.quantized_by_others import NNCF, ONNX_RUNTIME, Peer

    model, samples = opened(data, name)
    calibrating, reference = samples.limited(0, calibration), amctc.Session(model)
    others = ONNX_RUNTIME | NNCF
    with tempfile.TemporaryDirectory() as folder:
        start, out = time.process_time(), Path(folder) / "out"
        session: Any = reference
        if maker in others:
            others[maker](model, calibrating, Path(folder) / "model.onnx")
            session = Peer(Path(folder) / "model.onnx")
        elif maker != "float":
            amctc.compress(model, calibrating, preset=maker, out=out)
            session = amctc.Session(out / "model_deploy.onnx", executor="onnxruntime")  # the bits of any executor
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        scores = amctc.evaluate(session, samples.limited(calibration, calibration + test), reference)
    figures = {"top1": scores.top1, "agreement": scores.agreement, "sqnr_db": scores.sqnr_db}
    spent = {"cpu_seconds": seconds, "peak_mib": peak}
    return {"model": name, "maker": maker, "samples": scores.samples, **figures, **spent}


def _in_child(connection: Any, *arguments: Any) -> None:
    try:
        connection.send(measure(*arguments))
    except Exception as error:  # another quantizer may refuse a model: that is a result
        connection.send(f"{type(error).__name__}: {error}")


def isolated(*arguments: object) -> Figures | str:
    """:func:`measure` in a fresh process; the error as text where it failed."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_in_child, args=(there, *arguments))
    process.start()
    there.close()
    try:
        result: Figures | str = here.recv()
    except EOFError:
        result = "the process was ended"
    process.join()
    return result


def rows_of(name: str, given: argparse.Namespace) -> Iterator[Figures]:
    """The figures of one model: float, by each preset, and by the peers."""
    from tools.quantized_by_others import ONNX_RUNTIME, installed

    for maker in ("float", *given.presets):
        found = isolated(given.data, name, maker, given.calibration, given.test)
        if isinstance(found, str):
            raise SystemExit(f"{name}, {maker}: {found}")
        yield found
    if ORT in given.peers:
        tried = [isolated(given.data, name, maker, given.calibration, given.test) for maker in ONNX_RUNTIME]
        made = [found for found in tried if not isinstance(found, str)]
        yield max(made, key=lambda found: found["sqnr_db"]) if made else _failed(name, ORT, str(tried[0]))
    if NNCF in given.peers and installed(NNCF):
        found = isolated(given.data, name, "NNCF", given.calibration, given.test)
        yield _failed(name, "NNCF", found) if isinstance(found, str) else found


def _failed(name: str, maker: str, error: str) -> Figures:
    """A row that says why a quantizer has no figures."""
    return {"model": name, "maker": f"{maker}: {' '.join(error.split())[:100]}"}


def line(row: Figures, *, first: bool) -> str:
    """A row of the table; the model is named in the first of its rows."""
    cells = [f"{row['model']}, {row['samples']}" if first else "", row["maker"]]
    if row.get("sqnr_db") is not None:
        real = row["maker"] == "float"
        cells += [f"{100 * row['top1']:.2f}", "" if real else f"{100 * row['agreement']:.2f} %",
                  "" if real else f"{row['sqnr_db']:.1f}"]  # fmt: skip
        cells += [] if real else [f"{row['cpu_seconds']:.0f}", f"{row['peak_mib']:.0f}"]
    return f"| {' | '.join(cells + [''] * (len(COLUMNS) - len(cells)))} |"


def with_table(page: str, text: str) -> str:
    """The page with ``text`` between its marks."""
    found = re.sub(r"(<!-- accuracy -->\n).*?(<!-- end -->)", lambda m: m[1] + text + m[2], page, count=1,
                   flags=re.DOTALL)  # fmt: skip
    if text not in found:
        raise ValueError("the page has no marks for the table")
    return found


def main() -> None:
    """Measure the models asked for and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--presets", nargs="*", default=["fast", "balanced", "best"])
    parser.add_argument("--peers", nargs="*", choices=[ORT, NNCF], default=[ORT, NNCF])
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    from tools.bench.machine import machine_lines
    from tools.quantized_by_others import installed

    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    peers = [f"{name} {installed(name) or 'not installed'}" for name in given.peers]
    machine = [*machine_lines()[:2], f"other quantizers: {', '.join(peers) or 'none'}"]
    print("\n".join((*machine, *lines)) if not given.json else "", end="\n", flush=True)
    for name in given.models:
        for number, row in enumerate(rows_of(name, given)):
            lines.append(line(row, first=number == 0))
            print(json.dumps(row) if given.json else lines[-1], flush=True)
    if given.write:
        text = "".join(f"- {fact}\n" for fact in machine) + "\n" + "\n".join(lines) + "\n"
        PAGE.write_text(with_table(PAGE.read_text("utf-8"), text), "utf-8")


if __name__ == "__main__":
    main()
