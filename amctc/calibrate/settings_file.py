"""Read a small TOML or YAML file of settings: bounded, without aliases, tags or repeated keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from amctc.errors import InputError, UsageError
from amctc.files import parse_toml, read_bytes
from amctc.files.toml import require_short_lines

MAX_BYTES = 1 << 16  # a settings file is a page of text; a larger one is a mistake or an attack
SUFFIXES = (".toml", ".yaml", ".yml")


def read_settings(path: str | os.PathLike[str], *, kind: str) -> dict[str, Any]:
    """The table in the file ``path`` (``.toml``, ``.yaml`` or ``.yml``) as plain Python values.

    ``kind`` names the file in messages. Raises :class:`UsageError` for another suffix, :class:`InputError` when it
    is missing or not well-formed or its top is not a table of names, :class:`LimitError` when it exceeds 64 KiB.
    """
    where, suffix = os.fspath(path), Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"a {kind} ends in {', '.join(SUFFIXES)}, not {suffix!r}", where=where, remedy="rename it")
    data = read_bytes(path, limit=MAX_BYTES, kind=kind)
    try:
        table = parse_toml(data) if suffix == ".toml" else _parse_yaml(data)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _malformed(kind, where, f"{error.problem}{line}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:  # a TOML syntax error is a ValueError
        raise _malformed(kind, where, error) from None
    except RecursionError:
        raise _malformed(kind, where, "nested too deeply") from None
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise _malformed(kind, where, "its top level is not a table of names and values")
    return table


def _malformed(kind: str, where: str, reason: object) -> InputError:
    language = "TOML" if where.lower().endswith(".toml") else "YAML"
    return InputError(f"the {kind} is not {language} as it should be: {reason}", where=where, remedy="correct the file")


def _parse_yaml(data: bytes) -> Any:
    text = data.decode("utf-8-sig")
    require_short_lines(text)
    return yaml.load(text, _PlainLoader)


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases (a few lines of them expand to gigabytes) and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            events: Any = self  # the stubs leave peek_event untyped
            mark = events.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)
