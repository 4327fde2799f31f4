"""Read the text form of a graph back (see :mod:`amctc.text`); errors underline the column."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from typing import Any

import numpy as np

from amctc.data import ArrayData, Data
from amctc.errors import AmctcError, InputError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, build
from amctc.schema import OpKind, op_kind
from amctc.types import SCALAR_TYPES, Dim, Elem, QuantizedType, ScalarType, TensorType, scalar_of

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
  | (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<arrow>->)
  | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf\b|nan\b))
  | (?P<name>[A-Za-z_][\w.\-]*)
  | (?P<punct>[%#(){}\[\]<>,:=?*…])""",
    re.VERBOSE,
)


class Cursor:
    """Tokens of a text with a position; every failure names line and column."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.tokens: list[tuple[str, str, int]] = []
        while self.position < len(text):
            found = _TOKEN.match(text, self.position)
            if found is None:
                raise self.error(f"unexpected {text[self.position]!r}", self.position)
            kind = str(found.lastgroup)
            if kind != "space":
                self.tokens.append((kind, found.group(), self.position))
            self.position = found.end()
        self.tokens.append(("end", "", len(text)))
        self.index = 0

    def error(self, message: str, at: int | None = None) -> InputError:
        """An error that points at ``at`` (the current token by default)."""
        at = self.tokens[self.index][2] if at is None else at
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        shown = self.text[start:].split("\n", 1)[0]
        return InputError(
            message, where=f"line {line} column {at - start + 1}", detail=f"{shown}\n{' ' * (at - start)}^"
        )

    @property
    def token(self) -> str:
        """The current token's text."""
        return self.tokens[self.index][1]

    @property
    def kind(self) -> str:
        """The current token's kind."""
        return self.tokens[self.index][0]

    def take(self) -> str:
        """Return the current token and step past it."""
        self.index += 1
        return self.tokens[self.index - 1][1]

    def accept(self, token: str) -> bool:
        """Step past ``token`` if it is next."""
        if self.token != token or self.kind == "string":
            return False
        self.index += 1
        return True

    def expect(self, token: str) -> None:
        """Step past ``token`` or fail."""
        if not self.accept(token):
            raise self.error(f"expected {token!r}, found {self.token or 'the end'!r}")

    def string(self) -> str:
        """A double-quoted string."""
        if self.kind != "string":
            raise self.error(f"expected a quoted string, found {self.token or 'the end'!r}")
        return str(json.loads(self.take()))

    def integer(self) -> int:
        """An integer."""
        try:
            return int(self.token)
        except ValueError:
            raise self.error(f"expected an integer, found {self.token!r}") from None
        finally:
            self.index += 1


def parse_type(text: str) -> TensorType:
    """A tensor type from its text, e.g. ``tensor<"N"x3x?xf32>``."""
    cursor = Cursor(text)
    found = _tensor_type(cursor)
    if cursor.kind != "end":
        raise cursor.error(f"{cursor.token!r} after the type")
    return found


def _tensor_type(cursor: Cursor) -> TensorType:
    cursor.expect("tensor")
    start = cursor.tokens[cursor.index][2]
    cursor.expect("<")
    # Dimensions and the element type are joined by "x" and do not split into tokens: read them from the raw text.
    at, dims = start + 1, []
    unranked = cursor.text.startswith("*x", at)
    at += 2 if unranked else 0
    while found := re.compile(r'(\d+|\?|"(?:[^"\\]|\\.)*")x').match(cursor.text, at):
        dims.append(_dim(found.group(1)))
        at = found.end()
    elem, at = _elem_at(cursor, at)
    while cursor.tokens[cursor.index][2] < at:
        cursor.index += 1
    cursor.expect(">")
    return TensorType(None if unranked else tuple(dims), elem)


def _dim(text: str) -> Dim:
    if text == "?":
        return None
    return int(text) if text[0] != '"' else text[1:-1].encode("ascii").decode("unicode_escape")


