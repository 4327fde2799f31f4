"""Passes and pipelines: graph in, graph out, with contracts checked on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, ClassVar, TypeVar

from amctc.calibrate.checkpoint import Checkpoint, Collection
from amctc.collector import collector_paused
from amctc.concurrency import SerialExecutor
from amctc.contract import Contract
from amctc.errors import AmctcError, LimitError, UsageError
from amctc.ir import Graph, Op, Value, layer_name
from amctc.options import converted, describe_options, option_values
from amctc.rewrite import Application, Rewrite, RewriteLog, apply_rewrites
from amctc.spec import PassSpec, RepeatSpec, Spec, marked, parse_specs, print_specs
from amctc.targets import DEFAULT_TARGET, Profile, load_profile
from amctc.types import Array
from amctc.verify import verify

Batch = Mapping[str, Array]
Progress = Callable[[str, int, int], None]
"""Told what is being done, how much is done and how much there is in all."""

MAX_REPEATS = 100


@dataclass(frozen=True)
class Note:
    """A remark of a pass about a layer: what was done, or why something was not."""

    source: str
    layer: str
    text: str


@dataclass
class Context:
    """What passes may use beside the graph.

    ``samples`` is a re-iterable source of batches ``{input name: array}``; ``target`` the chip compiled for; ``seed``
    feeds every random choice; ``progress`` is called during long work; ``verify`` checks the graph and the contract
    after each pass, and ``validate`` is told of each run of a pass, to compare results
    (:class:`amctc.validate.Validation`, :class:`amctc.bisection.Bisection`). ``notes`` collects remarks. ``executor``
    runs what is independent, batches for instance: no result may depend on which one it is. ``provider`` names where
    ONNX Runtime computes: ``cpu``, ``cuda``, … ``checkpoint`` keeps what passes gather from samples, for a run that
    goes on where this one was killed; one context is for one run then. ``reference`` is the float graph that a
    quantized one is compared with, where that is not the one inside it.
    """

    samples: Iterable[Batch] | None = None
    seed: int = 0
    target: Profile = field(default_factory=lambda: load_profile(DEFAULT_TARGET))
    progress: Progress = lambda what, done, total: None
    verify: bool = True
    validate: Validator | None = None
    trace: bool = False
    notes: list[Note] = field(default_factory=list)
    log: RewriteLog = field(default_factory=RewriteLog)
    executor: Executor = field(default_factory=SerialExecutor)
    provider: str = "cpu"
    checkpoint: Checkpoint | None = None
    reference: Graph | None = None

    def calibration(self, source: str) -> Iterable[Batch]:
        """The samples, for pass ``source`` that cannot do without; :class:`UsageError` where there are none."""
        if self.samples is None:
            raise UsageError("calibration needs samples", where=f"pass {source}", remedy="pass samples (--data)")
        return self.samples

    def collection(self, source: str, subjects: Iterable[Value | Op]) -> Collection:
        """What pass ``source`` gathers about ``subjects``: as far as a run before this one came, else nothing yet.

        Passes open their collections in an order that depends on nothing but the graph and the samples.
        """
        if self.checkpoint is None:
            return Collection()
        return self.checkpoint.open(source, map(_described, subjects))

    def note(self, source: str, layer: str, text: str) -> None:
        """Record a remark about a layer."""
        self.notes.append(Note(source, layer, text))


def _described(subject: Value | Op) -> str:
    return f"{subject.name}: {subject.type}" if isinstance(subject, Value) else layer_name(subject)


@dataclass(frozen=True)
class Pass(ABC):
    """A graph transformation: a frozen dataclass whose fields are its options. Subclasses are registered.

    ``packages`` are imported where there is something to do, beyond what amctc depends on: an extra installs them, and
    without them the pass raises :class:`UnsupportedError`.
    """

    name: ClassVar[str]
    contract: ClassVar[Contract]
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """The transformed graph; ``graph`` itself when there is nothing to do."""

    @property
    def spec(self) -> PassSpec:
        """The pass as text: its name and the options that differ from their defaults."""
        return PassSpec(self.name, option_values(self))


Validator = Callable[[Pass, Graph, Graph, Sequence[Application], Context], None]
"""Told of a pass, the graphs before and after it, and the rewrites it applied; raises if they do not agree."""


@dataclass(frozen=True)
class PatternPass(Pass):
    """A pass that applies rewrites until none fires."""

    def rewrites(self) -> tuple[Rewrite, ...]:
        """The rewrites, tried in order at every op."""
        raise NotImplementedError

    def run(self, graph: Graph, context: Context) -> Graph:
        """Apply the rewrites to a fixpoint."""
        return apply_rewrites(graph, self.rewrites(), context.log)


@dataclass(frozen=True)
class Repeat:
    """Passes run in order until a whole round leaves the graph as it is."""

    body: tuple[Pass | Repeat, ...]

    @property
    def spec(self) -> RepeatSpec:
        """The repetition as text."""
        return RepeatSpec(tuple(p.spec for p in self.body))


_passes: dict[str, type[Pass]] = {}
P = TypeVar("P", bound=type[Pass])


def register(kind: P) -> P:
    """Class decorator: make a pass known by its name in this process (installed ones come by entry point)."""
    known = _passes.get(kind.name)
    if known is not None and known.__qualname__ != kind.__qualname__:
        raise ValueError(f"two passes are named {kind.name!r}")
    _passes[kind.name] = kind
    return kind


@functools.cache
def installed(group: str) -> dict[str, metadata.EntryPoint]:
    """Entry points of a group by name (``amctc.passes``, ``amctc.rewrites``, ``amctc.presets``)."""
    return {e.name: e for e in metadata.entry_points(group=group)}


def pass_names() -> list[str]:
    """Names of all passes that can be used, sorted."""
    return sorted({*_passes, *installed("amctc.passes")})


def pass_class(name: str) -> type[Pass]:
    """The pass of that name; :class:`UsageError` with the nearest names for an unknown one."""
    if name not in _passes:
        if name not in installed("amctc.passes"):
            near = difflib.get_close_matches(name, pass_names(), 3, 0.5)
            remedy = f"did you mean {' or '.join(near)}?" if near else "`amctc passes` lists them"
            raise UsageError(f"unknown pass {name!r}", remedy=remedy)
        register(installed("amctc.passes")[name].load())
    return _passes[name]


@dataclass(frozen=True)
class PassRecord:
    """What one run of a pass did: ops before and after, rewrites fired by name, seconds."""

    name: str
    ops_before: int
    ops_after: int
    rewrites: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class PipelineResult:
    """The final graph, a record per pass, the notes, and, when traced, the graph after each pass."""

    graph: Graph
    report: tuple[PassRecord, ...]
    notes: tuple[Note, ...]
    trace: tuple[tuple[str, Graph], ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes."""

    passes: tuple[Pass | Repeat, ...]

    @staticmethod
    def parse(text: str) -> Pipeline:
        """The pipeline of a text; :class:`UsageError` marks the column of an unknown pass or a bad option."""
        return Pipeline(tuple(_made(spec, text) for spec in parse_specs(text)))

    def __str__(self) -> str:
        return print_specs(tuple(p.spec for p in self.passes))

    def run(self, graph: Graph, context: Context | None = None) -> PipelineResult:
        """Run all passes. Errors name the pass; a broken contract is an error of the pass, not of the graph."""
        context = context or Context()
        records: list[PassRecord] = []
        trace: list[tuple[str, Graph]] = []
        for item in self.passes:
            graph = _run(item, graph, context, records, trace)
        return PipelineResult(graph, tuple(records), tuple(context.notes), tuple(trace))


