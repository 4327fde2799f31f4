"""Presets: named pipelines in stages, found by the entry-point group ``amctc.presets`` or read from a file."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
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

STEPPED = ("balance", "quantize")
"""The stages whose passes can be steps."""

TRIAL_SAMPLES = 128
"""Samples that steps are tried on, at most, unless the preset says otherwise."""

Options = Mapping[str, Mapping[str, Any]]
"""Pass name → option → value."""


@dataclass(frozen=True)
class Step:
    """A pass of a preset that is tried before it is kept: ``without`` stands in its place until then.

    Of several steps for one pass each changes it to what the next one is ``without``. Where both are the same pass the
    step is what options differ in: it can be undone alone.
    """

    name: str
    pass_name: str
    without: Pipeline


@dataclass(frozen=True)
class Preset:
    """Pipelines that run one after the other.

    ``prepare`` takes a float graph to a float graph, ``balance`` does so by what samples show; ``quantize`` takes it
    to a QDQ graph, ``lower`` that to the target's ops. ``adopt`` takes the place of all but the last for a model that
    brings its quantizers: QDQ to QDQ. The pipelines are those with all ``steps`` taken; :mod:`amctc.steps` tries these
    in their order on ``trial_samples`` samples. A file with ``extends = "balanced"`` takes what it leaves out from that
    preset, and its steps in the stages that it leaves out.
    """

    name: str
    description: str
    prepare: Pipeline
    balance: Pipeline
    quantize: Pipeline
    lower: Pipeline
    adopt: Pipeline
    steps: tuple[Step, ...] = ()
    trial_samples: int = TRIAL_SAMPLES

    def __str__(self) -> str:
        return ",".join(str(p) for p in self.stages if p.passes)

    @property
    def stages(self) -> tuple[Pipeline, ...]:
        """The pipelines in the order they run."""
        return self.prepare, self.balance, self.quantize, self.lower

    def adopting(self) -> Preset:
        """The preset for a model that brings its quantizers."""
        none = Pipeline(())
        name = f"{self.name} (for a QDQ model)"
        return replace(self, name=name, prepare=none, balance=none, quantize=self.adopt, steps=())

    def with_options(self, options: Options) -> Preset:
        """The preset with options of its passes changed.

        A step whose pass is given options is no longer tried but taken, unless it takes the same options without the
        step. :class:`UsageError` for a pass the preset does not run or an option that does not fit.
        """
        used: set[str] = set()
        prepare, balance, quantize, lower = (_changed(stage, options, used) for stage in self.stages)
        for name in options:
            if name not in used:
                raise UsageError(f"preset {self.name!r} does not run pass {name!r}", remedy=f"its passes are {self}")
        steps = tuple(
            replace(step, without=_changed(step.without, options, used)) for step in self.steps
            if step.pass_name not in options or step.pass_name in _pass_names(step.without)
        )  # fmt: skip
        return replace(self, prepare=prepare, balance=balance, quantize=quantize, lower=lower, steps=steps)

    def taking(self, kept: Collection[Step]) -> Preset:
        """The preset without the steps that are not ``kept``; none is left to try."""
        exchanged: dict[str, Pipeline] = {}
        for step in reversed(self.steps):
            if step not in kept:
                stands = exchanged.get(step.pass_name, self._nominal(step.pass_name))
                exchanged[step.pass_name] = _undone(stands, self.form(step), step.without)
        balance, quantize = (_exchanged(getattr(self, stage), exchanged) for stage in STEPPED)
        return replace(self, balance=balance, quantize=quantize, steps=())

    def form(self, step: Step) -> Pipeline:
        """What stands in the place of a step's pass with that step, and none behind it, taken."""
        own = [other for other in self.steps if other.pass_name == step.pass_name]
        following = own.index(step) + 1
        return own[following].without if following < len(own) else self._nominal(step.pass_name)

    def _nominal(self, pass_name: str) -> Pipeline:
        """The pass of that name, as it stands with all steps taken."""
        passes = (item for stage in STEPPED for item in getattr(self, stage).passes)
        return Pipeline(tuple(p for p in passes if isinstance(p, Pass) and p.name == pass_name))


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
    unknown = sorted(set(table) - {*STAGES, ADOPT, "description", "extends", "steps", "trial-samples"})
    missing = [s for s in (*STAGES, ADOPT) if not isinstance(table.get(s, "" if s in inherited else None), str)]
    if unknown or missing:
        what = f"unknown key {unknown[0]!r}" if unknown else f"{missing[0]!r} is missing or no text"
        raise InputError(what, where=where, remedy=f"a preset has description, extends, {', '.join(STAGES)}, {ADOPT}")
    stages = {s: Pipeline.parse(table[s].strip()) if s in table else getattr(base, s, Pipeline(()))
              for s in (*STAGES, ADOPT)}  # fmt: skip
    inherits = () if base is None else base.steps
    steps = (*(s for s in inherits if not _stated(s, base, table)), *_steps(table.get("steps", ()), stages, where))
    samples = table.get("trial-samples", TRIAL_SAMPLES if base is None else base.trial_samples)
    if type(samples) is not int or samples < 1:
        raise InputError("trial-samples is no positive integer", where=where, remedy="give a number of samples")
    return Preset(name, str(table.get("description", "")), **stages, steps=steps, trial_samples=samples)