_QUANT = re.compile(r"quant<(\w+)(?:\[(-?\d+):(-?\d+)\])?:(\w+)(?::(\d+))?, \{([^}]*)\}>")


def _elem_at(cursor: Cursor, at: int) -> tuple[Elem, int]:
    if found := _QUANT.match(cursor.text, at):
        storage, low, high, expressed, axis, pairs = found.groups()
        split = [p.partition(":") for p in pairs.split(", ") if p]
        scales = tuple(float(np.float32(s)) for s, _, _ in split)
        zeros = tuple(int(z or 0) for _, _, z in split)
        span = (int(low), int(high)) if low is not None else _scalar(cursor, storage, at).integer_range
        return QuantizedType(
            _scalar(cursor, storage, at), _scalar(cursor, expressed, at), scales, zeros,
            None if axis is None else int(axis), *span,
        ), found.end()  # fmt: skip
    found = re.compile(r"\w+").match(cursor.text, at)
    if found is None:
        raise cursor.error("expected an element type", at)
    return _scalar(cursor, found.group(), at), found.end()


def _scalar(cursor: Cursor, name: str, at: int) -> ScalarType:
    if name not in SCALAR_TYPES:
        raise cursor.error(f"{name!r} is no element type", at)
    return SCALAR_TYPES[name]


def _attribute(cursor: Cursor) -> Any:
    if cursor.kind == "string":
        return cursor.string()
    if cursor.kind == "number":
        text = cursor.take()
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    if cursor.accept("["):
        return tuple(_sequence(cursor, "]"))
    if cursor.accept("#"):
        return _kind(cursor, cursor.take())
    return _named_attribute(cursor)


def _named_attribute(cursor: Cursor) -> Any:
    word, at = cursor.token, cursor.tokens[cursor.index][2]
    literals = {"true": True, "false": False, "none": None, "inf": float("inf"), "nan": float("nan")}
    if word in literals:
        cursor.take()
        return literals[word]
    if word == "tensor":
        return _tensor_type(cursor)
    if word in ("dense", "strings"):
        return _data(cursor)
    if word == "bytes":
        cursor.take()
        cursor.expect("<")
        value = bytes.fromhex(cursor.string()[2:])
        cursor.expect(">")
        return value
    elem, end = _elem_at(cursor, at)
    while cursor.tokens[cursor.index][2] < end:
        cursor.index += 1
    return elem


def _sequence(cursor: Cursor, end: str) -> list[Any]:
    items: list[Any] = []
    while not cursor.accept(end):
        if items:
            cursor.expect(",")
        items.append(_attribute(cursor))
    return items


def _data(cursor: Cursor) -> Data:
    word = cursor.take()
    cursor.expect("<")
    dtype = scalar_of(np.dtype(object)).dtype if word == "strings" else _dtype(cursor)
    cursor.expect("[")
    shape = tuple(_sequence(cursor, "]"))
    if word == "strings":
        cursor.expect("[")
        values = np.array(_sequence(cursor, "]") or [""], object)[: int(np.prod(shape))]
        cursor.expect(">")
        return ArrayData(values.reshape(shape))
    if cursor.token == "…":
        raise cursor.error("the contents of this constant were elided when the text was printed")
    if cursor.accept("["):
        array = np.array(_sequence(cursor, "]"), dtype)
    else:
        array = np.frombuffer(bytes.fromhex(cursor.string()[2:]), dtype)
    cursor.expect(">")
    if array.size != int(np.prod(shape)):
        raise cursor.error(f"{array.size} elements for shape {list(shape)}")
    return ArrayData(array.reshape(shape))


def _dtype(cursor: Cursor) -> np.dtype[Any]:
    by_name = {t.dtype.name: t.dtype for t in SCALAR_TYPES.values()}
    name = cursor.take()
    if name not in by_name:
        raise cursor.error(f"{name!r} is no data type")
    return by_name[name]


