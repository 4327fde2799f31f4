"""The layers at the ends of a network: those that no other layer comes before, and those that none comes after."""

from __future__ import annotations

from amctc.ir import Graph, Op, Value, constant_data
from amctc.ops import nn


def first_layers(graph: Graph) -> list[Op]:
    """The layers on computed data that depend on no other layer, in topological order."""
    behind: set[Value] = set()
    found: list[Op] = []
    for op in graph.ops:
        later = any(o in behind for o in op.operands)
        if _is_layer(op) and not later:
            found.append(op)
        if _is_layer(op) or later:
            behind.update(op.results)
    return found


def last_layers(graph: Graph) -> list[Op]:
    """The layers on computed data that no other layer depends on, in topological order."""
    before: set[Value] = set()
    found: list[Op] = []
    for op in reversed(graph.ops):
        earlier = any(r in before for r in op.results)
        if _is_layer(op) and not earlier:
            found.append(op)
        if _is_layer(op) or earlier:
            before.update(o for o in op.operands if o is not None)
    return found[::-1]


def _is_layer(op: Op) -> bool:
    return isinstance(op.kind, nn.Layer) and constant_data(op.operands[0]) is None