def _stated(step: Step, base: Preset | None, table: Mapping[str, Any]) -> bool:
    """Whether a file states the stage that an inherited step belongs to."""
    return any(stage in table and step.pass_name in _pass_names(getattr(base, stage)) for stage in STEPPED)


def _steps(listed: Any, stages: Mapping[str, Pipeline], where: str) -> Iterator[Step]:
    """The steps of a file, each a table of ``pass``, ``without`` and, where that is not the pass's, a ``name``."""
    names = [name for stage in STEPPED for name in _pass_names(stages[stage])]
    for entry in listed if isinstance(listed, list) else [listed] if listed else []:
        known = isinstance(entry, dict) and entry.keys() <= {"pass", "without", "name"}
        texts = known and all(isinstance(v, str) for v in entry.values())
        if not texts or "pass" not in entry or "without" not in entry:
            raise InputError("a step is no table of pass and without", where=where,
                             remedy='write [[steps]], pass = "roll-back" and without = ""')  # fmt: skip
        if (times := names.count(entry["pass"])) != 1:
            what = f"the step's pass {entry['pass']!r} stands {times} times in {' and '.join(STEPPED)}"
            raise InputError(what, where=where, remedy="name a pass that stands there once")
        yield Step(entry.get("name", entry["pass"]), entry["pass"], Pipeline.parse(entry["without"].strip()))


def _undone(stands: Pipeline, form: Pipeline, without: Pipeline) -> Pipeline:
    """What ``stands`` for a pass, after undoing the step from ``without`` to ``form``: only options that differ."""
    now, to, back = (p.passes[0] if len(p.passes) == 1 else None for p in (stands, form, without))
    if not isinstance(to, Pass) or type(to) is not type(back):
        return without
    if not isinstance(now, Pass) or type(now) is not type(to):
        return stands
    options = {f.name: getattr(back, f.name) for f in fields(to) if getattr(to, f.name) != getattr(back, f.name)}
    return Pipeline((replace(now, **options),))


def _pass_names(pipeline: Pipeline) -> list[str]:
    """Names of the passes that stand in a pipeline, outside of repetitions."""
    return [item.name for item in pipeline.passes if isinstance(item, Pass)]


def _exchanged(pipeline: Pipeline, forms: Mapping[str, Pipeline]) -> Pipeline:
    """The pipeline with other passes in the place of those named in ``forms``."""
    passes: list[Pass | Repeat] = []
    for item in pipeline.passes:
        form = forms.get(item.name) if isinstance(item, Pass) else None
        passes += [item] if form is None else form.passes
    return Pipeline(tuple(passes))


def _changed(pipeline: Pipeline, options: Options, used: set[str]) -> Pipeline:
    def change(item: Pass | Repeat) -> Pass | Repeat:
        if isinstance(item, Repeat):
            return Repeat(tuple(change(p) for p in item.body))
        if item.name not in options:
            return item
        used.add(item.name)
        return _with(item, options[item.name])

    return Pipeline(tuple(change(p) for p in pipeline.passes))


def _with(item: Pass, values: Mapping[str, Any]) -> Pass:
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
