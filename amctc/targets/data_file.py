"""Reading a profile from its TOML data file, refusing whatever it does not understand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from amctc.errors import InputError
from amctc.files import parse_toml, read_bytes
from amctc.files.toml import MAX_BYTES
from amctc.targets.profile import Epilogue, Profile, Tag, choice_values, nearest

STORAGES = ("i8", "i4", "f16")
REMEDY = "see the shipped profiles for the form"


def read_profile(path: Path) -> Profile:
    """The profile in a TOML file; :class:`InputError` names the key at fault, else errors as of reading any file."""
    data = read_bytes(path, limit=MAX_BYTES, kind="target profile")
    try:
        table = parse_toml(data)
    except ValueError as error:
        raise InputError(f"not TOML: {error}", where=path.name, remedy=REMEDY) from error
    return profile_from_table(table, path.name)


def profile_from_table(table: dict[str, Any], where: str) -> Profile:
    """The profile a parsed TOML ``table`` describes; ``where`` names the file in errors."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "choices":
            continue
        if key not in READERS:
            raise InputError(f"unknown key {key!r}", where=where, remedy=nearest(key, [*READERS, "choices"], "keys"))
        values[key] = _read(READERS[key], value, key, where)
    missing = sorted(REQUIRED - values.keys())
    if missing:
        raise InputError(f"missing key {missing[0]!r}", where=where, remedy=REMEDY)
    for key in ("c0", "tile"):
        if values[key].keys() != set(values["storage"]):
            raise InputError(f"{key} must give exactly the types of storage", where=f"{where}: {key}", remedy=REMEDY)
    if ("ddr_bandwidth" in values) != ("ddr_bandwidth_tag" in values):
        raise InputError("ddr_bandwidth and ddr_bandwidth_tag come together", where=where, remedy=REMEDY)
    made, tags = _choices(table.get("choices", {}), where)
    values.update(made, tags=tags)
    profile = Profile(**values)
    for name in made:
        if name not in {c.name for c in profile.choices}:
            raise InputError("this choice does not arise on the chip", where=f"{where}: choices.{name}")
    return profile


def _choices(table: object, where: str) -> tuple[dict[str, str], dict[str, Tag]]:
    """Values and tags of the ``[choices]`` table: each entry is ``name = { value = …, tag = … }``."""
    allowed = choice_values()
    made: dict[str, str] = {}
    tags: dict[str, Tag] = {}
    if not isinstance(table, dict):
        raise InputError("choices must be a table", where=where, remedy=REMEDY)
    for name, entry in table.items():
        place = f"{where}: choices.{name}"
        if name not in allowed:
            raise InputError(f"no arithmetic choice {name!r}", where=where, remedy=nearest(name, [*allowed], "choices"))
        if not isinstance(entry, dict) or entry.keys() != {"value", "tag"}:
            raise InputError("a choice is { value = …, tag = … }", where=place, remedy=REMEDY)
        made[name] = _read(_one_of(allowed[name]), entry["value"], f"choices.{name}.value", where)
        tags[name] = _read(_one_of(get_args(Tag)), entry["tag"], f"choices.{name}.tag", where)
    if "quant_mode" not in made:
        raise InputError("missing choice 'quant_mode'", where=where, remedy="give fp32 (N2) or fp16 (N3) with its tag")
    return made, tags


def _read(reader: Callable[[Any], Any], value: object, key: str, where: str) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise InputError(f"must be {error}, not {value!r}", where=f"{where}: {key}", remedy=REMEDY) from error


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty string")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a whole number, not negative")
    return value


def _positive(value: object) -> int:
    if _count(value) == 0:
        raise ValueError("a whole number above zero")
    return _count(value)


def _rate(value: object) -> float:
    if type(value) not in (int, float) or not 0 < float(str(value)) < math.inf:
        raise ValueError("a positive number")
    return float(str(value))


def _one_of(allowed: tuple[str, ...]) -> Callable[[object], str]:
    def reader(value: object) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return str(value)

    return reader


def _storages(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or any(v not in STORAGES for v in value) or len({*value}) < len(value):
        raise ValueError("a list of distinct types out of " + ", ".join(STORAGES))
    return tuple(value)


def _blocks(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError("a table of one block per storage type")
    return {key: _positive(block) for key, block in value.items()}


def _tiles(value: object) -> dict[str, tuple[int, int, int]]:
    if not isinstance(value, dict) or any(not isinstance(t, list) or len(t) != 3 for t in value.values()):
        raise ValueError("a table of [M, K, N] per storage type")
    return {key: (_positive(m), _positive(k), _positive(n)) for key, (m, k, n) in value.items()}


READERS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "description": _text,
    "soc_version": _text,
    "isa": _text,
    "epilogue": _one_of(get_args(Epilogue)),
    "storage": _storages,
    "sparsity_4_2": _flag,
    "sqrt_mode_squares": _flag,
    "batch_matmul_int8": _flag,
    "weight_only": _flag,
    "row_scales": _flag,
    "c0": _blocks,
    "tile": _tiles,
    "cube_cores": _positive,
    "vector_cores": _count,
    "frequency_mhz": _positive,
    "l2_bytes": _positive,
    "l1_bytes": _positive,
    "l0a_bytes": _positive,
    "l0b_bytes": _positive,
    "l0c_bytes": _positive,
    "ub_bytes": _positive,
    "ddr_bandwidth": _rate,
    "ddr_bandwidth_tag": _one_of(get_args(Tag)),
}
REQUIRED = {"name", "description", "soc_version", "isa", "epilogue", "storage", "sparsity_4_2", "c0", "tile"}
