"""Other forms of one model: what a file may look like that computes the same, or nearly, and what importers trip over.

Constants as nodes, as initializers and as inputs with a default; Unicode names, empty ones, node names used twice; dead
nodes; any topological order; clip bounds that are fed; nodes inside the bodies of If and Loop that capture what they
read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from amctc.testing import Source
from amctc.types import Array

Feeds = dict[str, Array]

MARKS = ("größe", "特征", "x y", "😀", "/a/b.c:0", "-", "Ω")
"""Put into names: none is an identifier of a programming language."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def in_another_form(source: Source, model: ModelProto) -> Feeds:
    """Change ``model`` in place; the feeds of the inputs it got. Shrinks towards no change."""
    feeds: Feeds = {}
    taken = [form for probability, form in FORMS if source.flip(probability)]
    for form in taken:
        if form not in UNLIKE_DEFAULTS or defaults not in taken:
            feeds |= form(source, model.graph) or {}
    return feeds


def odd_names(source: Source, graph: GraphProto) -> None:
    """Every tensor inside gets a mark in its name, every node no name or one of two."""
    interface = {v.name for v in (*graph.input, *graph.output)}
    made = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
    names = {n: f"{source.choice(MARKS)}{i}" for i, n in enumerate(dict.fromkeys(made)) if n not in interface}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        node.name = source.choice(("", "node", *MARKS))


def constant_nodes(source: Source, graph: GraphProto) -> None:
    """Initializers become Constant nodes, small ones in the short form of the attribute."""
    taken = {i.name for i in graph.input}
    for tensor in list(graph.initializer):
        if tensor.name in taken or source.flip(0.4):
            continue
        array = numpy_helper.to_array(tensor)
        short = {(np.dtype(np.float32), 0): "value_float", (np.dtype(np.float32), 1): "value_floats",
                 (np.dtype(np.int64), 0): "value_int", (np.dtype(np.int64), 1): "value_ints"}  # fmt: skip
        form = short.get((array.dtype, array.ndim)) if array.size else None
        attribute = {form: array.tolist()} if form is not None and source.flip() else {"value": tensor}
        graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], **attribute))
        graph.initializer.remove(tensor)


def defaults(source: Source, graph: GraphProto) -> Feeds:
    """Initializers become inputs that have a default; some are fed something else."""
    feeds: Feeds = {}
    known = {i.name for i in graph.input}
    for tensor in graph.initializer:
        if tensor.name not in known and tensor.data_type in FLOATS and source.flip(0.3):
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            array = numpy_helper.to_array(tensor)
            feeds[tensor.name] = array[..., ::-1].copy() if array.ndim and source.flip() else array
    return feeds


def fed_bounds(source: Source, graph: GraphProto) -> Feeds:
    """Bounds of clips become inputs."""
    feeds: Feeds = {}
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        bounds = [b for b in node.input[1:3] if b in constants] if node.op_type == "Clip" else []
        for bound in bounds:
            tensor = constants.pop(bound)
            graph.initializer.remove(tensor)
            graph.input.append(helper.make_tensor_value_info(bound, tensor.data_type, tensor.dims))
            feeds[bound] = numpy_helper.to_array(tensor)
    return feeds


def dead_code(source: Source, graph: GraphProto) -> Feeds:
    """A node, a weight and an input that nothing reads."""
    if graph.input:
        read = source.choice([i.name for i in graph.input])
        graph.node.append(helper.make_node("Identity", [read], ["unread/node"]))
        graph.input.append(helper.make_tensor_value_info("unread/input", TensorProto.FLOAT, ["n", 2]))
    graph.initializer.append(numpy_helper.from_array(np.ones((2, 2), np.float32), "unread/weight"))
    return {"unread/input": np.zeros((1, 2), np.float32)} if graph.input else {}


def shuffled(source: Source, graph: GraphProto) -> None:
    """The nodes in another topological order."""
    rest, order = list(graph.node), list[NodeProto]()
    waiting = {o for n in rest for o in n.output}
    while rest:
        ready = [n for n in rest if not waiting.intersection(n.input)]
        chosen = source.choice(ready)
        rest = [n for n in rest if n is not chosen]
        order.append(chosen)
        waiting.difference_update(chosen.output)
    copies = [NodeProto.FromString(n.SerializeToString()) for n in order]
    graph.ClearField("node")
    graph.node.extend(copies)


