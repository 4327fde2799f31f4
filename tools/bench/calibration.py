"""Calibration: four threshold methods from one pass over the images, and what each threshold search costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from amctc.api import load
from amctc.numerics import thresholds
from amctc.numerics.entropy import entropy
from amctc.numerics.histogram import Histogram
from amctc.ops import quant
from amctc.pipeline import Context, Pipeline
from tools.bench.clock import cpu_seconds, in_fresh_process, interleaved, peak_bytes, resident_bytes
from tools.bench.networks import mobilenet_v2
from tools.bench.rows import Row

METHODS: dict[str, Callable[[Histogram], object]] = {
    "min-max": thresholds.min_max, "percentile": thresholds.percentile, "entropy": entropy, "mse": thresholds.mse,
}  # fmt: skip
PREPARE = "fold-constants,canonicalize-clips,fuse-activation"
MEGABYTE = 1e6


class _Images:
    """``count`` images, each made when it is asked for; the same for every contender."""

    def __init__(self, size: int, count: int) -> None:
        self._size, self._count = size, count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(self._count):
            rng = np.random.default_rng(index)
            yield {"x": rng.standard_normal((1, 3, self._size, self._size), np.float32)}

    def __len__(self) -> int:
        return self._count


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The images as ONNX Runtime's calibrator reads them."""

    def __init__(self, images: _Images) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The next image, ``None`` at the end."""
        return next(self._left, None)


def observed(path: Path, size: int, count: int) -> list[Histogram]:
    """Histograms of all quantization points of the model in a file over ``count`` images."""
    graph = Pipeline.parse(PREPARE).run(load(path), Context()).graph
    result = Pipeline.parse("observe").run(graph, Context(samples=_Images(size, count))).graph
    return [op.kind.histogram for op in result.ops if isinstance(op.kind, quant.Observe)]


def own_pass(size: int, count: int) -> dict[str, float]:
    """CPU seconds and memory from the file of the model to the ranges of all four methods.

    Making the images is counted on both sides, importing what computes on neither.
    """
    Pipeline.parse(f"{PREPARE},observe")  # imports the passes
    before = resident_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(mobilenet_v2(size), path)

        def calibrate() -> int:
            histograms = observed(path, size, count)
            for method in METHODS.values():
                for histogram in histograms:
                    method(histogram)
            return len(histograms)

        tensors, seconds = cpu_seconds(calibrate)
    return {"seconds": seconds, "tensors": tensors, "peak": peak_bytes(), "grown": peak_bytes() - before}


def peer_pass(size: int, count: int, method: str) -> dict[str, float]:
    """The same of one method of ONNX Runtime's calibrator, on the tensors that it chooses, with its defaults."""
    before = resident_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(mobilenet_v2(size), path)

        def calibrate() -> int:
            augmented = str(Path(folder) / "augmented.onnx")
            calibrator = create_calibrator(str(path), None, augmented, CalibrationMethod[method])
            calibrator.collect_data(_Reader(_Images(size, count)))
            return len(list(calibrator.compute_data().keys()))

        tensors, seconds = cpu_seconds(calibrate)
    return {"seconds": seconds, "tensors": tensors, "peak": peak_bytes(), "grown": peak_bytes() - before}


def calibration_rows(size: int, count: int, peers: tuple[str, ...]) -> Iterator[Row]:
    """One pass for four methods, its memory at a tenth of the images and at all, and the peers."""
    few, own = (in_fresh_process(own_pass, size, n) for n in (max(1, count // 10), count))
    whole = (size, count) == (224, 100)
    yield Row(f"calibration, 4 methods, {count} images of {size}²", own["seconds"], "CPU s", 2.7 if whole else None,
              how=f"MobileNetV2, {own['tensors']:.0f} tensors, images made on the way")  # fmt: skip
    yield Row("the same: peak memory over that of a tenth of the images", own["peak"] / few["peak"], "×", 1.05,
              how=f"{few['peak'] / MEGABYTE:.0f} and {own['peak'] / MEGABYTE:.0f} MB in all")  # fmt: skip
    for method in peers:
        peer = in_fresh_process(peer_pass, size, count, method)
        yield Row(f"the same: ONNX Runtime's {method} alone", peer["seconds"] / own["seconds"], "× our CPU time",
                  how=f"{peer['seconds']:.1f} s, {peer['tensors']:.0f} tensors, "
                  f"{peer['peak'] / MEGABYTE:.0f} MB in all")  # fmt: skip


def search_rows(size: int, rounds: int) -> Iterator[Row]:
    """CPU time of a threshold search, the mean over the tensors of MobileNetV2."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(mobilenet_v2(size), path)
        histograms = observed(path, size, 4)
    times = interleaved({name: _for_all(METHODS[name], histograms) for name in ("entropy", "mse")}, rounds, 1)
    for name, goal in (("entropy", 5.0), ("mse", 1.0)):
        each = times[name].median / len(histograms) * 1e3
        yield Row(f"{name} search per tensor", each, "ms", goal,
                  how=f"{histograms[0].counts.size} bins, mean of {len(histograms)} tensors")  # fmt: skip


def _for_all(method: Callable[[Histogram], object], histograms: list[Histogram]) -> Callable[[], object]:
    return lambda: [method(h) for h in histograms]
