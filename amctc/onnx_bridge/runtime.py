"""Float execution by ONNX Runtime: whole graphs for calibration, single carried nodes for the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto

from amctc.errors import UnsupportedError, printable
from amctc.interp import Kernel, KernelFactory, KernelTable
from amctc.ir import Graph, GraphInput, Op, Value, const, with_operands
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge.exporter import export_model
from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.subgraphs import inner_names
from amctc.ops.onnx import Node
from amctc.schema import OpKind
from amctc.types import Array

_FATAL = 4


def open_session(model: bytes, *, optimise: bool = True, threads: int = 1) -> onnxruntime.InferenceSession:
    """A CPU session on serialized model bytes; :class:`UnsupportedError` when the runtime refuses the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exception types are not stable across versions
        raise UnsupportedError(f"ONNX Runtime refuses the model: {printable(error, 300)}") from error


class FloatSession:
    """A graph in ONNX Runtime that also returns the arrays of chosen inner values.

    ``optimise=False`` keeps every node as it is: quantized graphs may differ by a step when optimised. One thread by
    default, so that results do not depend on the number of cores.
    """

    def __init__(self, graph: Graph, keep: Sequence[Value] = (), *, optimise: bool = True, threads: int = 1) -> None:
        self._keep = list(dict.fromkeys(keep))
        names = [f"kept/{i}" for i in range(len(self._keep))]
        exposed = graph.with_outputs((*graph.outputs, *self._keep), (*graph.output_names, *names))
        self.output_names, self._names = graph.output_names, names
        model = export_model(exposed).SerializeToString()
        self._session = open_session(model, optimise=optimise, threads=threads)

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
            outputs: list[Array] = self._session.run(names, dict(feeds)) if names else []
        except Exception as error:
            raise UnsupportedError(f"ONNX Runtime failed: {printable(error, 300)}") from error
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
        precise = any(a is not None and a.dtype == np.float64 for a in arrays)
        feeds = {n: np.array(_narrowed(arrays[i], dtype), order="C", copy=None) for n, dtype, i in slots}
        results = session.run(feeds)
        outputs = (results[n] for n in names)
        return tuple(a.astype(np.float64) if precise and a.dtype == np.float32 else a for a in outputs)

    return run


def _narrowed(array: Array | None, dtype: np.dtype[Any]) -> Array:
    assert array is not None
    return array.astype(dtype) if array.dtype != dtype else array


CARRIED: dict[type[OpKind], KernelFactory] = {Node: carried_kernel}
"""The kernel of carried ops."""

WHOLE_FLOAT: KernelTable = {**ORACLE, **CARRIED}
"""Every op of a float or QDQ graph, carried ones included."""

__all__ = ["CARRIED", "WHOLE_FLOAT", "FloatSession", "carried_kernel", "open_session"]
