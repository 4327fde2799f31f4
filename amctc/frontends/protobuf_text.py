"""Protobuf text format without a schema: a tree of named fields. Bounded in size and depth.

Read are: ``name: scalar``, ``name { … }`` and ``name: { … }`` (also with angle brackets), lists ``[a, b]``, commas and
semicolons between fields, adjacent strings joined, comments, extension names in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from amctc.errors import InputError, LimitError

SIZE_LIMIT = 64 << 20
"""Largest text read, in characters: a record of a million channels has about 40."""

FIELD_LIMIT = 1 << 20
"""Most values read: each takes some 200 bytes and 7 microseconds."""

DEPTH_LIMIT = 16
"""Deepest nesting read; records need four."""

_TOKEN = re.compile(
    r"(?P<space>(?:[ \t\r\n\f\v]|\#[^\n]*)+)"
    r"|(?P<string>\"(?:[^\"\\\n]|\\[^\n])*\"|'(?:[^'\\\n]|\\[^\n])*')"
    r"|(?P<word>-?(?:[A-Za-z0-9_.]|(?<=[eE])[-+](?=[0-9]))+)"
    r"|(?P<extension>\[[A-Za-z0-9_./]+\](?=[ \t]*[:{<]))"
    r"|(?P<mark>[{}<>\[\]:,;])"
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_CLOSING = {"{": "}", "<": ">"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, word or string as written; ``quoted`` tells strings (escapes resolved) from the others."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Field:
    """A field, one of several of its name if repeated, with the line it starts on."""

    name: str
    value: Scalar | Message
    line: int


Message: TypeAlias = tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    sort: str
    text: str
    line: int


def parse_text(text: str) -> Message:
    """The fields of ``text``.

    Raises :class:`InputError` with the line where the text is malformed, :class:`LimitError` where it is too large.
    """
    if len(text) > SIZE_LIMIT:
        raise LimitError(f"{len(text)} characters, more than the {SIZE_LIMIT} allowed", remedy="split the file")
    return _Parser(text).message(None, 0)


def _tokens(text: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise _bad(f"unexpected {text[position]!r}", line)
        sort, piece = found.lastgroup or "", found.group()
        if sort != "space":
            yield _Token(sort, piece, line)
        line += piece.count("\n")
        position = found.end()
    yield _Token("end", "the end", line)


class _Parser:
    """Recursive descent, at most :data:`DEPTH_LIMIT` deep, one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)
        self._count = 0

    def _take(self) -> _Token:
        token = self._next
        if token.sort != "end":
            self._next = next(self._tokens)
        return token

    def _accept(self, *marks: str) -> bool:
        if self._next.sort == "mark" and self._next.text in marks:
            self._take()
            return True
        return False

    def message(self, closing: str | None, depth: int) -> Message:
        """Fields up to ``closing``, or to the end of the text."""
        if depth > DEPTH_LIMIT:
            raise _bad(f"messages nested deeper than {DEPTH_LIMIT}", self._next.line)
        fields: list[Field] = []
        while True:
            if closing is None and self._next.sort == "end":
                return tuple(fields)
            if closing is not None and self._accept(closing):
                return tuple(fields)
            name = self._take()
            if name.sort not in ("word", "extension"):
                raise _bad(f"expected a field name, found {name.text}", name.line)
            fields.extend(Field(name.text, value, name.line) for value in self._values(depth))
            self._accept(",", ";")

    def _values(self, depth: int) -> list[Scalar | Message]:
        colon = self._accept(":")
        if not self._accept("["):
            return [self._value(colon, depth)]
        values: list[Scalar | Message] = []
        while not self._accept("]"):
            values.append(self._value(True, depth))
            if not self._accept(",") and self._next.text != "]":
                raise _bad(f"expected ',' or ']', found {self._next.text}", self._next.line)
        return values

    def _value(self, colon: bool, depth: int) -> Scalar | Message:
        token = self._take()
        self._count += 1
        if self._count > FIELD_LIMIT:
            raise LimitError(f"more than {FIELD_LIMIT} values", where=f"line {token.line}", remedy="split the file")
        if token.sort == "mark" and token.text in _CLOSING:
            return self.message(_CLOSING[token.text], depth + 1)
        if not colon or token.sort not in ("word", "string"):
            wanted = "a value" if colon else "':' or '{'"
            raise _bad(f"expected {wanted}, found {token.text}", token.line)
        if token.sort == "word":
            return Scalar(token.text, quoted=False)
        pieces = [_unescaped(token)]
        while self._next.sort == "string":
            pieces.append(_unescaped(self._take()))
        return Scalar("".join(pieces), quoted=True)


def _unescaped(token: _Token) -> str:
    """A string's contents; octal and hexadecimal escapes are bytes of UTF-8."""

    def plain(found: re.Match[bytes]) -> bytes:
        octal, hexadecimal, letter = found.groups()
        if letter is not None:
            return _LETTERS.get(letter, letter)
        return bytes([(int(octal, 8) if octal else int(hexadecimal, 16)) & 255])

    try:
        return _ESCAPE.sub(plain, token.text[1:-1].encode()).decode()
    except UnicodeError:
        raise _bad("a string that is not UTF-8", token.line) from None


def _bad(what: str, line: int) -> InputError:
    return InputError(what, where=f"line {line}", remedy="this is not protobuf text format")
