"""Analyses: facts about values and graphs, computed once and never invalidated by hand.

Graphs and values are immutable, so a fact stays true. A *forward* fact of a value follows from its producer and its
operands' facts; it is remembered per value, across graphs. A *backward* fact needs the whole graph and is remembered
with it.
"""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from amctc.intervals import EVERYTHING, RANGES, Interval, activated
from amctc.ir import Graph, Op, Value, constant_data
from amctc.schema import Trait

__all__ = ["EVERYTHING", "Interval", "Use", "backward", "forward", "is_identity", "use_counts", "uses", "value_range"]

T = TypeVar("T")


def backward(function: Callable[[Graph], T]) -> Callable[[Graph], T]:
    """Decorator: compute a fact of a graph once."""

    @functools.wraps(function)
    def remembered(graph: Graph) -> T:
        if function not in graph._memo:
            graph._memo[function] = function(graph)
        fact: T = graph._memo[function]
        return fact

    return remembered


def forward(function: Callable[[Value, tuple[T, ...]], T]) -> Callable[[Value], T]:
    """Decorator: compute a fact of a value from its operands' facts, once per value and without recursion.

    The function gets the value and the facts of its producer's present operands (none for a graph input).
    """
    facts: weakref.WeakKeyDictionary[Value, T] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembered(value: Value) -> T:
        stack = [value]
        while stack:
            top = stack[-1]
            operands = [] if top.producer is None else [o for o in top.producer.operands if o is not None]
            missing = [] if top in facts else [o for o in operands if o not in facts]
            if missing:
                stack.extend(missing)
                continue
            if top not in facts:
                facts[top] = function(top, tuple(facts[o] for o in operands))
            stack.pop()
        return facts[value]

    return remembered


class Use(NamedTuple):
    """One reading of a value: operand number ``position`` of ``op``, or a graph output where ``op`` is ``None``."""

    op: Op | None
    position: int


@backward
def use_counts(graph: Graph) -> Mapping[Value | None, int]:
    """How often each value is read, graph outputs included: the lengths of :func:`uses`, for much less time."""
    return Counter(itertools.chain(itertools.chain.from_iterable([op.operands for op in graph.ops]), graph.outputs))


@backward
def uses(graph: Graph) -> dict[Value, tuple[Use, ...]]:
    """Every use of every value, graph outputs included, in topological order of the users."""
    found: dict[Value, list[Use]] = {}
    for op in graph.ops:
        for index, operand in enumerate(op.operands):
            if operand is not None:
                found.setdefault(operand, []).append(Use(op, index))
    for index, value in enumerate(graph.outputs):
        found.setdefault(value, []).append(Use(None, index))
    return {value: tuple(list_) for value, list_ in found.items()}


@forward
def value_range(value: Value, operands: tuple[Interval, ...]) -> Interval:
    """Interval analysis of a value: what its producer alone guarantees, whatever is fed."""
    op = value.producer
    if op is None:
        return EVERYTHING
    if (data := constant_data(value)) is not None:
        return _constant_range(value) if data.size and data.nbytes <= 1 << 20 else EVERYTHING
    if getattr(op.kind, "activation", None) is not None:
        return activated(op.kind.activation, EVERYTHING)  # type: ignore[attr-defined]
    rule = RANGES.get(type(op.kind))
    if rule is None:
        return operands[0] if is_identity(op) else EVERYTHING
    found = rule(op, operands)
    return EVERYTHING if any(map(math.isnan, found)) else found  # infinite constants of two signs were added


def _constant_range(value: Value) -> Interval:
    data = constant_data(value)
    assert data is not None
    if not value.type.is_float:
        return EVERYTHING
    array = data.read().astype(np.float64)
    low, high = float(array.min()), float(array.max())
    return EVERYTHING if math.isnan(low + high) else Interval(low, high)


def is_identity(op: Op) -> bool:
    """True for ops that return their first operand."""
    return Trait.IDENTITY in op.kind.traits
