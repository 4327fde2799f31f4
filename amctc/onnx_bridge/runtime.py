"""Float execution by ONNX Runtime: whole graphs for calibration, single carried nodes for the interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from amctc.interp import Kernel, KernelFactory, KernelTable
from amctc.ir import Graph, GraphInput, Op, Value, const, with_operands
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge.blocked_channels import COPIES, open_unordered_session
from amctc.onnx_bridge.edge_casts import EdgeCasts
from amctc.onnx_bridge.exporter import export_model
from amctc.onnx_bridge.loop_bounds import bound_loops, run_failure
from amctc.onnx_bridge.model_file import temporary_model
from amctc.onnx_bridge.model_stream import serialized
from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.sessions import open_session
from amctc.onnx_bridge.storage import TensorStore, contents_size, inline
from amctc.onnx_bridge.subgraphs import inner_names
from amctc.onnx_bridge.value_sizes import require_sizes
from amctc.ops.onnx import Node
from amctc.schema import OpKind
from amctc.types import Array

IN_MEMORY = 1 << 27
"""Bytes of contents above which a model is handed to the runtime as a file, which it maps instead of copying.

In memory it would exist three times: as a message, in the runtime, and packed for its kernels.
"""


def fits_memory(graph: Graph, copies: int = 1) -> bool:
    """Whether what runs a graph may hold ``copies`` of its contents in memory."""
    return copies * contents_size(graph) <= IN_MEMORY


class FloatSession:
    """A graph in ONNX Runtime that also returns the arrays of chosen inner values.

    ``optimise=False`` keeps every node as it is: quantized graphs may differ by a step when optimised. One thread by
    default, so that results do not depend on the number of cores. ``provider`` as for :func:`open_session`. Elements of
    outputs that are ``unordered`` may come in any order, from an optimised graph: for readers that only count them.
    """

    def __init__(
        self, graph: Graph, keep: Sequence[Value] = (), *, optimise: bool = True, threads: int = 1,
        provider: str = "cpu", unordered: bool = False,
    ) -> None:  # fmt: skip
        self._keep = list(dict.fromkeys(keep))
        names = [f"kept/{i}" for i in range(len(self._keep))]
        exposed = graph.with_outputs((*graph.outputs, *self._keep), (*graph.output_names, *names))
        require_sizes(exposed)
        self.output_names, self._names = graph.output_names, names
        self._casts = EdgeCasts(exposed)
        packed = fits_memory(exposed)
        with self._file(exposed, packed) as model:
            self._session = (
                open_unordered_session(model, provider=provider)
                if unordered and fits_memory(exposed, COPIES)
                else open_session(model, optimise=optimise, threads=threads, provider=provider, packed=packed)
            )

    @contextmanager
    def _file(self, graph: Graph, in_memory: bool) -> Iterator[bytes | Path]:
        """The model for the runtime: its bytes, or a file with external data."""

        def export(graph: Graph, store: TensorStore) -> onnx.ModelProto:
            return bound_loops(self._casts.add_to(export_model(graph, store=store)))

        if in_memory:
            yield serialized(export(graph, inline))
            return
        with temporary_model(graph, export) as path:  # the runtime maps the data: it may go once the session is open
            yield path

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        return dict(zip(self.output_names, self._run(list(self.output_names), feeds), strict=True))

    def run_values(self, feeds: Mapping[str, Array]) -> dict[Value, Array]:
        """Arrays of the values asked to be kept."""
        return dict(zip(self._keep, self._run(self._names, feeds), strict=True))

    def run_all(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[Value, Array]]:
        """Outputs by name and the kept values, from one run."""
        arrays = self._run([*self.output_names, *self._names], feeds)
        count = len(self.output_names)
        outputs = dict(zip(self.output_names, arrays[:count], strict=True))
        return outputs, dict(zip(self._keep, arrays[count:], strict=True))

    def _run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            outputs: list[Array] = self._casts.run(self._session, names, feeds) if names else []
        except Exception as error:
            raise run_failure(error) from error
        return outputs


def carried_kernel(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """A carried node alone in a session; constant operands become initializers. float64 feeds are narrowed."""
    assert isinstance(op.kind, Node)
    fresh = Names(inner_names(NodeProto.FromString(op.kind.proto))).fresh
    fed = [None if o is None or c is not None else o for o, c in zip(op.operands, constants, strict=True)]
    inputs = {o: GraphInput(fresh(f"x{i}"), o.type) for i, o in enumerate(fed) if o is not None}
    operands = tuple(
        const(c, o.type.elem) if o is not None and c is not None else None if o is None else inputs[o]
        for o, c in zip(op.operands, constants, strict=True)
    )
    alone = with_operands(op, operands)
    names = tuple(fresh(f"y{i}") for i in range(len(alone.results)))
    graph = Graph(tuple(inputs.values()), alone.results, names)
    session = FloatSession(graph, optimise=False, threads=1)
    slots = [(inputs[o].name, o.type.elem.dtype, i) for i, o in enumerate(fed) if o is not None]

    def run(*arrays: Array | None) -> tuple[Array, ...]:
        precise = any(_is(a, np.float64) for a in arrays)
        results = session.run({n: _fed(arrays[i], dtype) for n, dtype, i in slots})
        outputs = (results[n] for n in names)
        return tuple(a.astype(np.float64) if precise and _is(a, np.float32) else a for a in outputs)

    return run


def _is(value: Any, dtype: type[np.floating[Any]]) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype == dtype


def _fed(value: Any, dtype: np.dtype[Any]) -> Any:
    """An array as the session wants it; strings and what is no dense tensor as they are."""
    if dtype.hasobject:
        return value
    return np.array(value.astype(dtype) if value.dtype != dtype else value, order="C", copy=None)


CARRIED: dict[type[OpKind], KernelFactory] = {Node: carried_kernel}
"""The kernel of carried ops."""

WHOLE_FLOAT: KernelTable = {**ORACLE, **CARRIED}
"""Every op of a float or QDQ graph, carried ones included."""

__all__ = ["CARRIED", "WHOLE_FLOAT", "FloatSession", "carried_kernel"]
