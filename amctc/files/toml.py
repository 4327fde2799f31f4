"""TOML that nobody vouches for: bounded, and malformed in one way only."""

from __future__ import annotations

import tomllib
from typing import Any

MAX_BYTES = 1 << 17
"""Largest file read. Measured: 1 MiB of keys of 2000 dots each, all lines short enough, keeps tomllib busy for 40 s."""

MAX_LINE = 1 << 12
"""Longest line read: tomllib takes time quadratic in the number of dots of one key."""


def parse_toml(data: bytes) -> dict[str, Any]:
    """The table in ``data``, the bytes of a file of at most :data:`MAX_BYTES`; :class:`ValueError` says why not.

    Refused beside what is no TOML in UTF-8: a line of more than :data:`MAX_LINE` characters, a number of more digits
    than Python reads, nesting deeper than the parser's recursion.
    """
    text = data.decode("utf-8-sig")
    require_short_lines(text)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def require_short_lines(text: str) -> None:
    """Raise :class:`ValueError` for a line of more than :data:`MAX_LINE` characters."""
    if max(map(len, text.splitlines()), default=0) > MAX_LINE:
        raise ValueError(f"a line is longer than {MAX_LINE} characters")
