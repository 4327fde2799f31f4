"""Bodies of If, Loop, Scan and other nodes with graph attributes: which outer values they read."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graph attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def captured_names(node: NodeProto) -> list[str]:
    """Outer values that the bodies of ``node`` read, in order of first use; nested bodies included."""
    if not any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
        return []
    found: dict[str, None] = {}
    stack: list[tuple[GraphProto, frozenset[str]]] = [(g, frozenset()) for g in bodies(node)]
    while stack:
        graph, outer = stack.pop(0)
        local = set(outer) | {i.name for i in graph.input} | {t.name for t in graph.initializer}
        local |= {t.values.name for t in graph.sparse_initializer}
        local |= {o for inner in graph.node for o in inner.output}
        for inner in graph.node:
            found.update((n, None) for n in inner.input if n and n not in local)
            stack.extend((g, frozenset(local)) for g in bodies(inner))
        found.update((o.name, None) for o in graph.output if o.name not in local)
    return list(found)


def inner_names(node: NodeProto) -> set[str]:
    """Every name that occurs inside the bodies of ``node``: an exporter must not reuse them outside."""
    names: set[str] = set()
    stack = list(bodies(node))
    while stack:
        graph = stack.pop()
        names.update(i.name for i in (*graph.input, *graph.output, *graph.initializer))
        for inner in graph.node:
            names.update((*inner.input, *inner.output))
            stack.extend(bodies(inner))
    return names


def inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """All nodes inside the bodies of ``node``, nested ones included."""
    stack = list(bodies(node))
    while stack:
        for inner in stack.pop().node:
            yield inner
            stack.extend(bodies(inner))
