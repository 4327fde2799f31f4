"""Work on weights in two worker processes: how much longer it takes in one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from amctc.concurrency import SerialExecutor, open_executor
from amctc.ir import Graph, GraphInput, apply, const
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, TensorType
from tools.bench.clock import in_fresh_process
from tools.bench.rows import Row

PIPELINES = {
    "second-order rounding": "observe,place-qdq{bits=8 method=mse},round-weights{bits=8 per-channel}",
    "weights under float data": "quantize-weights-only{bits=4 method=best}",
    "splits of low rank": "split-low-rank{energy=0.7}",
}
SAMPLES, BATCH = 8, 128


def products(layers: int, width: int) -> Graph:
    """A chain of matrix products and ReLUs with random weights."""
    rng = np.random.default_rng(0)
    x = value = GraphInput("x", TensorType(("N", width), F32))
    for index in range(layers):
        weight = rng.standard_normal((width, width), np.float32) * np.float32(2 / width) ** np.float32(0.5)
        value = apply(nn.Relu(), apply(nn.MatMul(), value, const(weight, name=f"w{index}")))
    return Graph((x,), (value,), ("y",))


def pass_seconds(pipeline: str, graph: Graph, executor: Executor) -> dict[str, float]:
    """CPU seconds of this process and of the busiest worker of ``executor``."""
    rng = np.random.default_rng(1)
    samples = [{"x": rng.standard_normal((BATCH, *graph.inputs[0].type.dims[1:]), np.float32)} for _ in range(SAMPLES)]
    workers = list(executor._processes) if isinstance(executor, ProcessPoolExecutor) else []
    before, own = [process_seconds(p) for p in workers], time.process_time()
    Pipeline.parse(pipeline).run(graph, Context(samples=samples, executor=executor))
    own = time.process_time() - own
    spent = [process_seconds(p) - b for p, b in zip(workers, before, strict=True)]
    return {"own": own, "worker": max(spent, default=0.0)}


def process_seconds(process: int) -> float:
    """CPU seconds that another process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def speed_up(pipeline: str, layers: int, width: int) -> dict[str, float]:
    """CPU seconds in this process alone, and in it and the busier of two workers."""
    graph = products(layers, width)
    pass_seconds(pipeline, products(2, 64), SerialExecutor())  # imports what is needed
    alone = pass_seconds(pipeline, graph, SerialExecutor())
    with open_executor("processes", 2) as executor:
        pass_seconds(pipeline, products(2, 64), executor)  # the workers too
        shared = pass_seconds(pipeline, graph, executor)
    return {"alone": alone["own"], **shared}


def worker_rows(layers: int, width: int) -> Iterator[Row]:
    """For each kind of work on weights what two worker processes gain.

    Time is what this process and the busier worker compute, as if they never did so at once: what a machine with two
    idle cores takes is less, what the clock says here depends on the neighbours.
    """
    for what, pipeline in PIPELINES.items():
        found = in_fresh_process(speed_up, pipeline, layers, width)
        yield Row(f"{what} in two processes", found["alone"] / (found["own"] + found["worker"]), "× faster", 1.7,
                  at_least=True, how=f"{layers} products of {width}²: {found['alone']:.1f} CPU s alone, "
                  f"{found['own']:.1f} and {found['worker']:.1f} of the busier worker, same bytes")  # fmt: skip
