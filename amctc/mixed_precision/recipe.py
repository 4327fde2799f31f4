"""What is compressed again and again while precisions are tried: a model, its samples, settings."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from typing import Any

from amctc.api import Compression, compress, load, written
from amctc.calibrate.samples import Samples, from_iterable
from amctc.concurrency import SerialExecutor
from amctc.errors import UsageError
from amctc.evaluation import Evaluator
from amctc.ir import Graph
from amctc.measurement import Measurement, Reference, held_back
from amctc.mixed_precision.assembly import FLOAT, Assignment
from amctc.mixed_precision.costs import cost_of
from amctc.mixed_precision.space import HALF, INT4, Options, Space, merged, space_of
from amctc.onnx_bridge.value_sizes import require_sizes
from amctc.pipeline import Context
from amctc.preset import Preset, load_preset
from amctc.report.model import LayerReport
from amctc.report.precision import PrecisionReport, Trial
from amctc.report.steps import StepReport
from amctc.session import graph_kind, input_specs
from amctc.steps import settle
from amctc.targets import DEFAULT_TARGET, Profile, load_profile

SKIPPED, CHOSEN = "left in float: skipped on request", "left in float: chosen by what was measured"
"""What place-qdq notes of a layer that the user, or a search in his place, left in float."""

AS_IS = "the preset as it is"
"""What every search is measured against."""

NOISE_SAMPLES = 32
"""Samples that noises of single layers are measured on in a search: they are sums over all elements of all outputs."""


@dataclass(frozen=True)
class Recipe:
    """A float model, the samples that ``calibrate`` it, those ``held`` back, and settings of :func:`amctc.compress`."""

    graph: Graph
    path: str | None
    calibrating: Samples
    held: Samples
    target: Profile
    stages: Preset
    evaluator: Evaluator | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: StepReport | None = None
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(
        cls, model: str | PathLike[str] | Graph, samples: Samples | Iterable[Any], *, behind: int | None = None,
        evaluator: Evaluator | None = None, target: str | Profile = DEFAULT_TARGET,
        preset: str | Preset = "balanced",
        options: Mapping[str, Mapping[str, Any]] | None = None, path: str | PathLike[str] | None = None,
        **settings: Any,
    ) -> Recipe:  # fmt: skip
        """The recipe for what a user gave; ``behind`` samples are held back.

        :class:`UsageError` for a model that brings its quantizers, and for settings that serve one compression only;
        ``TypeError`` for those that no compression has.
        """
        if unknown := set(settings) - set(inspect.signature(compress).parameters):
            raise TypeError(f"no setting of compress: {', '.join(sorted(unknown))}")
        graph = model if isinstance(model, Graph) else load(model)
        if graph_kind(graph) != "float":
            raise UsageError(f"this is a {graph_kind(graph)} model, whose precision is chosen already",
                             where=None if isinstance(model, Graph) else fspath(model),
                             remedy="name the float model it was made from")  # fmt: skip
        if settings.get("checkpoint") is not None:
            raise UsageError("a checkpoint keeps one calibration, and several are made here", remedy="leave it out")
        source = samples if isinstance(samples, Samples) else from_iterable(samples, input_specs(graph))
        calibrating, held = held_back(source, behind)
        read_from = model if path is None and not isinstance(model, Graph) else path
        stages = (preset if isinstance(preset, Preset) else load_preset(preset)).with_options(options or {})
        profile = target if isinstance(target, Profile) else load_profile(target)
        kept = {"preset": stages, "options": merged(options or {}), **settings}
        recipe = cls(graph, None if read_from is None else fspath(read_from), calibrating, held, profile, stages,
                     evaluator, kept)  # fmt: skip
        return recipe._settled()

    def _settled(self) -> Recipe:
        """The recipe with those steps of its preset that help on the samples held back: all trials share them."""
        context = self.context()
        prepared = self.stages.prepare.run(self.graph, context).graph
        require_sizes(prepared)
        settled = settle(self.stages, prepared, self.calibrating, context, self.held)
        settings = {**self.settings, "preset": settled.preset}
        return replace(self, stages=settled.preset, settings=settings, steps=settled.report)

    @cached_property
    def prepared(self) -> Graph:
        """The float graph that is quantized."""
        context = self.context()
        prepared = self.stages.prepare.run(self.graph, context).graph
        return self.stages.balance.run(prepared, context).graph

    def context(self) -> Context:
        """A context for passes, as :func:`amctc.compress` makes it."""
        known = {k: v for k in ("seed", "provider", "progress") if (v := self.settings.get(k)) is not None}
        executor = self.settings.get("executor") or SerialExecutor()
        return Context(samples=self.calibrating, target=self.target, executor=executor, **known)

    def compressed(self, options: Options | None = None) -> Compression:
        """What the preset makes with more options; nothing is written."""
        settings = {**self.settings, "options": merged(self.settings["options"], options or {})}
        for name in ("out", "external_data_threshold"):
            settings.pop(name, None)
        return compress(self.graph, self.calibrating, path=self.path, target=self.target, **settings)

    def reference(self) -> Reference:
        """The user's model to measure against, on the samples that were held back."""
        return Reference(self.graph, self.held, self.target, evaluator=self.evaluator, provider=self._provider)

    def noise_reference(self, most: int | None = NOISE_SAMPLES, evaluator: Evaluator | None = None) -> Reference:
        """The prepared model to measure the noise of single layers against, on ``most`` of the samples held back."""
        held = self.held if most is None else self.held.limited(0, max(most, self.held.smallest_batch))
        return Reference(self.prepared, held, self.target, evaluator=evaluator, provider=self._provider)

    @property
    def _provider(self) -> str:
        return self.settings.get("provider") or "cpu"

    def space(self, candidates: Iterable[str]) -> Space:
        """What the preset can make of each layer."""
        return space_of(self.prepared, self.stages, tuple(candidates), self.context())

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell whoever listens."""
        if (listener := self.settings.get("progress")) is not None:
            listener(what, done, total)


def finished(
    recipe: Recipe, result: Compression, precision: PrecisionReport, out: str | PathLike[str] | None,
    texts: Mapping[str, str] | None = None,
) -> Compression:  # fmt: skip
    """The result with what was found in its report, in its files and in its time; written where ``out`` says so."""
    chosen = {layer.layer: layer.chosen for layer in precision.layers}
    layers = tuple(_remarked(layer, chosen.get(layer.name)) for layer in result.report.layers)
    report = replace(result.report, layers=layers, precision=precision, steps=recipe.steps)
    spent = time.perf_counter() - recipe.started - sum(result.seconds.values())
    result = replace(result, report=report, seconds={**result.seconds, "search": max(0.0, spent)})
    if out is None:
        return result
    threshold = {k: v for k in ("external_data_threshold",) if (v := recipe.settings.get(k)) is not None}
    return written(result, out, texts=texts, **threshold)


def _remarked(layer: LayerReport, chosen: str | None) -> LayerReport:
    """The layer with notes that say it was chosen so."""
    if chosen in (FLOAT, HALF):
        why = CHOSEN if chosen == FLOAT else "data left in float: chosen by what was measured"
        return replace(layer, notes=tuple(why if note == SKIPPED else note for note in layer.notes))
    return replace(layer, notes=(*layer.notes, "weights in 4 bits")) if chosen == INT4 else layer


def trial(
    name: str, graph: Graph, target: Profile, measured: Measurement, assignment: Assignment,
    predicted: float | None = None,
) -> Trial:  # fmt: skip
    """A compiled graph as the report has it."""
    cost = cost_of(graph, target)
    return Trial(name, dict(assignment), cost.bytes, rounded(cost.time_us), predicted, round(measured.sqnr_db, 6),
                 rounded(measured.agreement), rounded(measured.top1), rounded(measured.score))  # fmt: skip


def rounded(value: float | None) -> float | None:
    """Six digits behind the point: what is beyond says nothing."""
    return value if value is None else round(value, 6)
