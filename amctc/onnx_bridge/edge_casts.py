"""Casts at the edges of a model, for element types that ONNX Runtime does not exchange with NumPy.

A bfloat16 input is fed as float32 and cast inside the session; wider types hold the narrow ones exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from onnxruntime import InferenceSession

from amctc.ir import Graph
from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.subgraphs import inner_names
from amctc.onnx_bridge.tensors import elem_code
from amctc.types import F32, I8, SCALAR_TYPES, U8, Elem, ScalarType

WIDER: Mapping[str, ScalarType] = {
    **{name: F32 for name, t in SCALAR_TYPES.items() if t.is_float and name not in ("f16", "f32", "f64")},
    **{name: I8 if name[0] == "i" else U8 for name, t in SCALAR_TYPES.items() if t.is_integer and t.bits < 8},
}
"""The type that elements are exchanged in, for those that cannot be exchanged as they are."""


class EdgeCasts:
    """What a session calls the inputs and outputs of a graph, and in which types their elements are exchanged.

    An input with a default is left as it is: it need not be fed.
    """

    def __init__(self, graph: Graph) -> None:
        self._inputs = _narrow((i.name, i.type.elem) for i in graph.inputs if i.default is None)
        self._outputs = _narrow((n, v.type.elem) for n, v in zip(graph.output_names, graph.outputs, strict=True))
        self._fed: dict[str, str] = {}
        self._read: dict[str, str] = {}

    def add_to(self, model: ModelProto) -> ModelProto:
        """Put the casts into ``model``, in place."""
        if not self._inputs and not self._outputs:
            return model
        graph = model.graph
        taken = {n for node in graph.node for n in (*node.input, *node.output, *inner_names(node))}
        fresh = Names(taken | {i.name for i in (*graph.input, *graph.output, *graph.initializer)}).fresh
        sides = (graph.input, self._inputs, self._fed), (graph.output, self._outputs, self._read)
        for edges, narrow, renamed in sides:
            for edge in edges:
                if edge.name in narrow:
                    renamed[edge.name] = fresh(f"{edge.name}/exchanged")
                    _widen(edge, renamed[edge.name], WIDER[narrow[edge.name].name])
        for name, fed in self._fed.items():
            graph.node.insert(0, _cast(fed, name, self._inputs[name]))
        for name, read in self._read.items():
            graph.node.append(_cast(name, read, WIDER[self._outputs[name].name]))
        return model

    def _feeds(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        plain = {name: array for name, array in arrays.items() if name not in self._fed}
        wide = {fed: arrays[n].astype(WIDER[self._inputs[n].name].dtype) for n, fed in self._fed.items() if n in arrays}
        return plain | wide

    def run(self, session: InferenceSession, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of these names, in the element types of the graph."""
        arrays = session.run([self._read.get(name, name) for name in names], self._feeds(feeds))
        return [
            array.astype(self._outputs[name].dtype) if name in self._read else array
            for name, array in zip(names, arrays, strict=True)
        ]


def _narrow(edges: Iterable[tuple[str, Elem]]) -> dict[str, ScalarType]:
    return {name: elem for name, elem in edges if isinstance(elem, ScalarType) and elem.name in WIDER}


def _widen(edge: ValueInfoProto, name: str, elem: ScalarType) -> None:
    edge.name = name
    edge.type.tensor_type.elem_type = elem_code(elem)


def _cast(source: str, target: str, to: ScalarType) -> NodeProto:
    return helper.make_node("Cast", [source], [target], to=elem_code(to))
