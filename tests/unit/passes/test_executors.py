"""Work on weights in threads and in processes: the same graph as in this thread, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import cache

import numpy as np
import pytest

from amctc.calibrate.work import graph_digest
from amctc.concurrency import SerialExecutor, open_executor
from amctc.ir import Graph, GraphInput, apply, const
from amctc.numerics import second_order, weight_only_search
from amctc.ops import nn
from amctc.pipeline import Context, Note, Pipeline
from amctc.types import F32, TensorType

PIPELINES = (
    "observe,place-qdq{bits=8 method=mse},round-weights{bits=8 per-channel}",
    "observe,place-qdq{bits=8 method=mse},round-weights{bits=4 per-channel}",
    "quantize-weights-only{bits=4 method=best}",
    "quantize-weights-only{bits=4 group=32 method=best}",
    "split-low-rank{method=auto energy=0.8 multiple=1}",
)


@pytest.fixture(scope="module", params=["threads", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with open_executor(request.param, 2) as found:
        yield found


@cache
def network() -> Graph:
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    x = GraphInput("x", TensorType(("N", 3, 6, 6), F32))
    value = apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), x, const(weight(12, 3, 3, 3), name="w0"))
    value = apply(nn.Conv((2, 2), (1, 1, 1, 1), (1, 1)), apply(nn.Relu(), value), const(weight(8, 12, 3, 3), name="w1"))
    flat = apply(nn.Flatten(), apply(nn.Relu(), value))
    product = apply(nn.MatMul(), flat, const(weight(32, 72).T.copy(), name="w2"))
    return Graph((x,), (apply(nn.MatMul(), product, const(weight(10, 32).T.copy(), name="w3")),), ("y",))


SAMPLES = [{"x": np.random.default_rng(i).normal(size=(16, 3, 6, 6)).astype(np.float32)} for i in range(4)]


def run(text: str, executor: Executor | None = None) -> tuple[str, list[Note]]:
    context = Context(samples=SAMPLES, executor=executor or SerialExecutor())
    result = Pipeline.parse(text).run(network(), context)
    return graph_digest(result.graph), context.notes


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of rows that cut these layers: what is cut is settled in this process."""
    monkeypatch.setattr(second_order, "_ROWS", 7)
    monkeypatch.setattr(weight_only_search, "_ROWS", 7)


serial = cache(run)


@pytest.mark.parametrize("text", PIPELINES)
def test_the_graph_does_not_depend_on_the_executor(executor: Executor, text: str) -> None:
    assert run(text, executor) == serial(text)
    assert serial(text)[0] != graph_digest(network())
