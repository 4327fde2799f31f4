"""Read the text form of a graph back (see :mod:`amctc.text`); errors underline the column."""

from __future__ import annotations

import json
from typing import NamedTuple

from amctc.attributes import constant_contents, kind_attributes, parse_type, tensor_type
from amctc.cursor import Cursor
from amctc.errors import AmctcError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, build
from amctc.text import format_name
from amctc.types import TensorType

__all__ = ["parse_graph", "parse_type"]


def _operands(cursor: Cursor, values: dict[str, Value]) -> tuple[Value | None, ...]:
    operands: list[Value | None] = []
    if cursor.accept("("):
        while not cursor.accept(")"):
            if operands:
                cursor.expect(",")
            operands.append(None if cursor.accept("_") else _reference(cursor, values))
    return tuple(operands)


def _reference(cursor: Cursor, values: dict[str, Value]) -> Value:
    at, name = cursor.at, _value_name(cursor)
    if name not in values:
        raise cursor.error(f"%{name} is used before it is defined", at)
    return values[name]


def _value_name(cursor: Cursor) -> str:
    """A value's name as :func:`amctc.text.format_name` writes it: ``%"0"`` is not ``%0``."""
    cursor.expect("%")
    if cursor.kind not in ("string", "name", "number"):
        raise cursor.error(f"expected a value's name, found {cursor.shown}")
    return format_name(cursor.string()) if cursor.kind == "string" else cursor.take()


def _op(cursor: Cursor, values: dict[str, Value]) -> None:
    results = [_value_name(cursor)]
    while cursor.accept(","):
        results.append(_value_name(cursor))
    cursor.expect("=")
    start, name = cursor.at, cursor.take()
    operands = _operands(cursor, values)
    kind = kind_attributes(cursor, name, start)
    types, names, origins = _suffix(cursor, len(results))
    try:
        built = build(kind, *operands, origins=tuple(origins))
    except AmctcError as error:
        raise cursor.error(error, start) from None
    if len(built.results) != len(results):
        raise cursor.error(f"{name} has {len(built.results)} results, {len(results)} are named", start)
    if len(names) != len(results):
        raise cursor.error(f"{len(results)} results, but {len(names)} names after 'as'", start)
    inferred = tuple(r.type for r in built.results)
    if list(inferred) != types:
        raise cursor.error(f"{name} gives {', '.join(map(str, inferred))}, not what the text says", start)
    op = Op(kind, built.operands, inferred, tuple(names), built.origins)
    for result, value in zip(results, op.results, strict=True):
        if result in values:
            raise cursor.error(f"%{result} is defined twice", start)
        values[result] = value


def _suffix(cursor: Cursor, count: int) -> tuple[list[TensorType], list[str | None], list[Origin]]:
    cursor.expect(":")
    types = [tensor_type(cursor)]
    while cursor.accept(","):
        types.append(tensor_type(cursor))
    names: list[str | None] = [None] * count
    if cursor.accept("as"):
        names = []
        while not names or cursor.accept(","):
            names.append(None if cursor.accept("_") else cursor.string())
    origins: list[Origin] = []
    if cursor.accept("loc"):
        cursor.expect("(")
        while not cursor.accept(")"):
            if origins:
                cursor.expect(",")
            origin = cursor.string()
            cursor.expect(":")
            origins.append(Origin(origin, cursor.string() if cursor.kind == "string" else cursor.take()))
    return types, names, origins


def parse_graph(text: str) -> Graph:
    """A graph from its text; :class:`InputError` with line and column where the text is wrong."""
    cursor = Cursor(text)
    try:
        return _graph(cursor)
    except RecursionError:
        raise cursor.error("attributes are nested too deeply") from None
    except (AmctcError, MemoryError):
        raise
    except Exception as error:  # an attribute of another type than its op declares breaks whatever reads it first
        raise cursor.error(f"malformed: {type(error).__name__} {error}") from error


def _graph(cursor: Cursor) -> Graph:
    start = cursor.at
    cursor.expect("graph")
    name = cursor.string()
    values: dict[str, Value] = {}
    inputs = _inputs(cursor, values)
    cursor.expect("->")
    outputs = _outputs(cursor)
    cursor.expect("{")
    while not cursor.accept("}"):
        _op(cursor, values)
    metadata = []
    while cursor.accept("meta"):
        key = cursor.string()
        cursor.expect("=")
        metadata.append((key, cursor.string()))
    if cursor.kind != "end":
        raise cursor.error(f"{cursor.token!r} after the graph")
    for output in outputs:
        if output.value not in values:
            raise cursor.error(f"output %{output.value} is never defined", output.at)
    with cursor.blaming(start):
        computed, names = tuple(values[o.value] for o in outputs), tuple(o.name for o in outputs)
        declared = tuple((o.name, o.declared) for o in outputs if o.declared is not None)
        return Graph(inputs, computed, names, name, tuple(metadata), declared)


def _inputs(cursor: Cursor, values: dict[str, Value]) -> tuple[GraphInput, ...]:
    inputs: list[GraphInput] = []
    cursor.expect("(")
    while not cursor.accept(")"):
        if inputs:
            cursor.expect(",")
        at, name = cursor.at, _value_name(cursor)
        if name in values:
            raise cursor.error(f"%{name} is defined twice", at)
        cursor.expect(":")
        type_ = tensor_type(cursor)
        plain = str(json.loads(name)) if name.startswith('"') else name
        inputs.append(GraphInput(plain, type_, constant_contents(cursor) if cursor.accept("=") else None))
        values[name] = inputs[-1]
    return tuple(inputs)


class _Output(NamedTuple):
    """An output as the text has it: interface name, value name, position in the text, type if one is declared."""

    name: str
    value: str
    at: int
    declared: TensorType | None


def _outputs(cursor: Cursor) -> list[_Output]:
    outputs: list[_Output] = []
    cursor.expect("(")
    while not cursor.accept(")"):
        if outputs:
            cursor.expect(",")
        name = cursor.string()
        cursor.expect("=")
        at = cursor.at
        value = _value_name(cursor)
        outputs.append(_Output(name, value, at, tensor_type(cursor) if cursor.accept(":") else None))
    return outputs
