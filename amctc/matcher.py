"""The matcher: finds what a pattern describes, trying operand orders and choices, and can say why it did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from amctc.analysis import Use, use_counts, uses
from amctc.ir import Graph, Op, Value, constant_data
from amctc.pattern import AnyValue, Bindings, Either, Match, Number, OpPattern, Pattern, Weight
from amctc.schema import Trait

_Goal: TypeAlias = tuple[Pattern[Any], "Value | None", bool]
"""A pattern to match, the value to match it with, and whether that is the root."""


@dataclass(frozen=True)
class Mismatch:
    """Why a match failed: where the furthest attempt stopped. ``progress`` counts the ops matched before."""

    progress: int
    reason: str
    value: Value | None = None


class Matcher:
    """Matches patterns in one graph. ``explain`` makes failures remember their reasons, which costs time."""

    def __init__(self, graph: Graph, explain: bool = False) -> None:
        self._graph, self._explain = graph, explain
        self.nearest: Mismatch | None = None

    def match(self, pattern: OpPattern[Any], value: Value) -> Match | None:
        """The first match of ``pattern`` with its root at ``value``, operand orders tried left to right."""
        self.nearest = None
        if pattern.has_choices or self._explain:
            for bindings in self._solve([(pattern, value, True)], {}):
                return Match(pattern, bindings)
            return None
        found: Bindings = {}
        return Match(pattern, found) if self._binds(pattern, value, found) else None

    def _binds(self, pattern: Pattern[Any], value: Value | None, bindings: Bindings) -> bool:
        """Whether a pattern without choices matches: there is one way then, and ``bindings`` gets it. Deep as it."""
        if pattern in bindings:
            return bindings[pattern] is value
        if not isinstance(pattern, OpPattern):
            bindings[pattern] = value
            return self._mismatch(pattern, value) is None
        op = self._produced(pattern, value, bindings)
        if op is None:
            return False
        bindings[pattern] = value
        for index, operand in enumerate(pattern.operands or ()):
            if not self._binds(operand, op.operands[index] if index < len(op.operands) else None, bindings):
                return False
        return True

    def _fail(self, bindings: Bindings, reason: Callable[[], str], value: Value | None) -> None:
        if self._explain:
            progress = sum(isinstance(p, OpPattern) for p in bindings)
            if self.nearest is None or progress > self.nearest.progress:
                self.nearest = Mismatch(progress, reason(), value)

    def _solve(self, goals: list[_Goal], bindings: Bindings) -> Iterator[Bindings]:
        """Generate the bindings that satisfy all goals (pattern, value, is the root), depth first with backtracking."""
        if not goals:
            yield bindings
            return
        (pattern, value, root), *rest = goals
        if pattern in bindings:
            if bindings[pattern] is value:
                yield from self._solve(rest, bindings)
            else:
                self._fail(bindings, lambda: f"{pattern.described()} appears twice with different values", value)
            return
        for extended, more in self._candidates(pattern, value, root, bindings):
            yield from self._solve(more + rest, extended)

    def _candidates(
        self, pattern: Pattern[Any], value: Value | None, root: bool, bindings: Bindings
    ) -> Iterator[tuple[Bindings, list[_Goal]]]:
        """Ways to match one pattern: the bindings with it, and the goals that its operands add."""
        bound = {**bindings, pattern: value}
        if isinstance(pattern, OpPattern):
            if (produced := self._produced(pattern, value, bindings)) is not None:
                if pattern.operands is None:
                    yield bound, []
                    return
                for operands in _orders(produced, len(pattern.operands)):
                    yield bound, [(p, v, False) for p, v in zip(pattern.operands, operands, strict=True)]
        elif isinstance(pattern, Either):
            for choice in pattern.choices:
                yield bound, [(choice, value, root)]
        elif (wanted := self._mismatch(pattern, value)) is None:
            yield bound, []
        else:
            self._fail(bindings, lambda: f"{pattern.described()} is {_found(value)}, not {wanted}", value)

    @staticmethod
    def _mismatch(pattern: Pattern[Any], value: Value | None) -> str | None:
        """What ``value`` is not but should be for a pattern that stands for no op; ``None`` where it fits."""
        if isinstance(pattern, AnyValue):
            if value is None:
                return None if pattern.optional else "present"
            if pattern.constant is None or pattern.constant == (constant_data(value) is not None):
                return None
            return "a constant" if pattern.constant else "computed"
        if isinstance(pattern, Weight):
            return None if constant_data(value) is not None or (value is None and pattern.optional) else "a constant"
        assert isinstance(pattern, Number)
        return None if pattern.read(value) is not None else "that number"

    def _produced(self, pattern: OpPattern[Any], value: Value | None, bindings: Bindings) -> Op | None:
        """The op that makes ``value``, if it fits the pattern apart from its operands."""
        op = None if value is None else value.producer
        if op is None or not isinstance(op.kind, pattern.kinds) or len(op.results) != 1:
            self._fail(bindings, lambda: f"{pattern.described()} expected, found {_found(value)}", value)
            return None
        assert value is not None
        if pattern.operands is not None and len(op.operands) > len(pattern.operands):
            named = len(pattern.operands)
            self._fail(bindings, lambda: f"{_found(value)} has {len(op.operands)} operands, not {named}", value)
            return None
        if (refusal := pattern.refusal(op.kind)) is not None:
            self._fail(bindings, lambda: f"{_found(value)}: wanted {refusal}", value)
            return None
        if pattern.uses is not None and (used := use_counts(self._graph).get(value, 0)) != pattern.uses:
            plural = "" if used == 1 else "s"
            self._fail(bindings, lambda: f"{_found(value)} has {used} use{plural}, not {pattern.uses}", value)
            return None
        if pattern.readers is not None:
            read = uses(self._graph).get(value, ())
            other = next((u for u in read if u.op is None or not isinstance(u.op.kind, pattern.readers)), None)
            if other is not None:
                self._fail(bindings, lambda: f"{_found(value)} {_reading(other)}", value)
                return None
        return op


def _orders(op: Op, count: int) -> list[tuple[Value | None, ...]]:
    """Operand tuples to try, absent trailing operands filled in."""
    operands = op.operands + (None,) * (count - len(op.operands))
    if Trait.COMMUTATIVE in op.kind.traits and operands[0] is not operands[1]:
        return [operands, (operands[1], operands[0], *operands[2:])]
    return [operands]


def _reading(use: Use) -> str:
    return "is a graph output" if use.op is None else f"is read by {_found(use.op.results[0])}"


def _found(value: Value | None) -> str:
    if value is None:
        return "nothing"
    if value.producer is None:
        return f"graph input %{value.name}"
    origin = value.producer.origins
    return value.producer.kind.op_name + (f" ({origin[0].name})" if origin else "")
