"""Tokens of a graph text with a position; every failure names line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from amctc.errors import AmctcError, InputError, LimitError

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
  | (?P<string>"[^"\\]*(?:\\.[^"\\]*)*")
  | (?P<arrow>->)
  | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf\b|nan\b))
  | (?P<name>[A-Za-z_][\w.\-]*)
  | (?P<punct>[%#(){}\[\]<>,:=?*…])""",
    re.VERBOSE,
)


MAX_TOKENS = 1 << 21
"""Most tokens read: each takes some 200 bytes. The contents of a large constant are one."""


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
            if len(self.tokens) > MAX_TOKENS:
                raise LimitError(f"the text has more than {MAX_TOKENS} tokens", remedy="give a smaller graph")
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
