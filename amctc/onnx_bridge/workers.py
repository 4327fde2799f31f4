"""A graph in ONNX Runtime, callable from every worker of an executor."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import onnx
import onnxruntime

from amctc.concurrency import shares_memory
from amctc.ir import Graph
from amctc.onnx_bridge.blocked_channels import COPIES, open_unordered_session
from amctc.onnx_bridge.custom_ops import custom_op_libraries, register_custom_ops
from amctc.onnx_bridge.edge_casts import EdgeCasts
from amctc.onnx_bridge.exporter import export_model
from amctc.onnx_bridge.loop_bounds import bound_loops, run_failure
from amctc.onnx_bridge.model_file import temporary_model
from amctc.onnx_bridge.runtime import FloatSession, fits_memory
from amctc.onnx_bridge.sessions import open_session
from amctc.onnx_bridge.storage import TensorStore
from amctc.types import Array

Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Outputs by name for inputs by name."""


@contextmanager
def shared_session(
    graph: Graph, executor: Executor, *, provider: str = "cpu", unordered: bool = False
) -> Iterator[Run]:
    """A function that runs ``graph`` in float, in whichever worker of ``executor`` it is called, while the block lasts.

    Threads share one session. For other executors the model is written to a temporary file, and each worker process
    opens it once: what is sent to it is the path. Elements of outputs that are ``unordered`` may come in any order.
    """
    if shares_memory(executor):
        yield FloatSession(graph, provider=provider, unordered=unordered).run
        return
    casts = EdgeCasts(graph)

    def export(graph: Graph, store: TensorStore) -> onnx.ModelProto:
        return bound_loops(casts.add_to(export_model(graph, store=store)))

    with temporary_model(graph, export) as path:
        in_blocks = unordered and fits_memory(graph, COPIES)
        model = _Model(path, provider, custom_op_libraries(), fits_memory(graph), in_blocks)
        yield functools.partial(_run_file, model, graph.output_names, casts)


class _Model(NamedTuple):
    """A model file and how a session on it is opened."""

    path: Path
    provider: str
    libraries: tuple[str, ...]
    packed: bool
    unordered: bool


def _run_file(model: _Model, names: tuple[str, ...], casts: EdgeCasts, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """One run of the model in a file; in a worker process."""
    with _opening:
        session = _opened(model)
    try:
        return dict(zip(names, casts.run(session, names, feeds), strict=True))
    except Exception as error:
        raise run_failure(error) from None


_opening = threading.Lock()


@functools.lru_cache(maxsize=1)
def _opened(model: _Model) -> onnxruntime.InferenceSession:
    """The session of this process; a worker keeps the one of the model it is busy with."""
    for library in model.libraries:
        register_custom_ops(library)
    if model.unordered:
        return open_unordered_session(model.path, provider=model.provider)
    return open_session(model.path, provider=model.provider, packed=model.packed)