def conditional(source: Source, graph: GraphProto) -> Feeds:
    """A node moves into both branches of an If, negated in one; the condition is fed, or constant."""
    found = _wrappable(source, graph)
    if found is None:
        return {}
    node, types = found
    name = f"condition/{node.output[0]}"
    branches = {}
    for branch in ("then", "else"):
        inner = _renamed(node, f"{branch}/")
        outputs, nodes = list(inner.output), [inner]
        if branch == "else":
            nodes += [helper.make_node("Neg", [o], [f"{o}/negated"]) for o in outputs]
            outputs = [f"{o}/negated" for o in outputs]
        declared = [helper.make_tensor_value_info(o, t, None) for o, t in zip(outputs, types, strict=True)]
        branches[f"{branch}_branch"] = helper.make_graph(nodes, branch, [], declared)
    _replace(graph, node, helper.make_node("If", [name], list(node.output), **branches))
    value = np.asarray(source.flip())
    if source.flip(0.3):
        graph.initializer.append(numpy_helper.from_array(value, name))
        return {}
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
    return {name: value}


def repeated(source: Source, graph: GraphProto) -> None:
    """A node moves into the body of a Loop that runs it once or twice, on what it captures."""
    found = _wrappable(source, graph)
    if found is None or len(found[0].output) != 1 or not found[0].input[0]:
        return
    node, (elem,) = found
    inner, count = _renamed(node, "body/"), f"count/{node.output[0]}"
    body = helper.make_graph(
        [helper.make_node("Identity", ["body/on"], ["body/still_on"]), inner], "body",
        [helper.make_tensor_value_info("body/i", TensorProto.INT64, []),
         helper.make_tensor_value_info("body/on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("body/state", elem, None)],
        [helper.make_tensor_value_info("body/still_on", TensorProto.BOOL, []),
         helper.make_tensor_value_info(inner.output[0], elem, None)],
    )  # fmt: skip
    graph.initializer.append(numpy_helper.from_array(np.asarray(source.choice((1, 2))), count))
    _replace(graph, node, helper.make_node("Loop", [count, "", node.input[0]], list(node.output), body=body))


def _wrappable(source: Source, graph: GraphProto) -> tuple[NodeProto, list[int]] | None:
    """A node of float results from float data, and the element types of its results."""
    inferred = shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])).graph
    values = (*inferred.value_info, *inferred.output, *inferred.input)
    types = {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in graph.initializer}
    fitting = [
        n for n in graph.node
        if n.op_type != "Constant" and all(types.get(v) in FLOATS for v in (*n.input[:1], *n.output))
        and len({types[v] for v in (*n.input[:1], *n.output)}) == 1
    ]  # fmt: skip
    if not fitting:
        return None
    node = source.choice(fitting)
    return node, [types[o] for o in node.output]


def _renamed(node: NodeProto, prefix: str) -> NodeProto:
    """A copy of the node whose results are called otherwise."""
    copy = NodeProto.FromString(node.SerializeToString())
    copy.output[:] = [f"{prefix}{o}" for o in node.output]
    return copy


def _replace(graph: GraphProto, old: NodeProto, new: NodeProto) -> None:
    index = next(i for i, n in enumerate(graph.node) if n.output == old.output)
    del graph.node[index]
    graph.node.insert(index, new)


def without_node_names(model: ModelProto) -> ModelProto:
    """A copy of the model without names of nodes: ONNX Runtime refuses one that is used twice."""
    copy = ModelProto.FromString(model.SerializeToString())
    _clear_names(copy.graph.node)
    return copy


def _clear_names(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        node.ClearField("name")
        for attribute in node.attribute:
            _clear_names(attribute.g.node)


FORMS: tuple[tuple[float, Callable[[Source, GraphProto], Feeds | None]], ...] = (
    (0.2, odd_names), (0.15, fed_bounds), (0.1, defaults), (0.05, dead_code), (0.1, conditional), (0.05, repeated),
    (0.05, conditional), (0.2, shuffled), (0.3, constant_nodes),
)  # fmt: skip
"""How often each form is taken, in the order they are applied: a node that was wrapped may be wrapped again."""

UNLIKE_DEFAULTS = (fed_bounds, conditional, repeated)
"""Forms whose tolerance comes from the graph before: what overrides a default would not be in it."""