def _made(spec: Spec, text: str) -> Pass | Repeat:
    if isinstance(spec, RepeatSpec):
        return Repeat(tuple(_made(s, text) for s in spec.body))
    try:
        kind = pass_class(spec.name)
    except UsageError as error:
        raise marked(text, spec.column, error.what, error.remedy) from None
    fields = {f.name.replace("_", "-"): f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for (key, value), column in zip(spec.options, spec.option_columns or (0,) * len(spec.options), strict=True):
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 2, 0.5)
            known = ", ".join(fields) or "none"
            remedy = f"did you mean {' or '.join(near)}?" if near else f"its options are: {known}"
            raise marked(text, column, f"pass {spec.name!r} has no option {key!r}", remedy)
        try:
            values[fields[key].name] = converted(kind, fields[key].name, value)
        except ValueError as error:
            raise marked(text, column, f"option {key!r} of {spec.name!r} {error}", describe_options(kind)) from None
    try:
        return kind(**values)
    except TypeError:
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.name not in values]
        raise marked(text, spec.column, f"pass {spec.name!r} needs option {', '.join(missing)}") from None
    except ValueError as error:
        raise marked(text, spec.column, f"pass {spec.name!r}: {error}") from None
    except UsageError as error:
        raise marked(text, spec.column, f"pass {spec.name!r}: {error.what}", error.remedy) from None


def _run(
    item: Pass | Repeat, graph: Graph, context: Context, records: list[PassRecord], trace: list[tuple[str, Graph]]
) -> Graph:
    if isinstance(item, Pass):
        return _run_pass(item, graph, context, records, trace)
    for _ in range(MAX_REPEATS):
        before = graph
        for inner in item.body:
            graph = _run(inner, graph, context, records, trace)
        if graph is before:
            return graph
    raise LimitError(f"repeat({print_specs(item.spec.body)}) still changes the graph after {MAX_REPEATS} rounds")


def _run_pass(
    item: Pass, graph: Graph, context: Context, records: list[PassRecord], trace: list[tuple[str, Graph]]
) -> Graph:
    contract = item.contract
    for fact in contract.requires:
        if (violation := fact.violation(graph)) is not None:
            raise UsageError(f"the graph is not {fact}: {violation}", where=f"pass {item.name}",
                             remedy="put the pass that ensures it earlier in the pipeline")  # fmt: skip
    kept = [f for f in contract.keeps if context.verify and f.violation(graph) is None]
    start, fired, applied = time.perf_counter(), context.log.counts(), len(context.log.applications)
    with collector_paused() if isinstance(item, PatternPass) else contextlib.nullcontext():
        try:
            result = item.run(graph, context)
            if context.verify and result is not graph:
                verify(result)
        except AmctcError as error:
            raise error.located(f"pass {item.name}") from None
        if context.verify:
            for fact in (*contract.ensures, *kept):
                if (violation := fact.violation(result)) is not None:
                    raise AmctcError(f"pass {item.name} broke its contract: not {fact}: {violation}")
    seconds = time.perf_counter() - start
    if context.validate is not None and result is not graph:
        context.validate(item, graph, result, context.log.applications[applied:], context)
    counts = {n: c - fired.get(n, 0) for n, c in context.log.counts().items() if c > fired.get(n, 0)}
    records.append(PassRecord(item.name, len(graph.ops), len(result.ops), counts, seconds))
    if context.trace:
        trace.append((item.name, result))
    return result
