"""Presets: named pipelines in stages, found by the entry-point group ``amctc.presets`` or read from a file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from amctc.errors import InputError, UsageError
from amctc.files import parse_toml, read_bytes
from amctc.files.toml import MAX_BYTES
from amctc.options import converted
from amctc.pipeline import Pass, Pipeline, Repeat, installed

STAGES = ("prepare", "balance", "quantize", "lower")
"""In the order they run."""

ADOPT = "adopt"
OPTIONAL = ("balance", ADOPT)
"""What a preset may leave out; it is then empty."""


@dataclass(frozen=True)
class Preset:
    """Pipelines that run one after the other.

    ``prepare`` takes a float graph to a float graph, ``balance`` does so by what samples show; ``quantize`` takes it
    to a QDQ graph, ``lower`` that to the target's ops. ``adopt`` takes the place of all but the last for a model that
    brings its quantizers: QDQ to QDQ. A file with ``extends = "balanced"`` takes what it leaves out from that preset.
    """

    name: str
    description: str
    prepare: Pipeline
    balance: Pipeline
    quantize: Pipeline
    lower: Pipeline
    adopt: Pipeline

    def __str__(self) -> str:
        return ",".join(str(p) for p in self.stages if p.passes)

    @property
    def stages(self) -> tuple[Pipeline, ...]:
        """The pipelines in the order they run."""
        return self.prepare, self.balance, self.quantize, self.lower

    def adopting(self) -> Preset:
        """The preset for a model that brings its quantizers."""
        none = Pipeline(())
        return replace(self, name=f"{self.name} (for a QDQ model)", prepare=none, balance=none, quantize=self.adopt)

    def with_options(self, options: dict[str, dict[str, Any]]) -> Preset:
        """The preset with options of its passes changed: pass name → option → value.

        :class:`UsageError` for a pass the preset does not run or an option that does not fit.
        """
        used: set[str] = set()
        prepare, balance, quantize, lower = (_changed(stage, options, used) for stage in self.stages)
        for name in options:
            if name not in used:
                raise UsageError(f"preset {self.name!r} does not run pass {name!r}", remedy=f"its passes are {self}")
        return replace(self, prepare=prepare, balance=balance, quantize=quantize, lower=lower)


def preset_names() -> list[str]:
    """Names of the installed presets, sorted."""
    return sorted(installed("amctc.presets"))


def load_preset(name: str) -> Preset:
    """The preset of that name, or the TOML file at that path; :class:`UsageError` with the nearest names."""
    return _loaded(name, ())


def _loaded(name: str, extending: tuple[str, ...]) -> Preset:
    entry = installed("amctc.presets").get(name)
    if entry is not None:
        data = resources.files(entry.value).joinpath(f"{name}.toml").read_bytes()
        return _parsed(name, data, (*extending, name))
    if name.endswith(".toml"):
        return _parsed(Path(name).stem, read_bytes(name, limit=MAX_BYTES, kind="preset"), (*extending, name))
    near = difflib.get_close_matches(name, preset_names(), 2, 0.4)
    raise UsageError(f"unknown preset {name!r}", remedy=f"did you mean {' or '.join(near or preset_names())}?")


def _parsed(name: str, data: bytes, read: tuple[str, ...]) -> Preset:
    """The preset in ``data``; ``read`` are the presets that led to it by ``extends``, and itself."""
    *extending, where = read
    try:
        table = parse_toml(data)
    except ValueError as error:
        raise InputError(f"the preset is not TOML: {error}", where=where, remedy="correct the file") from None
    if where in extending:
        raise InputError("the preset extends itself", where=where, remedy="name another preset in extends")
    base = _loaded(str(table["extends"]), read) if "extends" in table else None
    inherited = (*STAGES, ADOPT) if base is not None else OPTIONAL
    unknown = sorted(set(table) - {*STAGES, ADOPT, "description", "extends"})
    missing = [s for s in (*STAGES, ADOPT) if not isinstance(table.get(s, "" if s in inherited else None), str)]
    if unknown or missing:
        what = f"unknown key {unknown[0]!r}" if unknown else f"{missing[0]!r} is missing or no text"
        raise InputError(what, where=where, remedy=f"a preset has description, extends, {', '.join(STAGES)}, {ADOPT}")
    stages = {s: Pipeline.parse(table[s].strip()) if s in table else getattr(base, s, Pipeline(()))
              for s in (*STAGES, ADOPT)}  # fmt: skip
    return Preset(name, str(table.get("description", "")), **stages)


def _changed(pipeline: Pipeline, options: dict[str, dict[str, Any]], used: set[str]) -> Pipeline:
    def change(item: Pass | Repeat) -> Pass | Repeat:
        if isinstance(item, Repeat):
            return Repeat(tuple(change(p) for p in item.body))
        if item.name not in options:
            return item
        used.add(item.name)
        return _with(item, options[item.name])

    return Pipeline(tuple(change(p) for p in pipeline.passes))


def _with(item: Pass, values: dict[str, Any]) -> Pass:
    changes = {}
    options = [f.name for f in fields(item)]
    for key, value in values.items():
        field = key.replace("-", "_")
        if field not in options:
            known = ", ".join(f.replace("_", "-") for f in options) or "none"
            raise UsageError(f"pass {item.name!r} has no option {key!r}", remedy=f"its options are: {known}")
        try:
            changes[field] = converted(type(item), field, value)
        except ValueError as error:
            raise UsageError(f"option {key!r} of {item.name!r} {error}") from None
    try:
        return replace(item, **changes)
    except ValueError as error:
        raise UsageError(f"pass {item.name!r}: {error}") from None
