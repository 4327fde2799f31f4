"""The precisions that layers can have with a preset on a target, and how a preset is told of a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from glob import escape
from typing import Any

from amctc.errors import UsageError
from amctc.ir import Graph
from amctc.mixed_precision.assembly import FLOAT, Assembly, Assignment
from amctc.ops import nn
from amctc.pipeline import Context, Pass, Pipeline, Repeat
from amctc.preset import Preset
from amctc.session import FUSION_KEY, TARGET_KEY, compiled
from amctc.targets import Profile

Options = dict[str, dict[str, Any]]
"""Pass name → option → value."""

HALF, INT8, INT4 = "w8a16", "w8a8", "w4a8"
CANDIDATES = (FLOAT, HALF, INT8, INT4)
"""float16; int8 weights under float16 data (N21); int8 weights and data; int4 weights and int8 data. From the most
precise to the least.
"""

OPTIONS = {HALF: "weight_only", INT4: "int4"}
"""The option of passes that quantize weights which lists the layers of a candidate."""


@dataclass(frozen=True)
class Space:
    """All that a float graph can become: ``stages`` quantized it for each candidate of ``assembly``."""

    stages: Preset
    target: Profile
    assembly: Assembly

    def deploy(self, assignment: Assignment) -> Graph:
        """The graph in the target's deploy form."""
        context = Context(target=self.target)
        lowered = self.stages.lower.run(self.assembly.assembled(assignment), context).graph
        return lowered.with_metadata(**{TARGET_KEY.replace(".", "__"): self.target.name,
                                        FUSION_KEY.replace(".", "__"): "on"})  # fmt: skip

    def compiled(self, assignment: Assignment) -> Graph:
        """The graph as the target's compiler leaves it: what costs are of."""
        return compiled(self.deploy(assignment), self.target)

    def options(self, assignment: Assignment) -> Options:
        """What tells the preset to make this assignment."""
        return precision_options(self.stages, assignment)


def space_of(graph: Graph, stages: Preset, candidates: Sequence[str], context: Context) -> Space:
    """The space of a prepared float graph; what candidates share of the pipeline runs once.

    Raises :class:`UsageError` for candidates that are not there, on this target or with this preset.
    """
    wanted = require_candidates(candidates, stages, context.target)
    if not any(isinstance(op.kind, nn.Layer) for op in graph.ops):
        wanted = tuple(c for c in wanted if c != HALF)  # nothing has a weight, and patterns must match something
    pipelines = {c: stages.with_options(_whole(stages, c)).quantize.passes for c in wanted if c != FLOAT}
    shared = _shared(list(pipelines.values()))
    start = Pipeline(shared).run(graph, context).graph
    whole = {c: Pipeline(passes[len(shared) :]).run(start, context).graph for c, passes in pipelines.items()}
    assembly = Assembly(graph, whole)
    if not assembly.layers:
        raise UsageError("no layer can be quantized, so there is nothing to choose",
                         remedy="`amctc compress` says for each layer why")  # fmt: skip
    return Space(stages, context.target, assembly)


def require_candidates(candidates: Sequence[str], stages: Preset, target: Profile) -> tuple[str, ...]:
    """``candidates`` in their order of precision; :class:`UsageError` for one that cannot be had."""
    for name in candidates:
        if name not in CANDIDATES:
            raise UsageError(f"no candidate {name!r}", remedy=f"candidates are {', '.join(CANDIDATES)}")
    chosen = tuple(c for c in CANDIDATES if c in candidates)
    if not set(chosen) - {FLOAT}:
        raise UsageError("nothing to choose from", remedy=f"give several candidates of {', '.join(CANDIDATES)}")
    if "place-qdq" not in _passes(stages):
        raise UsageError(f"preset {stages.name!r} places no quantizers in front of layers",
                         remedy="use a preset that runs place-qdq, such as default or fast")  # fmt: skip
    for name, rule in ((HALF, "N21"), (INT4, "N4")):
        if name in chosen and (obstacle := _obstacle(name, stages, target)) is not None:
            raise UsageError(f"candidate {name!r}: {obstacle}", rule=rule, remedy="leave it out")
    return chosen


def possible_candidates(stages: Preset, target: Profile) -> tuple[str, ...]:
    """The candidates that a target has, and a preset can make."""
    return tuple(c for c in CANDIDATES if _obstacle(c, stages, target) is None)


def _obstacle(candidate: str, stages: Preset, target: Profile) -> str | None:
    """Why no layer can have a candidate on a target with a preset."""
    if candidate == INT4 and "i4" not in target.storage:
        return f"{target.name} stores no int4"
    if candidate == HALF and not target.weight_only:
        return f"{target.name} computes no integer weights under float data"
    option = OPTIONS.get(candidate)
    if option is None or _taking(stages, option):
        return None
    return f"no pass of preset {stages.name!r} has an option {option.replace('_', '-')}"


def precision_options(stages: Preset, assignment: Assignment) -> Options:
    """Options of the preset's passes that give each layer its candidate. Nothing is rolled back beside."""
    of: dict[str, list[str]] = {}
    for layer, candidate in assignment.items():
        of.setdefault(candidate, []).append(escape(layer))
    found, passes = _no_roll_back(stages), _passes(stages)
    in_float = [layer for layer, c in assignment.items() if c in (FLOAT, HALF)]
    lists = [("place-qdq", "skip", [escape(layer) for layer in in_float])]
    lists += [(name, option, of.get(c, [])) for c, option in OPTIONS.items() for name in _taking(stages, option)]
    for name, option, layers in lists:
        if layers:
            found.setdefault(name, {})[option] = (*getattr(passes[name], option), *layers)
    return found


def merged(*several: Mapping[str, Mapping[str, Any]]) -> Options:
    """Options of all, later ones before earlier ones."""
    found: Options = {}
    for options in several:
        for name, values in options.items():
            found.setdefault(name, {}).update(values)
    return found


def _whole(stages: Preset, candidate: str) -> Options:
    """Options that give every layer ``candidate``, as far as it can take it.

    Weights are rounded for their own layer: what makes up for losses of layers before it would be wrong beside others.
    """
    own: Options = {name: {"bits": 4} for name in _taking(stages, "int4")} if candidate == INT4 else {}
    if candidate == HALF:
        own = {"place-qdq": {"skip": ("*",)}} | {n: {"weight_only": ("*",)} for n in _taking(stages, "weight_only")}
    alone: Options = {name: {"compensate": False} for name in _taking(stages, "compensate")}
    return merged(_no_roll_back(stages), own, alone)


def _no_roll_back(stages: Preset) -> Options:
    return {"roll-back": {"budget": 0.0}} if "roll-back" in _passes(stages) else {}


def _passes(stages: Preset) -> dict[str, Pass]:
    """The passes that quantize, by name."""
    stack: list[Pass | Repeat] = list(stages.quantize.passes)
    found: dict[str, Pass] = {}
    while stack:
        item = stack.pop(0)
        if isinstance(item, Repeat):
            stack = [*item.body, *stack]
        else:
            found[item.name] = item
    return found


def _taking(stages: Preset, option: str) -> list[str]:
    return [name for name, item in _passes(stages).items() if option in {f.name for f in fields(item)}]


def _shared(pipelines: Sequence[tuple[Pass | Repeat, ...]]) -> tuple[Pass | Repeat, ...]:
    """The passes that all pipelines begin with."""
    count = 0
    for same in zip(*pipelines, strict=False):
        if any(item != same[0] for item in same):
            break
        count += 1
    return pipelines[0][:count]
