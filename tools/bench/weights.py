"""Memory to quantize and to compress a model whose weights lie in a file beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from amctc.api import compress, load, save
from amctc.onnx_bridge.runtime import IN_MEMORY
from amctc.pipeline import Context, Pipeline
from tools.bench.clock import Memory, cpu_seconds, in_fresh_process, memory_watched, peak_bytes, resident_bytes
from tools.bench.networks import OPSET
from tools.bench.rows import Row

PIPELINE = "quantize-weights-only{bits=8}"
WEIGHTS_GOAL, TENSORS_GOAL = 0.15, 3
"""Issue 5: 0.15 times the weights and 3 times the largest tensor."""

SAMPLES = 4


def write_products(folder: Path, layers: int, width: int) -> Path:
    """A chain of ``layers`` products with float32 weights [width, width] in one external file, written piecemeal."""
    rng = np.random.default_rng(0)
    weights, nodes, size = [], [], 4 * width * width
    with (folder / "weights.bin").open("wb") as file:
        for index in range(layers):
            file.write((rng.standard_normal((width, width), np.float32) / np.sqrt(np.float32(width))).data)
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", index * size), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"v{index}", f"w{index}"], [f"v{index + 1}"], f"product_{index}"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("v0", f"v{layers}")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)],
                                       ir_version=8).SerializeToString())  # fmt: skip
    return path


def quantizing(path: str, out: str) -> dict[str, float]:
    """CPU seconds and memory from loading ``path`` to having written ``out``."""
    before = resident_bytes()

    def quantize() -> None:
        save(Pipeline.parse(PIPELINE).run(load(path), Context()).graph, out, external_data_threshold=0)

    _, seconds = cpu_seconds(quantize)
    return {"seconds": seconds, "grown": peak_bytes() - before, "peak": peak_bytes()}


def compressing(path: str, out: str, preset: str, width: int) -> dict[str, float]:
    """CPU seconds of a whole ``compress`` and how much memory grew by meanwhile: its own, and of mapped files."""
    rng = np.random.default_rng(0)
    samples = [{"v0": rng.standard_normal((1, width), np.float32)} for _ in range(SAMPLES)]
    before = Memory()
    before.look()
    with memory_watched() as memory:
        _, seconds = cpu_seconds(lambda: compress(path, samples, out=out, preset=preset))
    return {"seconds": seconds, "own": memory.own - before.own, "mapped": memory.mapped - before.mapped}


def compression_rows(preset: str, layers: int, width: int) -> Iterator[Row]:
    """How much memory of its own ``compress`` takes for ``layers`` weights of ``width`` ², beside what it maps."""
    tensor = 4 * width * width
    weights = layers * tensor
    with tempfile.TemporaryDirectory() as folder:
        path = write_products(Path(folder), layers, width)
        found = in_fresh_process(compressing, str(path), str(Path(folder) / "out"), preset, width)
    goal = WEIGHTS_GOAL + TENSORS_GOAL * tensor / weights if weights > IN_MEMORY else None
    yield Row(f"memory of its own to compress {weights / 1e9:.2f} GB of external weights, preset {preset}",
              found["own"] / weights, "× the weights", goal,
              how=f"largest tensor {tensor / 1e6:.0f} MB, grows by {found['own'] / 1e6:.0f} MB; beside it up to "
              f"{found['mapped'] / 1e6:.0f} MB of mapped files; {found['seconds']:.0f} CPU s")  # fmt: skip


def weight_rows(layers: int, width: int) -> Iterator[Row]:
    """How much memory grows while ``layers`` weights of ``width`` ² are quantized and written."""
    tensor = 4 * width * width
    weights = layers * tensor
    with tempfile.TemporaryDirectory() as folder:
        path = write_products(Path(folder), layers, width)
        found = in_fresh_process(quantizing, str(path), str(Path(folder) / "quantized.onnx"))
    yield Row(f"memory to quantize {weights / 1e9:.2f} GB of external weights", found["grown"] / weights,
              "× the weights",
              WEIGHTS_GOAL + TENSORS_GOAL * tensor / weights,
              how=f"largest tensor {tensor / 1e6:.0f} MB, grows by {found['grown'] / 1e6:.0f} to "
              f"{found['peak'] / 1e6:.0f} MB, {found['seconds']:.1f} CPU s")  # fmt: skip
