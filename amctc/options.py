"""Pass options: dataclass fields from and to the values of a pipeline text, checked against their annotations."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from amctc.spec import Option, print_value


def converted(kind: type, field: str, value: Option) -> Any:
    """``value`` as the field wants it; :class:`ValueError` says what would have been right."""
    return _convert(typing.get_type_hints(kind)[field], value)


def _convert(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in arguments:
            try:
                return _convert(choice, value)
            except ValueError:
                continue
        raise ValueError(f"wants {expected(hint)}, not {print_value(value)}")
    if origin is typing.Literal:
        if value in arguments:
            return value
    elif origin is tuple:
        items = value if isinstance(value, tuple | list) else (value,)  # Python and TOML give lists
        return tuple(_convert(arguments[0], v) for v in items)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is type(None):
        if value is None:
            return None
    elif type(value) is hint:
        return value
    elif hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"wants {expected(hint)}, not {print_value(value)}")


def expected(hint: Any) -> str:
    """What a field accepts, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(a) for a in arguments)
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        return f"a list of {expected(arguments[0]).removeprefix('an ').removeprefix('a ')}s"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a word", type(None): "none"}.get(
        hint, str(hint)
    )


def option_values(instance: Any) -> tuple[tuple[str, Option], ...]:
    """Options of a pass that differ from their defaults, as they are written in a pipeline."""
    return tuple(
        (f.name.replace("_", "-"), getattr(instance, f.name))
        for f in dataclasses.fields(instance)
        if f.default is dataclasses.MISSING or getattr(instance, f.name) != f.default
    )


def describe_options(kind: Any) -> str:
    """All options of a pass with what they accept and their defaults, on one line."""
    hints = typing.get_type_hints(kind)
    return "options: " + "; ".join(
        f"{f.name.replace('_', '-')} ({expected(hints[f.name])}"
        + ("" if f.default is dataclasses.MISSING else f", default {print_value(f.default)}")
        + ")"
        for f in dataclasses.fields(kind)
    )
