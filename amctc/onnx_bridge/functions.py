"""Model-local functions: inlined, once it is known what that will cost."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto, inliner

from amctc.errors import InputError, LimitError, UnsupportedError, printable
from amctc.onnx_bridge.subgraphs import inner_nodes

EXPANSION_LIMIT = 100_000
"""Most nodes that calls may become. Ten calls in each of a dozen nested functions would be 10¹² nodes."""

_Key = tuple[str, str, str]


def inlined(model: ModelProto) -> ModelProto:
    """The model without local functions, its calls replaced by what the functions compute.

    Raises :class:`InputError` for a function that calls itself, :class:`LimitError` past :data:`EXPANSION_LIMIT` nodes
    and :class:`UnsupportedError` for a function of another opset that cannot be brought to the model's.
    """
    if not model.functions:
        return model
    _check_expansion(model)
    try:
        flat = inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the C++ inliner raises bare exceptions
        raise UnsupportedError(f"local functions cannot be inlined: {printable(error, 200)}",
                               remedy="export model and functions with one opset") from error  # fmt: skip
    kept = {(f.domain, f.name, f.overload) for f in model.functions}
    for node in _all_nodes(flat.graph.node):
        if _key(node) in kept:
            raise UnsupportedError("the local function is of another opset", remedy="export with one opset",
                                   where=f"node {printable(node.name)!r} ({printable(node.op_type)})")  # fmt: skip
    return flat


def _check_expansion(model: ModelProto) -> None:
    """Count the nodes that inlining would make, callees before callers, without making them."""
    calls = {(f.domain, f.name, f.overload): [_key(n) for n in _all_nodes(f.node)] for f in model.functions}
    sizes: dict[_Key, int] = {}
    stack: list[tuple[_Key, bool]] = [(key, False) for key in calls]
    open_: set[_Key] = set()
    while stack:
        key, ready = stack.pop()
        if ready:
            open_.discard(key)
            sizes[key] = sum(sizes.get(k, 1) for k in calls[key])
        elif key in open_:
            raise InputError(f"function {printable(key[1])!r} calls itself", remedy="export the model again")
        elif key not in sizes:
            open_.add(key)
            stack.append((key, True))
            stack.extend((k, False) for k in dict.fromkeys(calls[key]) if k in calls and k not in sizes)
    total = sum(sizes.get(_key(n), 0) for n in _all_nodes(model.graph.node))
    if total > EXPANSION_LIMIT:
        raise LimitError(f"the calls of local functions amount to {total} nodes, more than {EXPANSION_LIMIT}",
                         remedy="export the model without nested functions")  # fmt: skip


def _key(node: NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
    for node in nodes:
        yield node
        yield from inner_nodes(node)
