"""Pipelines as text: ``fold-batch-norm,repeat(a,b),place-qdq{bits=8 symmetric skip=[conv1, "block*"]}``.

The text is parsed into specs (names and options, not yet looked up) and printed back in one canonical form. Errors
mark the column.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TypeAlias

from amctc.errors import UsageError

Option: TypeAlias = bool | int | float | str | tuple["Option", ...] | None


@dataclass(frozen=True)
class PassSpec:
    """A pass by name with its options; ``column`` is where it stands in the text (0-based)."""

    name: str
    options: tuple[tuple[str, Option], ...] = ()
    column: int = field(default=0, compare=False)
    option_columns: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class RepeatSpec:
    """Passes run in order, again and again until none changes the graph."""

    body: tuple[PassSpec | RepeatSpec, ...]
    column: int = field(default=0, compare=False)


Spec: TypeAlias = PassSpec | RepeatSpec

MAX_TEXT = 1 << 16
MAX_NESTING = 32

_NAME = re.compile(r"[A-Za-z][\w\-]*")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+|inf|nan)(?![^\s,{}\[\]()=\"])")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SPACE = re.compile(r"[\s]*")


def marked(text: str, column: int, message: str, remedy: str | None = None) -> UsageError:
    """A usage error that shows the text with a caret under ``column``."""
    start = max(0, column - 60)
    shown = text[start : start + 120].replace("\n", " ")
    return UsageError(message, where=f"pipeline column {column + 1}", remedy=remedy,
                      detail=f"{shown}\n{' ' * (column - start)}^")  # fmt: skip


class _Reader:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise UsageError(f"a pipeline text of {len(text)} characters is too long", remedy="use a pipeline file")
        self.text, self.at = text, 0
        self._skip()

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def accept(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        self._skip()
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.error(f"expected {token!r}")

    def take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        self._skip()
        return found.group()

    def error(self, message: str) -> UsageError:
        found = self.text[self.at : self.at + 12]
        return marked(self.text, self.at, f"{message}, found {found!r}" if found else f"{message}, found the end")

    @property
    def done(self) -> bool:
        return self.at >= len(self.text)


def parse_specs(text: str) -> tuple[Spec, ...]:
    """The specs of a pipeline text; :class:`UsageError` with the column where it is malformed."""
    reader = _Reader(text)
    specs = _sequence(reader, 0)
    if not reader.done:
        raise reader.error("expected ',' or the end")
    return specs


def _sequence(reader: _Reader, depth: int) -> tuple[Spec, ...]:
    specs: list[Spec] = []
    while reader.text and not reader.done and not reader.text.startswith(")", reader.at):
        specs.append(_item(reader, depth))
        if not reader.accept(","):
            break
    return tuple(specs)


def _item(reader: _Reader, depth: int) -> Spec:
    column = reader.at
    name = reader.take(_NAME)
    if name is None:
        raise reader.error("expected the name of a pass")
    if name == "repeat" and reader.accept("("):
        if depth >= MAX_NESTING:
            raise reader.error("repeat is nested too deeply")
        body = _sequence(reader, depth + 1)
        reader.expect(")")
        return RepeatSpec(body, column)
    options: list[tuple[str, Option]] = []
    columns: list[int] = []
    if reader.accept("{"):
        while not reader.accept("}"):
            columns.append(reader.at)
            options.append(_option(reader, dict(options)))
            reader.accept(",")
    return PassSpec(name, tuple(options), column, tuple(columns))


def _option(reader: _Reader, given: dict[str, Option]) -> tuple[str, Option]:
    column = reader.at
    key = reader.take(_NAME)
    if key is None:
        raise reader.error("expected an option or '}'")
    if key in given:
        raise marked(reader.text, column, f"option {key!r} is given twice")
    return key, (_value(reader) if reader.accept("=") else True)


def _value(reader: _Reader, depth: int = 0) -> Option:
    column = reader.at
    if reader.accept("["):
        if depth >= MAX_NESTING:
            raise marked(reader.text, column, "lists are nested too deeply")
        items: list[Option] = []
        while not reader.accept("]"):
            items.append(_value(reader, depth + 1))
            reader.accept(",")
        return tuple(items)
    try:
        if (quoted := reader.take(_STRING)) is not None:
            return str(json.loads(quoted))
        if (number := reader.take(_NUMBER)) is not None:
            return int(number) if re.fullmatch(r"[-+]?\d+", number) else float(number)
    except ValueError:  # an escape JSON does not know, or more digits than Python reads
        raise marked(reader.text, column, "neither a JSON string nor a number of usual size") from None
    word = reader.take(_BARE)
    if word is None:
        raise marked(reader.text, column, "expected a value")
    return {"true": True, "false": False, "none": None}.get(word, word)


_BARE = re.compile(r"[^\s,{}\[\]()=\"]+")


def print_specs(specs: tuple[Spec, ...]) -> str:
    """The canonical text of specs; :func:`parse_specs` gives them back."""
    return ",".join(_print(s) for s in specs)


def _print(spec: Spec) -> str:
    if isinstance(spec, RepeatSpec):
        return f"repeat({print_specs(spec.body)})"
    if not spec.options:
        return spec.name
    return f"{spec.name}{{{' '.join(_print_option(k, v) for k, v in spec.options)}}}"


def _print_option(key: str, value: Option) -> str:
    return key if value is True else f"{key}={print_value(value)}"


def print_value(value: Option) -> str:
    """One option value as pipeline text."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(print_value, value))}]"
    if isinstance(value, str):
        plain = _BARE.fullmatch(value) and not _NUMBER.fullmatch(value) and value not in ("true", "false", "none")
        return value if plain else json.dumps(value)
    return repr(value)
