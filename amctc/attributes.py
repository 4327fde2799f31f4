"""Read types and attribute values of the text form (see :mod:`amctc.text`)."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np

import amctc.ops  # noqa: F401 - enters the op kinds in the registry
from amctc.cursor import Cursor
from amctc.data import ArrayData, Data
from amctc.schema import OpKind, op_kind
from amctc.types import SCALAR_TYPES, Array, Dim, Elem, OpaqueType, QuantizedType, ScalarType, TensorType


def parse_type(text: str) -> TensorType:
    """A tensor type from its text, e.g. ``tensor<"N"x3x?xf32>``."""
    cursor = Cursor(text)
    found = tensor_type(cursor)
    if cursor.kind != "end":
        raise cursor.error(f"{cursor.token!r} after the type")
    return found


def tensor_type(cursor: Cursor) -> TensorType:
    """A tensor type at the cursor."""
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


_QUANT = re.compile(r"quant<(\w+)(?:\[(-?\d+):(-?\d+)\])?:(\w+)(?::(\d+)(?::(\d+))?)?, \{([^}]*)\}>")

_OPAQUE = re.compile(r'opaque<("[^"\\]*(?:\\.[^"\\]*)*"), "0x([0-9a-f]*)">')


def _elem_at(cursor: Cursor, at: int) -> tuple[Elem, int]:
    if found := _QUANT.match(cursor.text, at):
        storage, low, high, expressed, axis, block, pairs = found.groups()
        split = [p.partition(":") for p in pairs.split(", ") if p]
        stored, real = _scalar(cursor, storage, at), _scalar(cursor, expressed, at)
        span = (int(low), int(high)) if low is not None else stored.integer_range
        with cursor.blaming(at), np.errstate(over="ignore"):
            scales = tuple(float(np.float32(s)) for s, _, _ in split)
            zeros = tuple(int(z or 0) for _, _, z in split)
            along = None if axis is None else int(axis)
            elem = QuantizedType(stored, real, scales, zeros, along, *span, int(block or 0))
        return elem, found.end()
    if found := _OPAQUE.match(cursor.text, at):
        with cursor.blaming(at):
            return OpaqueType(str(json.loads(found.group(1))), 0, bytes.fromhex(found.group(2))), found.end()
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
        return kind_attributes(cursor, cursor.take(), at)
    return _named_attribute(cursor)


def _named_attribute(cursor: Cursor) -> Any:
    word, at = cursor.token, cursor.at
    literals = {"true": True, "false": False, "none": None, "inf": float("inf"), "nan": float("nan")}
    if word in literals:
        cursor.take()
        return literals[word]
    if word == "tensor":
        return tensor_type(cursor)
    if word in ("dense", "strings"):
        return constant_contents(cursor)
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


def constant_contents(cursor: Cursor) -> Data:
    """``dense<…>`` or ``strings<…>`` at the cursor."""
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


def kind_attributes(cursor: Cursor, name: str, at: int) -> OpKind:
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
