"""Directed drawing: graphs that contain an instance of a pattern, in a random context, sometimes perturbed.

Random graphs almost never trigger a rule; these do, and the perturbations are the situations in which rewrites of real
tools go wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from amctc.analysis import uses
from amctc.errors import UsageError
from amctc.ir import Graph, Value, const, constant_data
from amctc.pattern import AnyValue, Number, OpPattern, Pattern, Weight
from amctc.schema import Trait
from amctc.testing.arrays import concrete_shape
from amctc.testing.blueprints import Blueprint, Samplers, draw_blueprint
from amctc.testing.source import HypothesisSource, SeededSource, Source, Unfit
from amctc.testing.workbench import CONTEXT, Workbench, transplant
from amctc.text import print_graph
from amctc.types import F32, ScalarType

NONE, READER, OUTPUT, TWIN, NEAR_MISS = "none", "another reader", "interior output", "shared weights", "near miss"
PERTURBATIONS = (NONE, NONE, NONE, NONE, NONE, READER, OUTPUT, TWIN, TWIN, NEAR_MISS)
"""How an instance may be perturbed; unperturbed ones are the most, so that rules fire."""

NUMBERS = (1.0, 0.5, 3.0, 2.0**-17, 6.0, 0.0, -2.0)
"""What a pattern of any number is given: factors, bounds, an epsilon."""


@dataclass(frozen=True, eq=False)
class Instance:
    """A graph with an instance of ``pattern`` at ``root``, and which ``perturbation`` it got.

    ``none``: a clean instance. ``another reader``, ``interior output``: a value inside it is used by something else
    too. ``shared weights``: a second instance has the same constants. ``near miss``: an op inside is another one, or
    a weight is a graph input.
    """

    graph: Graph
    pattern: OpPattern[Any]
    root: Value
    perturbation: str

    def __repr__(self) -> str:
        return f"Instance({self.perturbation!r})\n{print_graph(self.graph, elide=True)}"


def instances(
    pattern: OpPattern[Any], *, elems: Sequence[ScalarType] = (F32,), samplers: Samplers | None = None
) -> SearchStrategy[Instance]:
    """A strategy for :class:`Instance` of ``pattern``.

    ``elems`` are the element types to draw where the pattern leaves them open. ``samplers`` replace the registered ones
    for an op pattern or op kind. Raises :class:`UsageError` when no instance can be drawn (a ``where=`` that the
    samplers never meet, an op kind without a sampler).
    """
    draw_blueprint(SeededSource(0), pattern, samplers or {}, elems[0])
    return _instances(pattern, tuple(elems), samplers or {})


@st.composite
def _instances(draw: DrawFn, pattern: OpPattern[Any], elems: tuple[ScalarType, ...], samplers: Samplers) -> Instance:
    try:
        return draw_instance(HypothesisSource(draw), pattern, elems=elems, samplers=samplers)
    except (Unfit, UsageError):
        reject()


def draw_instance(
    source: Source, pattern: OpPattern[Any], *, elems: Sequence[ScalarType] = (F32,), samplers: Samplers | None = None,
    perturbations: Sequence[str] = PERTURBATIONS,
) -> Instance:  # fmt: skip
    """One instance from any source of choices; :class:`Unfit` or :class:`UsageError` where the draw comes to no end."""
    blueprint = draw_blueprint(source, pattern, samplers or {}, source.choice(elems))
    return _assemble(source, pattern, blueprint, source.choice(perturbations))


def _assemble(source: Source, pattern: OpPattern[Any], blueprint: Blueprint, perturbation: str) -> Instance:
    assembly = _Assembly(Workbench(source), blueprint, pattern)
    if perturbation == NEAR_MISS and not assembly.spoil():
        perturbation = NONE
    root = assembly.value(pattern)
    assert root is not None
    outputs = assembly.context(root)
    interior = [v for p, v in assembly.values.items() if isinstance(p, OpPattern) and v is not None and v is not root]
    if perturbation in (READER, OUTPUT):
        if interior:
            chosen = source.choice(interior)
            outputs.append(assembly.bench.follow(chosen) if perturbation == READER else chosen)
        else:
            perturbation = NONE
    elif perturbation == TWIN:
        leaves = {v: assembly.bench.input(v.type) for v in assembly.open_leaves}
        outputs.append(transplant(root, dict(leaves)))
    return Instance(assembly.bench.graph(outputs), pattern, root, perturbation)


class _Assembly:
    """Builds the values of a blueprint."""

    def __init__(self, bench: Workbench, blueprint: Blueprint, pattern: OpPattern[Any]) -> None:
        self.bench, self._blueprint, self._root = bench, blueprint, pattern
        self.values: dict[Pattern[Any], Value | None] = {}
        self._spoiled: Pattern[Any] | None = None

    def spoil(self) -> bool:
        """Choose an op inside or a weight that will be something else; False where there is none."""
        present = [p for p, t in self._blueprint.types.items() if t is not None and p is not self._root]
        candidates = [p for p in present if isinstance(p, OpPattern | Weight | Number)]
        if not candidates:
            return False
        self._spoiled = self.bench.source.choice(candidates)
        return True

    def value(self, pattern: Pattern[Any]) -> Value | None:
        """The value of a pattern, operands first; ``None`` for an absent one."""
        pattern = self._blueprint.resolve(pattern)
        if pattern not in self.values:
            self.values[pattern] = self._made(pattern)
        return self.values[pattern]

    def _made(self, pattern: Pattern[Any]) -> Value | None:
        type_ = self._blueprint.types[pattern]
        if type_ is None:
            return None
        source = self.bench.source
        if (index_of := self._blueprint.index_of(pattern)) is not None:
            return self.bench.constant(type_, index_of=index_of)
        nonnegative = self._blueprint.is_nonnegative(pattern)
        if isinstance(pattern, Weight | Number):
            if isinstance(pattern, Number):
                made = const(np.full(concrete_shape(type_.dims, {}), self._number(pattern), type_.elem.dtype))
            else:
                made = self.bench.constant(type_, nonnegative=nonnegative)
            if pattern is not self._spoiled:
                return made
            return self.bench.input(type_, default=made if source.flip() else None)
        if pattern is self._spoiled:
            return self.bench.value(type_)
        if isinstance(pattern, OpPattern):
            operands = [self.value(p) for p in self._blueprint.operands[pattern]]
            kind = self._blueprint.samples[pattern].kind
            if Trait.COMMUTATIVE in kind.traits and source.flip():
                operands[:2] = operands[1::-1]
            return self.bench.apply(kind, *operands)
        assert isinstance(pattern, AnyValue)
        later = pattern.constant is None and self._blueprint.first_position(pattern) > 0 and type_.is_static
        if pattern.constant or (later and source.flip()):
            return self.bench.constant(type_, nonnegative=nonnegative)
        return self.bench.value(type_, constant=0.0 if pattern.constant is False else 0.05)

    def _number(self, pattern: Number) -> float:
        return self.bench.source.choice(NUMBERS) if pattern.value is None else pattern.value

    @property
    def open_leaves(self) -> list[Value]:
        """Values at leaves that are no constants."""
        found = [self.values[p] for p in self._blueprint.leaves if p in self.values]
        return list(dict.fromkeys(v for v in found if v is not None and constant_data(v) is None))

    def context(self, root: Value) -> list[Value]:
        """Outputs that use ``root`` as its pattern allows: an op after it, another instance on top, other branches."""
        bench, source = self.bench, self.bench.source
        tail, outputs = root, list[Value]()
        fitting = [v for v in self.open_leaves if v.type == root.type]
        readers = self._root.readers
        if fitting and readers is None and source.flip(0.15):
            tail = transplant(root, {source.choice(fitting): root})
        if readers is not None or source.flip():
            tail = bench.follow(tail, readers if readers is not None and tail is root else CONTEXT)
        outputs.append(tail)
        if readers is None and self._root.uses is None and source.flip(0.1):
            outputs.append(root)
        if bench.inputs and source.flip(0.25):
            outputs.insert(source.integer(0, len(outputs)), bench.follow(source.choice(bench.inputs)))
        return outputs + self._missing_uses(outputs)

    def _missing_uses(self, outputs: list[Value]) -> list[Value]:
        """Further readers where a pattern asks for more uses than its instance has."""
        added: list[Value] = []
        counts = uses(self.bench.graph(outputs))
        for pattern, value in self.values.items():
            if isinstance(pattern, OpPattern) and pattern.uses is not None and value is not None:
                missing = pattern.uses - len(counts.get(value, ()))
                added += [self.bench.follow(value, pattern.readers or CONTEXT) for _ in range(missing)]
        return added
