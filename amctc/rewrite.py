"""The rewrite engine: match on a snapshot, rebuild once, repeat to a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from amctc.collector import collector_paused
from amctc.contract import Effect, Rounding
from amctc.errors import AmctcError, LimitError
from amctc.ir import Graph, Op, Value, layer_name, provenance
from amctc.matcher import Matcher
from amctc.pattern import Match, NoMatch, OpPattern
from amctc.substitute import substitute
from amctc.text import excerpt
from amctc.types import merge_types

RewriteFunction = Callable[[Match], Value]


@dataclass(frozen=True, eq=False)
class Rewrite:
    """A pattern and what to put in place of its root. ``effect`` bounds how far one application moves the result."""

    name: str
    pattern: OpPattern[Any]
    function: RewriteFunction
    effect: Effect
    doc: str

    def __call__(self, match: Match) -> Value:
        """The value that replaces the root of ``match``."""
        return self.function(match)


def rewrite(pattern: OpPattern[Any], *, effect: Effect | None = None) -> Callable[[RewriteFunction], Rewrite]:
    """Decorator: make a rewrite of a function from a match to the replacing value.

    The function declines with :class:`~amctc.pattern.NoMatch`. Its docstring's first line documents the rewrite.
    """

    def wrap(function: RewriteFunction) -> Rewrite:
        doc = (function.__doc__ or "").strip()
        return Rewrite(function.__name__, pattern, function, effect or Rounding(), doc.split("\n")[0])

    return wrap


@dataclass(frozen=True)
class Application:
    """One application of a rewrite: the match, and the value that replaced its root."""

    rule: Rewrite
    match: Match
    replacement: Value

    def __str__(self) -> str:
        root = self.match.value(self.match.root).producer
        return f"rewrite {self.rule.name} at {layer_name(root) if root is not None else 'an input'}"


@dataclass
class RewriteLog:
    """What an engine run did: every application, and every decline as (rule name, layer, reason).

    Nothing fires once there are ``budget`` applications. They come in an order that only the graph determines, so the
    first n are the same under every budget: :mod:`amctc.bisection` searches for one by it.
    """

    applications: list[Application] = field(default_factory=list)
    declined: dict[tuple[str, str], str] = field(default_factory=dict)
    budget: int | None = None

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and len(self.applications) >= self.budget

    def counts(self) -> dict[str, int]:
        """Applications per rewrite name."""
        found: dict[str, int] = {}
        for application in self.applications:
            found[application.rule.name] = found.get(application.rule.name, 0) + 1
        return found


class _Index(dict[type, tuple[Rewrite, ...]]):
    """Rules by the op kind at their root, so that most ops are rejected by one dictionary look-up."""

    def __init__(self, rules: Sequence[Rewrite]) -> None:
        super().__init__()
        self._rules = rules

    def __missing__(self, kind: type) -> tuple[Rewrite, ...]:
        self[kind] = tuple(r for r in self._rules if issubclass(kind, r.pattern.kinds))
        return self[kind]


def apply_rewrites(
    graph: Graph, rules: Sequence[Rewrite], log: RewriteLog | None = None, *, limit: int | None = None
) -> Graph:
    """``graph`` with ``rules`` applied until none fires; the same object when none does.

    At most ``limit`` applications (default: 1000 and 8 per op) in at most :data:`MAX_SWEEPS` sweeps: past it,
    :class:`LimitError` names the last rules.
    """
    log = RewriteLog() if log is None else log
    index = _Index(rules)
    limit = 1000 + 8 * len(graph.ops) if limit is None else limit
    start = len(log.applications)
    for _ in range(MAX_SWEEPS):
        with collector_paused():
            replacements = _sweep(graph, index, log)
            if not replacements:
                return graph
            if len(log.applications) - start > limit:
                break
            graph = substitute(graph, replacements)
    last = dict.fromkeys(a.rule.name for a in log.applications[-20:])
    raise LimitError(
        f"rewrites still fire after {len(log.applications) - start} applications; the last were {', '.join(last)}",
        remedy="two rules undo each other, or one matches its own result",
    )


MAX_SWEEPS = 256
"""A sweep applies every match that shares no op with another, so even long chains of matches settle in a few."""


def _sweep(graph: Graph, index: _Index, log: RewriteLog) -> dict[Value, Value]:
    """All matches of one snapshot that do not share an op, in topological order of their roots."""
    matcher = Matcher(graph, explain=False)
    claimed: set[Op] = set()
    replacements: dict[Value, Value] = {}
    for op in graph.ops:
        for rule in index[type(op.kind)]:
            if len(op.results) != 1 or op in claimed:
                continue
            match = matcher.match(rule.pattern, op.result)
            if match is None or not claimed.isdisjoint(match.ops):
                continue
            if log.is_spent:
                return replacements
            replacement = _fire(graph, rule, match, log)
            if replacement is not None:
                claimed.update(match.ops)
                replacements[op.result] = replacement
                break
    return replacements


def _fire(graph: Graph, rule: Rewrite, match: Match, log: RewriteLog) -> Value | None:
    """The replacement of the root, checked; ``None`` when the rule declines."""
    root = match.value(match.root)
    assert root.producer is not None
    try:
        with provenance(match.origins):
            replacement = rule(match)
        merge_types(root.type, replacement.type)
    except NoMatch as declined:
        log.declined[rule.name, layer_name(root.producer)] = str(declined)
        return None
    except AmctcError as error:
        where = f"rewrite {rule.name} at {layer_name(root.producer)}"
        raise type(error)(
            error.what, where=where, rule=error.rule, remedy=error.remedy, detail=excerpt(graph, root.producer)
        ) from error
    if replacement is root:
        return None
    log.applications.append(Application(rule, match, replacement))
    return replacement


@dataclass(frozen=True)
class Explanation:
    """Outcome of a rule at one op of its root kind: ``reason`` is empty where it fires."""

    layer: str
    fires: bool
    reason: str


def explain(graph: Graph, rule: Rewrite) -> Iterator[Explanation]:
    """For every op of the rule's root kind, whether the rule fires there and, if not, the nearest miss."""
    matcher = Matcher(graph, explain=True)
    for op in graph.ops:
        if not isinstance(op.kind, rule.pattern.kinds) or len(op.results) != 1:
            continue
        match = matcher.match(rule.pattern, op.result)
        if match is None:
            yield Explanation(layer_name(op), False, matcher.nearest.reason if matcher.nearest else "no match")
            continue
        yield _explained(graph, rule, match, layer_name(op))


def _explained(graph: Graph, rule: Rewrite, match: Match, layer: str) -> Explanation:
    log = RewriteLog()
    try:
        fires = _fire(graph, rule, match, log) is not None
    except AmctcError as error:
        return Explanation(layer, False, f"the rule fails: {error.what}")
    return Explanation(layer, fires, "" if fires else next(iter(log.declined.values()), "the result is unchanged"))