def _kind(cursor: Cursor, name: str) -> OpKind:
    """The attributes after an op name, as an instance of its kind."""
    kind = op_kind(name)
    given: dict[str, Any] = {}
    if cursor.accept("{"):
        while not cursor.accept("}"):
            if given:
                cursor.expect(",")
            key = cursor.take()
            cursor.expect("=")
            given[key] = _attribute(cursor)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in given:
        if key not in known:
            raise cursor.error(f"{name} has no attribute {key!r}")
    floats = {n for n, f in known.items() if str(f.type).startswith("float")}
    return kind(**{k: float(v) if k in floats and isinstance(v, int) else v for k, v in given.items()})


def _operands(cursor: Cursor, values: dict[str, Value]) -> tuple[Value | None, ...]:
    operands: list[Value | None] = []
    if cursor.accept("("):
        while not cursor.accept(")"):
            if operands:
                cursor.expect(",")
            operands.append(None if cursor.accept("_") else _reference(cursor, values))
    return tuple(operands)


def _reference(cursor: Cursor, values: dict[str, Value]) -> Value:
    name = _value_name(cursor)
    if name not in values:
        raise cursor.error(f"%{name} is used before it is defined")
    return values[name]


def _value_name(cursor: Cursor) -> str:
    cursor.expect("%")
    return cursor.string() if cursor.kind == "string" else cursor.take()


def _op(cursor: Cursor, values: dict[str, Value]) -> None:
    results = [_value_name(cursor)]
    while cursor.accept(","):
        results.append(_value_name(cursor))
    cursor.expect("=")
    start = cursor.tokens[cursor.index][2]
    name = cursor.take()
    operands = _operands(cursor, values)
    kind = _kind(cursor, name)
    types, names, origins = _suffix(cursor, len(results))
    try:
        op = build(kind, *operands, names=tuple(names), origins=tuple(origins))
    except AmctcError as error:
        raise cursor.error(str(error), start) from None
    if len(op.results) != len(results):
        raise cursor.error(f"{name} has {len(op.results)} results, {len(results)} are named")
    if [r.type for r in op.results] != types:
        raise cursor.error(f"{name} gives {', '.join(str(r.type) for r in op.results)}, not what the text says")
    for result, value in zip(results, op.results, strict=True):
        if result in values:
            raise cursor.error(f"%{result} is defined twice")
        values[result] = value


def _suffix(cursor: Cursor, count: int) -> tuple[list[TensorType], list[str | None], list[Origin]]:
    cursor.expect(":")
    types = [_tensor_type(cursor)]
    while cursor.accept(","):
        types.append(_tensor_type(cursor))
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
            origins.append(Origin(origin, cursor.take()))
    return types, names, origins


def parse_graph(text: str) -> Graph:
    """A graph from its text; :class:`InputError` with line and column where the text is wrong."""
    cursor = Cursor(text)
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
    for _, value in outputs:
        if value not in values:
            raise cursor.error(f"output %{value} is never defined")
    return Graph(
        inputs, tuple(values[v] for _, v in outputs), tuple(n for n, _ in outputs), name, tuple(metadata)
    )


def _inputs(cursor: Cursor, values: dict[str, Value]) -> tuple[GraphInput, ...]:
    inputs: list[GraphInput] = []
    cursor.expect("(")
    while not cursor.accept(")"):
        if inputs:
            cursor.expect(",")
        name = _value_name(cursor)
        cursor.expect(":")
        type_ = _tensor_type(cursor)
        inputs.append(GraphInput(name, type_, _data(cursor) if cursor.accept("=") else None))
        values[name] = inputs[-1]
    return tuple(inputs)


def _outputs(cursor: Cursor) -> list[tuple[str, str]]:
    outputs: list[tuple[str, str]] = []
    cursor.expect("(")
    while not cursor.accept(")"):
        if outputs:
            cursor.expect(",")
        name = cursor.string()
        cursor.expect("=")
        outputs.append((name, _value_name(cursor)))
    return outputs
