"""Refuse loops that nothing ends: ONNX Runtime would run them for ever, with a copy of their state for each turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from amctc.errors import InputError, printable
from amctc.onnx_bridge.fields import GraphFields, NodeFields, read_graphs
from amctc.onnx_bridge.subgraphs import DEFAULT

MOST_TURNS = 1 << 24
"""Most turns of a loop whose number of turns is constant and whose condition never changes."""


def check_loops(model: ModelProto, graphs: Sequence[GraphFields]) -> None:
    """Raise :class:`InputError` for a Loop whose condition is always true, without a trip count or with a huge one.

    Only what the file states as constants counts; computed conditions are bounded when they are run
    (:mod:`amctc.onnx_bridge.loop_bounds`).
    ``graphs`` are those of the model's nodes.
    """
    for function in model.functions:
        _check(read_graphs(function)[0].nodes, {})
    if not any(node.op_type == "Loop" for graph in graphs for node in graph.nodes):
        return
    known: dict[GraphFields, dict[str, object]] = {}
    for graph in graphs:
        assert isinstance(graph.proto, GraphProto)
        known[graph] = (known[graph.outer] if graph.outer is not None else {}) | scalars(graph.proto)
        _check(graph.nodes, known[graph])


def scalars(graph: GraphProto) -> dict[str, object]:
    """Constants of one element by name."""
    tensors = [(t.name, t) for t in graph.initializer]
    tensors += [(n.output[0], a.t) for n in graph.node if n.op_type == "Constant" and n.output
                for a in n.attribute if a.name == "value"]  # fmt: skip
    return {name: value for name, tensor in tensors for value in _value(tensor)}


def _value(tensor: TensorProto) -> Iterator[object]:
    small = tensor.data_type in (TensorProto.BOOL, TensorProto.INT64) and all(d == 1 for d in tensor.dims)
    if small and tensor.data_location != TensorProto.EXTERNAL and len(tensor.raw_data) <= 8:
        try:
            yield np.asarray(numpy_helper.to_array(tensor)).item()
        except (ValueError, TypeError):  # malformed, which the importer says
            return


def _check(nodes: Sequence[NodeFields], known: dict[str, object]) -> None:
    for node in nodes:
        if node.op_type != "Loop" or node.domain not in DEFAULT:
            continue
        turns, condition = (*node.input, "", "")[:2]
        unbounded = not turns or _more(known.get(turns))
        started = not condition or known.get(condition) is True
        if unbounded and started and all(_goes_on(body) for body in node.bodies):
            raise InputError("a loop that nothing ends", where=f"node {printable(node.name)!r} (Loop)",
                             remedy="give it a trip count, or a condition that changes")  # fmt: skip


def _more(turns: object) -> bool:
    return isinstance(turns, int) and turns > MOST_TURNS


def _goes_on(body: GraphProto) -> bool:
    """Whether the condition that a body gives is the one it got, or constantly true."""
    if len(body.input) < 2 or not body.output:
        return False
    producers = {name: node for node in body.node for name in node.output}
    constants, name = scalars(body), body.output[0].name
    for _ in range(len(body.node) + 1):
        if name == body.input[1].name or constants.get(name) is True:
            return True
        node = producers.get(name)
        if node is None or node.op_type not in ("Identity", "Cast") or not node.input:
            return False
        name = node.input[0]
    return False
