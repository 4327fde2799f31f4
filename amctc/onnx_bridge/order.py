"""The order in which the nodes of a model are read: producers first, whatever the file says."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from amctc.errors import InputError, printable
from amctc.onnx_bridge.checks import AGAIN
from amctc.onnx_bridge.fields import NodeFields
from amctc.onnx_bridge.subgraphs import captured_names


def in_order(nodes: Sequence[NodeFields], known: frozenset[str]) -> list[int]:
    """Indices with producers first, otherwise in file order; names a node that waits for itself or for nothing."""
    if _is_ordered(nodes, known):
        return list(range(len(nodes)))
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in producers or name in known:
                raise InputError(f"value {printable(name)!r} is computed twice", remedy=AGAIN,
                                 where=f"node {printable(node.name)!r}")  # fmt: skip
            if name:
                producers[name] = index
    waiting: list[set[str]] = []
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        read = node.input + captured_names(node.proto) if node.bodies else node.input
        needs = dict.fromkeys([n for n in read if n and n not in known])
        for name in needs:
            if name not in producers:
                raise InputError(f"{printable(name)!r} is never computed", remedy=AGAIN,
                                 where=f"node {printable(node.name)!r} ({node.op_type})")  # fmt: skip
            readers.setdefault(name, []).append(index)
        waiting.append(set(needs))
    return _released(nodes, waiting, readers)


def _is_ordered(nodes: Sequence[NodeFields], known: frozenset[str]) -> bool:
    """Whether the file has producers first already, as the standard asks, and no name twice."""
    defined = {"", *known}
    for node in nodes:
        if not defined.issuperset(node.input) or (node.bodies and not defined.issuperset(captured_names(node.proto))):
            return False
        before = len(defined)
        defined.update(node.output)
        if len(defined) - before != len(node.output) - node.output.count(""):
            return False
    return True


def _released(nodes: Sequence[NodeFields], waiting: list[set[str]], readers: dict[str, list[int]]) -> list[int]:
    ready = [i for i, needs in enumerate(waiting) if not needs]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for name in nodes[order[-1]].output:
            for reader in readers.get(name, ()):
                waiting[reader].discard(name)
                if not waiting[reader]:
                    heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(n for n, needs in zip(nodes, waiting, strict=True) if needs)
        raise InputError("the graph has a cycle", where=f"node {printable(stuck.name)!r} ({stuck.op_type})",
                         remedy="an ONNX graph must be acyclic; export the model again")  # fmt: skip
    return order
