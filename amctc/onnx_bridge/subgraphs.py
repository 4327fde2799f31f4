"""Bodies of If, Loop, Scan and other nodes with graph attributes: which outer values they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
    found: dict[str, None] = {}
    for graph, local in _scopes(node):
        found.update((n, None) for inner in graph.node for n in inner.input if n and n not in local)
        found.update((o.name, None) for o in graph.output if o.name not in local)
    return list(found)


def rename_captured(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let the bodies of ``node`` read outer values under other names, in place."""
    for graph, local in _scopes(node):
        for inner in graph.node:
            inner.input[:] = [n if n in local else names.get(n, n) for n in inner.input]
        for output in graph.output:
            if output.name not in local:
                output.name = names.get(output.name, output.name)


def inner_names(node: NodeProto) -> set[str]:
    """Names of all values made inside the bodies of ``node``: nothing outside may be called so."""
    return {name for _, local in _scopes(node) for name in local}


def _scopes(node: NodeProto) -> Iterator[tuple[GraphProto, frozenset[str]]]:
    """The bodies of ``node``, outer ones first, each with the names made in it and in the bodies around it."""
    stack: list[tuple[GraphProto, frozenset[str]]] = [(g, frozenset()) for g in bodies(node)]
    while stack:
        graph, outer = stack.pop(0)
        local = {i.name for i in graph.input} | {t.name for t in graph.initializer}
        local |= {t.values.name for t in graph.sparse_initializer}
        local |= {o for inner in graph.node for o in inner.output}
        scope = outer | local
        yield graph, scope
        stack.extend((g, scope) for inner in graph.node for g in bodies(inner))


def inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """All nodes inside the bodies of ``node``, nested ones included."""
    stack = list(bodies(node))
    while stack:
        for inner in stack.pop().node:
            yield inner
            stack.extend(bodies(inner))
