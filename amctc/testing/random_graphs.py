"""Random graphs from any source of choices: Hypothesis, which shrinks them, or a seed, which draws them cheaply."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Set

from amctc.ir import Graph, Result, Value, constant_data
from amctc.pattern import Either, OpPattern, Pattern
from amctc.pipeline import installed
from amctc.rewrite import Rewrite
from amctc.schema import OpKind
from amctc.testing.samplers import Wanted, draw_sample, draw_type, free_operands
from amctc.testing.source import Source, Unfit
from amctc.testing.workbench import CONTEXT, Workbench
from amctc.types import F32, ScalarType


def random_graph(
    source: Source, *, max_ops: int = 8, kinds: Sequence[type[OpKind]] = CONTEXT, elems: Sequence[ScalarType] = (F32,)
) -> Graph:
    """A graph of several inputs and outputs, values read more than once, shared constants, no dead ends.

    Every op reads a value that exists already where one fits, now and then a constant alone; a value that nothing reads
    becomes an output, and so do some that are read. Every other op is of a kind that a pattern of some installed
    rewrite expects after the one it reads, where ``kinds`` has one. Some inputs have a default.
    """
    bench = Workbench(source)
    first = draw_type(source, source.choice(elems), 2, 4)
    made: list[Value] = [bench.input(first, bench.constant(first) if first.is_static and source.flip(0.05) else None)]
    for _ in range(source.integer(1, max_ops)):
        made.append(_another(source, bench, made, kinds))
        made += [i for i in bench.inputs if i not in made]
    read = {o for v in made if v.producer is not None for o in v.producer.operands}
    results = [v for v in made if isinstance(v, Result)]
    return bench.graph([v for v in results if v not in read or source.flip(0.12)])


def _another(source: Source, bench: Workbench, made: list[Value], kinds: Sequence[type[OpKind]]) -> Value:
    """An op on one of the newest values, its other operands existing values of the right type where there are any."""
    base = made[-1] if source.flip(0.6) else source.choice(made[::-1])
    if base.type.is_static and source.flip(0.05):
        base = bench.constant(base.type)
    kind = source.choice(_next(base, kinds) if source.flip() else kinds)
    try:
        sample, _ = draw_sample(source, kind, Wanted(free_operands(source, kind, base.type)))
    except Unfit:
        return bench.follow(base, kinds)
    given = [base]
    for type_ in sample.operands[1:]:
        alike = [v for v in made if v.type == type_ and constant_data(v) is None and None not in v.type.dims]
        if type_ is None or not alike or not source.flip():
            break
        given.append(source.choice(alike))
    return bench.supplied(sample, given)


def _next(base: Value, kinds: Sequence[type[OpKind]]) -> Sequence[type[OpKind]]:
    """Those of ``kinds`` that patterns expect after the op of ``base``, all where they expect none."""
    expected = _pairs().get(type(base.producer.kind), frozenset()) if base.producer is not None else frozenset()
    return [k for k in kinds if k in expected] or kinds


@functools.cache
def _pairs() -> Mapping[type[OpKind], Set[type[OpKind]]]:
    """Per op kind those that read it in a pattern of an installed rewrite.

    Two ops drawn independently are seldom such a pair, and rewrites are wrong about pairs in an unusual context.
    """
    found: dict[type[OpKind], set[type[OpKind]]] = {}
    for entry in installed("amctc.rewrites").values():
        rule = entry.load()
        assert isinstance(rule, Rewrite)
        stack: list[Pattern[object]] = [rule.pattern]
        while stack:
            reader = stack.pop()
            if not isinstance(reader, OpPattern):
                continue
            for operand in reader.operands or ():
                for read in operand.choices if isinstance(operand, Either) else (operand,):
                    stack.append(read)
                    for kind in read.kinds if isinstance(read, OpPattern) else ():
                        found.setdefault(kind, set()).update(reader.kinds)
    return found
