"""Nodes that emitters write: names, operands as they are, formulas of several nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from amctc.ir import Op, layer_name
from amctc.onnx_bridge.exporter import Emitter, Writer


def node_name(op: Op, op_type: str) -> str:
    """The name of the user's node this one stands for: the last origin of that op type, else the layer's."""
    for origin in reversed(op.origins):
        if origin.op_type == op_type:
            return origin.name
    return layer_name(op)


def simple(op_type: str, **fixed: Any) -> Emitter:
    """One node with the operands as they are."""

    def emit(writer: Writer, op: Op) -> None:
        inputs, outputs = [writer.name(o) for o in op.operands], [writer.name(op.result)]
        writer.node(op_type, inputs, outputs, node_name(op, op_type), **fixed)

    return emit


class Formula:
    """Nodes that compute one result of ``op`` step by step, where the opset has no op for it.

    Constants are of the result's element type; the last step must write :attr:`result`.
    """

    def __init__(self, writer: Writer, op: Op) -> None:
        self._writer, self._op = writer, op
        self.result = writer.name(op.result)
        self.operands = [writer.name(o) for o in op.operands]

    def step(self, op_type: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        """One more node; gives the name of its result."""
        hint = f"{self.result}/{op_type}"
        output = self.result if last else self._writer.tensor(hint)
        name = node_name(self._op, op_type) if last else f"{layer_name(self._op)}/{op_type}"
        self._writer.node(op_type, list(inputs), [output], name, **attributes)
        return output

    def number(self, value: float) -> str:
        """A scalar constant."""
        dtype = self._op.result.type.scalar.dtype
        return self._writer.constant(f"{self.result}/constant", np.asarray(value, dtype))

    def integers(self, hint: str, *values: int) -> str:
        """A constant vector of int64: a shape, axes."""
        return self._writer.constant(f"{self.result}/{hint}", np.asarray(values, np.int64))
