"""Print graphs as text, the way compiler people read them; :mod:`amctc.parser` reads the text back.

::

    graph "net"(%image: tensor<"N"x1x8x8xf32>) -> ("logits" = %1) {
      %0 = const {data = dense<f32[4,1,3,3] "0x…">, elem = f32} : tensor<4x1x3x3xf32>
      %1 = nn.conv(%image, %0) {strides = [1, 1], …} : tensor<"N"x4x8x8xf32> loc("conv1": Conv)
    }
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np

from amctc.data import Data
from amctc.ir import Graph, Op, Value
from amctc.schema import OpKind
from amctc.types import QuantizedType, ScalarType, TensorType

ELIDE_ABOVE = 8
"""Largest constant, in elements, that an elided print still shows."""


def format_attribute(value: Any, elide: bool = False) -> str:
    """One attribute value. Everything but elided data can be parsed again."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _format_float(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bytes):
        return f'bytes<"0x{value.hex()}">'
    if isinstance(value, tuple | list):
        return f"[{', '.join(format_attribute(v, elide) for v in value)}]"
    if isinstance(value, Data):
        return _format_data(value, elide)
    if isinstance(value, ScalarType | QuantizedType | TensorType):
        return str(value)
    if isinstance(value, OpKind):
        return f"#{value.op_name}{format_attributes(value, elide)}"
    raise TypeError(f"{type(value).__name__} is no attribute")


def format_name(name: str) -> str:
    """A name as it stands where names are expected: plain ASCII identifiers as they are, others quoted."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else json.dumps(name)


def _format_float(value: float) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(float(value))


def _format_data(data: Data, elide: bool) -> str:
    shape = ",".join(map(str, data.shape))
    if data.dtype == object and not (elide and data.size > ELIDE_ABOVE):
        return f"strings<[{shape}] {json.dumps([_text(v) for v in data.read().ravel()])}>"
    dtype = data.dtype.name
    if elide and data.size > ELIDE_ABOVE:
        return f"{'strings' if data.dtype == object else 'dense'}<{'' if data.dtype == object else dtype}[{shape}] …>"
    array = np.ascontiguousarray(data.read())
    if elide:
        return f"dense<{dtype}[{shape}] {format_attribute(array.ravel().tolist())}>"
    return f'dense<{dtype}[{shape}] "0x{array.tobytes().hex()}">'


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def format_attributes(kind: OpKind, elide: bool = False) -> str:
    """``{name = value, …}`` over the fields of an op kind; empty without fields."""
    fields = dataclasses.fields(kind)
    if not fields:
        return ""
    return "{" + ", ".join(f"{f.name} = {format_attribute(getattr(kind, f.name), elide)}" for f in fields) + "}"


class _Names:
    """Hands each value a short unique name: inputs keep theirs, results are numbered."""

    def __init__(self, graph: Graph) -> None:
        self._of: dict[Value, str] = {}
        for value in graph.inputs:
            self._of[value] = format_name(value.name)
        for op in graph.ops:
            for result in op.results:
                self._of[result] = str(len(self._of) - len(graph.inputs))

    def __getitem__(self, value: Value | None) -> str:
        return "_" if value is None else f"%{self._of[value]}"


def _format_op(op: Op, names: _Names, elide: bool) -> str:
    results = ", ".join(names[r] for r in op.results)
    operands = f"({', '.join(names[o] for o in op.operands)})" if op.operands else ""
    attributes = format_attributes(op.kind, elide)
    types = ", ".join(str(r.type) for r in op.results)
    line = f"{results} = {op.kind.op_name}{operands}{' ' if attributes else ''}{attributes} : {types}"
    if any(r.name for r in op.results):
        line += f" as {', '.join(json.dumps(r.name) if r.name else '_' for r in op.results)}"
    if op.origins:
        line += f" loc({', '.join(f'{json.dumps(o.name)}: {format_name(o.op_type)}' for o in op.origins)})"
    return line


def _format_output(graph: Graph, index: int, names: _Names) -> str:
    value, known = graph.outputs[index], graph.output_type(index)
    declared = f": {known}" if known != value.type else ""
    return f"{json.dumps(graph.output_names[index])} = {names[value]}{declared}"


def print_graph(graph: Graph, *, elide: bool = False) -> str:
    """The whole graph as text. With ``elide`` large constants are left out; such text cannot be parsed."""
    names = _Names(graph)
    inputs = ", ".join(
        f"{names[i]}: {i.type}" + (f" = {_format_data(i.default, elide)}" if i.default is not None else "")
        for i in graph.inputs
    )
    outputs = ", ".join(_format_output(graph, index, names) for index in range(len(graph.outputs)))
    lines = [f"graph {json.dumps(graph.name)}({inputs}) -> ({outputs}) {{"]
    lines += [f"  {_format_op(op, names, elide)}" for op in graph.ops]
    lines.append("}")
    lines += [f"meta {json.dumps(k)} = {json.dumps(v)}" for k, v in graph.metadata]
    return "\n".join(lines) + "\n"


def excerpt(graph: Graph, around: Op, context: int = 2) -> str:
    """The lines of the elided graph text around an op, the op's own marked: for error messages."""
    names = _Names(graph)
    ops = [op for op in graph.ops if op is around or op.kind.op_name != "const"]
    at = next(i for i, op in enumerate(ops) if op is around)
    window = range(max(0, at - context), min(len(ops), at + context + 1))
    return "\n".join(f"{'>' if i == at else ' '} {_format_op(ops[i], names, elide=True)}" for i in window)
