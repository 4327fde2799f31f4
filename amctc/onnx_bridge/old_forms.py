"""Forms of old opsets that ONNX's own version converter passes over, written in newer ops."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper

from amctc.errors import UnsupportedError, printable
from amctc.onnx_bridge.inference import inferred_types
from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.subgraphs import bodies, captured_names, inner_names
from amctc.types import TensorType


def scan_of_batches(node: NodeProto) -> NodeProto | None:
    """A Scan of opset 8, which runs once for each sample of a batch, as a scan over samples of a scan over steps.

    ``None`` where sequences of several lengths are given.
    """
    attributes = {a.name: a for a in node.attribute}
    (body,) = bodies(node)
    steps = attributes["num_scan_inputs"].i
    if node.input[0]:
        return None
    fresh = Names({*captured_names(node), *inner_names(node)}).fresh
    inputs, outputs = [[fresh(f"{side}{i}") for i in range(count)] for side, count in
                       (("sample", len(body.input)), ("result", len(body.output)))]  # fmt: skip
    inner = helper.make_node("Scan", inputs, outputs, fresh("scan"), body=body, num_scan_inputs=steps)
    if "directions" in attributes:
        inner.attribute.append(helper.make_attribute("scan_input_directions", list(attributes["directions"].ints)))
    outer = GraphProto(name="samples", node=[inner])
    states = len(body.input) - steps
    outer.input.extend(_typed(n, i.type, at < states) for at, (n, i) in enumerate(zip(inputs, body.input, strict=True)))
    outer.output.extend(
        _typed(n, o.type, at < states) for at, (n, o) in enumerate(zip(outputs, body.output, strict=True))
    )
    return helper.make_node("Scan", node.input[1:], node.output, node.name, body=outer, num_scan_inputs=len(inputs))


def _typed(name: str, type_: TypeProto, shaped: bool) -> ValueInfoProto:
    """A value of a type; without its shape where it gains an axis of steps."""
    info = ValueInfoProto(name=name, type=type_)
    if not shaped:
        info.type.tensor_type.ClearField("shape")
    return info


BROADCASTING = {"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"}
"""Ops that broadcast their second operand by attributes before opset 7."""


def with_numpy_broadcasts(model: ModelProto) -> ModelProto:
    """A model of an opset before 7 whose second operands have the axes that NumPy's broadcasting wants.

    Attribute ``axis`` named the first operand's axis at which those of the second begin; a slope of PRelu began at the
    channels. Raises :class:`UnsupportedError` where a rank is not known.
    """
    if all(_first_axis(node) is None for node in model.graph.node):
        return model
    spread = ModelProto()
    spread.CopyFrom(model)
    types = {**inferred_types(_relabelled(model)), **inferred_types(model)}
    fresh = Names({n for node in model.graph.node for n in (*node.input, *node.output)}).fresh
    spread.graph.ClearField("node")
    for node in model.graph.node:
        axis = _first_axis(node)
        if axis is not None:
            first, second = (types.get(n) for n in node.input[:2])
            missing = _missing_axes(node, axis, first, second)
            if missing:
                name = fresh(f"{node.input[1]}/spread")
                spread.graph.node.append(helper.make_node("Unsqueeze", [node.input[1]], [name], axes=missing))
                node = _reading(node, name)
        spread.graph.node.append(node)
    return spread


def _relabelled(model: ModelProto) -> ModelProto:
    """The model called one of opset 6, where more ops have an inference of their types than before."""
    relabelled = ModelProto()
    relabelled.CopyFrom(model)
    for imported in relabelled.opset_import:
        imported.version = 6 if imported.domain == "" else imported.version
    return relabelled


def _first_axis(node: NodeProto) -> int | None:
    """The axis at which the second operand begins; ``None`` where NumPy's rule holds already."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "PRelu":
        return 1
    return attributes.get("axis") if node.op_type in BROADCASTING and attributes.get("broadcast", 0) else None


def _missing_axes(node: NodeProto, axis: int, first: TensorType | None, second: TensorType | None) -> list[int]:
    """The axes to insert after those of the second operand."""
    if node.op_type == "PRelu" and second is not None and second.shape == (1,):
        return []
    if first is None or second is None or first.shape is None or second.shape is None:
        raise UnsupportedError("broadcasting of an old opset, and the rank of an operand is not known",
                               where=f"node {printable(node.name)!r} ({node.op_type})",
                               remedy="export the model again with a newer opset")  # fmt: skip
    begin = axis + first.rank if axis < 0 else axis
    return list(range(second.rank, max(second.rank, first.rank - begin)))


def _reading(node: NodeProto, second: str) -> NodeProto:
    """The node on another second operand, which needs no axis any more."""
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.input[1] = second
    kept = [a for a in node.attribute if a.name != "axis"]
    changed.ClearField("attribute")
    changed.attribute.extend(kept)
    return changed
