"""Read the text form of a graph back (see :mod:`amctc.text`); errors underline the column."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from amctc.data import ArrayData, Data
from amctc.errors import AmctcError, InputError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, build
from amctc.schema import OpKind, op_kind
from amctc.text import format_name
from amctc.types import SCALAR_TYPES, Array, Dim, Elem, QuantizedType, ScalarType, TensorType

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
  | (?P<string>"[^"\\]*(?:\\.[^"\\]*)*")
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
                what = "a string that never ends" if text[self.position] == '"' else repr(text[self.position])
                raise self.error(f"unexpected {what}", self.position)
            kind = str(found.lastgroup)
            if kind != "space":
                self.tokens.append((kind, found.group(), self.position))
            self.position = found.end()
        self.tokens.append(("end", "", len(text)))
        self.index = 0

    @property
    def at(self) -> int:
        """Where the current token starts in the text."""
        return self.tokens[self.index][2]

    def error(self, what: str | AmctcError, at: int | None = None) -> InputError:
        """An error that points at ``at`` (the current token by default); of another error it keeps rule and remedy."""
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        shown = self.text[start:].split("\n", 1)[0]
        where, detail = f"line {line} column {at - start + 1}", f"{shown}\n{' ' * (at - start)}^"
        if isinstance(what, AmctcError):
            return InputError(what.what, where=where, rule=what.rule, remedy=what.remedy, detail=detail)
        return InputError(what, where=where, detail=detail)

    @contextmanager
    def blaming(self, at: int) -> Iterator[None]:
        """Errors raised inside that do not name a place are of the text at ``at``."""
        try:
            yield
        except AmctcError as error:
            raise error if error.where else self.error(error, at) from None
        except json.JSONDecodeError as error:
            raise self.error(f"not a JSON string: {error.msg}", at) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise self.error(str(error), at) from None

    @property
    def shown(self) -> str:
        """The current token, quoted for a message."""
        return repr(self.token) if self.kind != "end" else "the end"

    @property
    def token(self) -> str:
        """The current token's text."""
        return self.tokens[self.index][1]

    @property
    def kind(self) -> str:
        """The current token's kind."""
        return self.tokens[self.index][0]

    def take(self) -> str:
        """Return the current token and step past it (the end stays the end)."""
        token = self.token
        self.index += self.kind != "end"
        return token

    def skip_to(self, at: int) -> None:
        """Step past what was read from the raw text up to ``at``."""
        while self.at < at:
            self.index += 1
        before = self.tokens[self.index - 1]
        if before[2] + len(before[1]) > at:
            raise self.error(f"unexpected {self.text[at : before[2] + len(before[1])]!r}", at)

    def accept(self, token: str) -> bool:
        """Step past ``token`` if it is next."""
        if self.token != token or self.kind == "string":
            return False
        self.index += 1
        return True

    def expect(self, token: str) -> None:
        """Step past ``token`` or fail."""
        if not self.accept(token):
            raise self.error(f"expected {token!r}, found {self.shown}")

    def string(self) -> str:
        """A double-quoted string."""
        if self.kind != "string":
            raise self.error(f"expected a quoted string, found {self.shown}")
        with self.blaming(self.at):
            return str(json.loads(self.take()))

    def integer(self) -> int:
        """An integer."""
        if not re.fullmatch(r"[-+]?\d+", self.token):
            raise self.error(f"expected an integer, found {self.shown}")
        return int(self.take())

    def hex(self) -> bytes:
        """Bytes written as ``"0x…"``."""
        at, text = self.at, self.string()
        if not text.startswith("0x"):
            raise self.error("bytes are written as 0x and hexadecimal digits", at)
        with self.blaming(at):
            return bytes.fromhex(text[2:])


def parse_type(text: str) -> TensorType:
    """A tensor type from its text, e.g. ``tensor<"N"x3x?xf32>``."""
    cursor = Cursor(text)
    found = _tensor_type(cursor)
    if cursor.kind != "end":
        raise cursor.error(f"{cursor.token!r} after the type")
    return found


def _tensor_type(cursor: Cursor) -> TensorType:
    start = cursor.at
    cursor.expect("tensor")
    first = cursor.at
    cursor.expect("<")
    # Dimensions and the element type are joined by "x" and do not split into tokens: read them from the raw text.
    at, dims = first + 1, list[Dim]()
    unranked = cursor.text.startswith("*x", at)
    at += 2 if unranked else 0
    while found := _DIMENSION.match(cursor.text, at):
        with cursor.blaming(at):
            dims.append(_dim(found.group(1)))
        at = found.end()
    elem, at = _elem_at(cursor, at)
    cursor.skip_to(at)
    cursor.expect(">")
    with cursor.blaming(start):
        return TensorType(None if unranked else tuple(dims), elem)


_DIMENSION = re.compile(r'(\d+|\?|"[^"\\]*(?:\\.[^"\\]*)*")x')


def _dim(text: str) -> Dim:
    if text == "?":
        return None
    return int(text) if text[0] != '"' else str(json.loads(text))


_QUANT = re.compile(r"quant<(\w+)(?:\[(-?\d+):(-?\d+)\])?:(\w+)(?::(\d+))?, \{([^}]*)\}>")


