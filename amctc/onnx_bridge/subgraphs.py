"""Bodies of If, Loop, Scan and other nodes with graph attributes: which outer values they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from amctc.onnx_bridge.fields import GraphFields

DEFAULT = ("", "ai.onnx")
"""The two spellings of the default domain."""

CAPTURED, DOMAIN = "captured", "domain:"
"""Metadata of a carried node: a name its bodies capture (once each), the version of another domain they use."""


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


def defined_names(node: NodeProto) -> Iterator[str]:
    """Each name made inside the bodies of ``node``, as often as it is made."""
    for body, _ in _scopes(node):
        yield from _own(body)


def _scopes(node: NodeProto) -> Iterator[tuple[GraphProto, frozenset[str]]]:
    """The bodies of ``node``, outer ones first, each with the names made in it and in the bodies around it."""
    stack: list[tuple[GraphProto, frozenset[str]]] = [(g, frozenset()) for g in bodies(node)]
    while stack:
        graph, outer = stack.pop(0)
        scope = outer.union(_own(graph))
        yield graph, scope
        stack.extend((g, scope) for inner in graph.node for g in bodies(inner))


def _own(graph: GraphProto) -> Iterator[str]:
    """Names made in the body ``graph`` itself."""
    yield from {i.name for i in graph.input} | {t.name for t in graph.initializer}
    yield from (t.values.name for t in graph.sparse_initializer)
    yield from (o for inner in graph.node for o in inner.output if o)


def inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """All nodes inside the bodies of ``node``, nested ones included."""
    stack = list(bodies(node))
    while stack:
        for inner in stack.pop().node:
            yield inner
            stack.extend(bodies(inner))


def tensors_of(node: NodeProto) -> Iterator[TensorProto]:
    """All tensors in the attributes of ``node`` and in its bodies, those that sparse ones are made of included."""
    for inner in (node, *inner_nodes(node)):
        for attribute in inner.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from (t for sparse in attribute.sparse_tensors for t in (sparse.values, sparse.indices))
        for graph in bodies(inner):
            yield from graph.initializer
            yield from (t for sparse in graph.sparse_initializer for t in (sparse.values, sparse.indices))


def with_plain_domain(model: ModelProto, graphs: Sequence[GraphFields]) -> ModelProto:
    """The model with its default domain spelled "", in bodies too; itself if it is. ``graphs`` are of its nodes."""
    imports = {o.domain for o in model.opset_import}
    if "ai.onnx" not in imports and not any(n.domain == "ai.onnx" for g in graphs for n in g.nodes):
        return model
    plain = ModelProto()
    plain.CopyFrom(model)
    for node in _all_nodes(plain):
        if node.domain == "ai.onnx":
            node.domain = ""
    plain.ClearField("opset_import")
    plain.opset_import.extend(o for o in model.opset_import if o.domain != "ai.onnx")
    if "" not in imports:
        plain.opset_import.add(version=next(o.version for o in model.opset_import if o.domain == "ai.onnx"))
    return plain


def _all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    for node in model.graph.node:
        yield node
        yield from inner_nodes(node)
