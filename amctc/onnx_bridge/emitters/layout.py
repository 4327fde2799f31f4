"""Ops that move or choose elements, and casts. Shapes, axes and positions go out as constant operands (opset 13)."""

from __future__ import annotations

import numpy as np

from amctc.ir import Op
from amctc.onnx_bridge.emitters.nodes import node_name, simple
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.onnx_bridge.tensors import elem_code
from amctc.ops import nn
from amctc.schema import OpKind


def _concat(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Concat)
    simple("Concat", axis=kind.axis)(writer, op)


def _flatten(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Flatten)
    simple("Flatten", axis=kind.axis)(writer, op)


def _reshape(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Reshape)
    result = writer.name(op.result)
    target = writer.constant(f"{result}/shape", np.asarray(kind.shape, np.int64))
    writer.node("Reshape", [writer.name(op.operands[0]), target], [result], node_name(op, "Reshape"),
                allowzero=int(kind.allow_zero))  # fmt: skip


def _transpose(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Transpose)
    simple("Transpose", perm=kind.permutation or None)(writer, op)  # an empty list is no attribute


def _cast(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Cast)
    simple("Cast", to=elem_code(kind.to))(writer, op)


def _with_axes(op_type: str) -> Emitter:
    def emit(writer: Writer, op: Op) -> None:
        kind = op.kind
        assert isinstance(kind, nn.Squeeze | nn.Unsqueeze)
        _with_integers(writer, op, op_type, axes=kind.axes)

    return emit


def _with_integers(writer: Writer, op: Op, op_type: str, **parameters: tuple[int, ...]) -> None:
    """A node whose further operands are constant vectors of int64."""
    result = writer.name(op.result)
    constants = [writer.constant(f"{result}/{n}", np.asarray(v, np.int64)) for n, v in parameters.items()]
    writer.node(op_type, [writer.name(op.operands[0]), *constants], [result], node_name(op, op_type))


def _expand(writer: Writer, op: Op) -> None:
    assert isinstance(op.kind, nn.Expand)
    _with_integers(writer, op, "Expand", shape=op.kind.shape)


def _slice(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Slice)
    _with_integers(writer, op, "Slice", starts=kind.starts, ends=kind.ends, axes=kind.axes, steps=kind.steps)


def _split(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Split)
    results = [writer.name(r) for r in op.results]
    sizes = writer.constant(f"{results[0]}/split", np.asarray(kind.sizes, np.int64))
    writer.node("Split", [writer.name(op.operands[0]), sizes], results, node_name(op, "Split"), axis=kind.axis)


def _gather(writer: Writer, op: Op) -> None:
    assert isinstance(op.kind, nn.Gather)
    simple("Gather", axis=op.kind.axis)(writer, op)


def _pad(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Pad)
    result = writer.name(op.result)
    inputs = [writer.name(op.operands[0]), writer.constant(f"{result}/pads", np.asarray(kind.pads, np.int64))]
    if kind.mode == "constant":
        inputs.append(writer.constant(f"{result}/value", np.asarray(kind.value).astype(op.result.type.elem.dtype)))
    writer.node("Pad", inputs, [result], node_name(op, "Pad"), mode=kind.mode)


LAYOUT: dict[type[OpKind], Emitter] = {
    nn.Concat: _concat, nn.Flatten: _flatten, nn.Reshape: _reshape, nn.Transpose: _transpose, nn.Cast: _cast,
    nn.Identity: simple("Identity"), nn.Squeeze: _with_axes("Squeeze"), nn.Unsqueeze: _with_axes("Unsqueeze"),
    nn.Expand: _expand, nn.Slice: _slice, nn.Split: _split, nn.Gather: _gather, nn.Where: simple("Where"), nn.Pad: _pad,
}  # fmt: skip