def _elem_at(cursor: Cursor, at: int) -> tuple[Elem, int]:
    if found := _QUANT.match(cursor.text, at):
        storage, low, high, expressed, axis, pairs = found.groups()
        split = [p.partition(":") for p in pairs.split(", ") if p]
        stored, real = _scalar(cursor, storage, at), _scalar(cursor, expressed, at)
        span = (int(low), int(high)) if low is not None else stored.integer_range
        with cursor.blaming(at), np.errstate(over="ignore"):
            scales = tuple(float(np.float32(s)) for s, _, _ in split)
            zeros = tuple(int(z or 0) for _, _, z in split)
            elem = QuantizedType(stored, real, scales, zeros, None if axis is None else int(axis), *span)
        return elem, found.end()
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
        at = cursor.at
        return _kind(cursor, cursor.take(), at)
    return _named_attribute(cursor)


def _named_attribute(cursor: Cursor) -> Any:
    word, at = cursor.token, cursor.at
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
        value = cursor.hex()
        cursor.expect(">")
        return value
    elem, end = _elem_at(cursor, at)
    cursor.skip_to(end)
    return elem


def _sequence(cursor: Cursor, end: str) -> list[Any]:
    items: list[Any] = []
    while not cursor.accept(end):
        if items:
            cursor.expect(",")
        items.append(_attribute(cursor))
    return items


def _data(cursor: Cursor) -> Data:
    at, word = cursor.at, cursor.take()
    if word not in ("dense", "strings"):
        raise cursor.error(f"expected 'dense' or 'strings', found {word or 'the end'!r}", at)
    cursor.expect("<")
    dtype = np.dtype(object) if word == "strings" else _dtype(cursor)
    shape = _shape(cursor)
    if cursor.token == "…":
        raise cursor.error("the contents of this constant were elided when the text was printed")
    with cursor.blaming(cursor.at):
        array = _elements(cursor, dtype)
    cursor.expect(">")
    if array.size != math.prod(shape):
        raise cursor.error(f"{array.size} elements for shape {list(shape)}", at)
    return ArrayData(array.reshape(shape))


def _shape(cursor: Cursor) -> tuple[int, ...]:
    sizes: list[int] = []
    cursor.expect("[")
    while not cursor.accept("]"):
        if sizes:
            cursor.expect(",")
        if cursor.token.startswith("-"):
            raise cursor.error("a negative size")
        sizes.append(cursor.integer())
    return tuple(sizes)


def _elements(cursor: Cursor, dtype: np.dtype[Any]) -> Array:
    """Elements listed one by one, or all bytes of the array in hexadecimal."""
    if not cursor.accept("["):
        return np.frombuffer(cursor.hex(), dtype)
    items = _sequence(cursor, "]")
    if dtype.hasobject and not all(isinstance(i, str) for i in items):
        raise ValueError("strings are listed in double quotes")
    return np.array(items, dtype)


def _dtype(cursor: Cursor) -> np.dtype[Any]:
    by_name = {t.dtype.name: t.dtype for t in SCALAR_TYPES.values()}
    if cursor.token not in by_name or cursor.token == "object":
        raise cursor.error(f"{cursor.shown} is no data type")
    return by_name[cursor.take()]


def _kind(cursor: Cursor, name: str, at: int) -> OpKind:
    """The attributes after the op name at ``at``, as an instance of its kind."""
    with cursor.blaming(at):
        kind = op_kind(name)
    known = {f.name: f for f in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    if cursor.accept("{"):
        while not cursor.accept("}"):
            if given:
                cursor.expect(",")
            if cursor.token not in known:
                raise cursor.error(f"{name} has no attribute {cursor.shown}")
            if cursor.token in given:
                raise cursor.error(f"attribute {cursor.shown} is given twice")
            key = cursor.take()
            cursor.expect("=")
            given[key] = _attribute(cursor)
    absent = [n for n, f in known.items() if n not in given and _required(f)]
    if absent:
        raise cursor.error(f"{name} needs the attribute {absent[0]!r}", at)
    floats = {n for n, f in known.items() if str(f.type).startswith("float")}
    return kind(**{k: float(v) if k in floats and isinstance(v, int) else v for k, v in given.items()})


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


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
    kind = _kind(cursor, name, start)
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
            origins.append(Origin(origin, cursor.string() if cursor.kind == "string" else cursor.take()))
    return types, names, origins


def parse_graph(text: str) -> Graph:
    """A graph from its text; :class:`InputError` with line and column where the text is wrong."""
    cursor = Cursor(text)
    try:
        return _graph(cursor)
    except RecursionError:
        raise cursor.error("attributes are nested too deeply") from None


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
    for _, value, at in outputs:
        if value not in values:
            raise cursor.error(f"output %{value} is never defined", at)
    with cursor.blaming(start):
        return Graph(
            inputs, tuple(values[v] for _, v, _ in outputs), tuple(n for n, _, _ in outputs), name, tuple(metadata)
        )


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
        type_ = _tensor_type(cursor)
        plain = str(json.loads(name)) if name.startswith('"') else name
        inputs.append(GraphInput(plain, type_, _data(cursor) if cursor.accept("=") else None))
        values[name] = inputs[-1]
    return tuple(inputs)


def _outputs(cursor: Cursor) -> list[tuple[str, str, int]]:
    """Interface name, value name and position in the text of every output."""
    outputs: list[tuple[str, str, int]] = []
    cursor.expect("(")
    while not cursor.accept(")"):
        if outputs:
            cursor.expect(",")
        name = cursor.string()
        cursor.expect("=")
        at = cursor.at
        outputs.append((name, _value_name(cursor), at))
    return outputs
