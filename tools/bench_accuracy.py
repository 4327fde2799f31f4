#!/usr/bin/env python3
"""Accuracy of compressed models: float, integer run, agreement, SQNR, time and memory, one line per model.

    python tools/bench_accuracy.py DATA [--models NAME ...] [--preset balanced] [--calibration 100]

DATA is a folder with ``models/``, ``imagenet/`` (images and labels.csv) and ``data/*.npz`` (labelled images). The first
samples calibrate, all others test. Every model runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

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


def measure(data: Path, name: str, preset: str, calibration: int) -> dict[str, float]:
    """Compress one model and score it; runs in its own process."""
    import amctc
    from amctc.calibrate.preprocess import Preprocess

    model, samples_at, preprocess = MODELS[name]
    prepared = Preprocess(**PREPROCESS[preprocess]) if preprocess in PREPROCESS else preprocess
    samples = amctc.open_samples_for(amctc.load(data / model), data / samples_at, preprocess=prepared)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        amctc.compress(data / model, samples.limited(0, calibration), preset=preset, out=Path(folder) / "out")
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        reference = amctc.Session(data / model)
        session = amctc.Session(Path(folder) / "out" / "model_deploy.onnx")
    test = samples.limited(calibration)
    real = amctc.evaluate(reference, test)
    scores = amctc.evaluate(session, test, reference)
    spent = 0.0
    for feeds in samples.limited(calibration, calibration + 64):
        start = time.thread_time()
        session.run(feeds)
        spent += time.thread_time() - start
    return {
        "samples": scores.samples,
        "float_top1": real.top1 or 0.0,
        "integer_top1": scores.top1 or 0.0,
        "agreement": scores.agreement or 0.0,
        "sqnr_db": scores.sqnr_db or 0.0,
        "compress_seconds": seconds,
        "cpu_ms_per_image": 1000 * spent / min(64, scores.samples),
        "peak_mib": peak,
    }


def _in_child(connection: object, *arguments: object) -> None:
    connection.send(measure(*arguments))  # type: ignore[attr-defined, arg-type]


def isolated(*arguments: object) -> dict[str, float]:
    """:func:`measure` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_in_child, args=(there, *arguments))
    process.start()
    there.close()
    result: dict[str, float] = here.recv()
    process.join()
    return result


def main() -> None:
    """Measure the models asked for and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not given.json:
        columns = ("model", "tested", "float top-1", "integer top-1", "agreement", "SQNR dB")
        columns += ("compress s", "CPU ms/image", "peak MiB")
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in given.models:
        r = isolated(given.data, name, given.preset, given.calibration)
        if given.json:
            print(json.dumps({"model": name, **r}), flush=True)
            continue
        print(
            f"| {name} | {r['samples']:.0f} | {100 * r['float_top1']:.2f} | {100 * r['integer_top1']:.2f} "
            f"| {100 * r['agreement']:.2f} % | {r['sqnr_db']:.1f} | {r['compress_seconds']:.1f} "
            f"| {r['cpu_ms_per_image']:.1f} | {r['peak_mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
