"""Hypothesis strategies: types, arrays, ops and random float graphs. All build forward; nothing is filtered."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from amctc.ir import Graph, Op, Result, Value, constant_data
from amctc.schema import OpKind
from amctc.testing.arrays import draw_recipe, filled
from amctc.testing.samplers import Wanted, draw_sample, draw_type, free_operands
from amctc.testing.source import HypothesisSource, Source, Unfit
from amctc.testing.workbench import CONTEXT, Workbench
from amctc.types import F32, Array, ScalarType, TensorType


@st.composite
def types(draw: DrawFn, *, elem: ScalarType = F32, min_rank: int = 1, max_rank: int = 4) -> TensorType:
    """Tensor types of small dimensions, the first one sometimes the symbol ``N``."""
    return draw_type(HypothesisSource(draw), elem, min_rank, max_rank)


@st.composite
def arrays(draw: DrawFn, type_: TensorType, *, nonnegative: bool = False) -> Array:
    """Arrays of a tensor type, symbols standing for 2: normal numbers, zeros, tiny, large, one dominating channel."""
    return filled(type_, draw_recipe(HypothesisSource(draw)), nonnegative=nonnegative)


@st.composite
def ops(draw: DrawFn, kind: type[OpKind], *, elem: ScalarType = F32) -> Op:
    """Ops of a kind that has a sampler, on graph inputs and constants."""
    op, _ = draw(_single_ops(kind, elem))
    return op


@st.composite
def op_graphs(draw: DrawFn, kind: type[OpKind], *, elem: ScalarType = F32) -> Graph:
    """Graphs of one op of a kind that has a sampler; constants are its only other ops."""
    op, bench = draw(_single_ops(kind, elem))
    return bench.graph(op.results)


@st.composite
def _single_ops(draw: DrawFn, kind: type[OpKind], elem: ScalarType) -> tuple[Op, Workbench]:
    source = HypothesisSource(draw)
    bench = Workbench(source)
    try:
        sample, _ = draw_sample(source, kind, Wanted(free_operands(source, kind), None, elem))
    except Unfit:
        reject()
    return bench.supplied(sample, ()).op, bench


@st.composite
def graphs(draw: DrawFn, *, max_ops: int = 8, kinds: Sequence[type[OpKind]] = CONTEXT) -> Graph:
    """Random float graphs: several inputs and outputs, values read more than once, shared constants, no dead ends.

    Every op reads a value that exists already where one fits, now and then a constant alone; a value that nothing reads
    becomes an output, and so do some that are read. Some inputs have a default.
    """
    source = HypothesisSource(draw)
    bench = Workbench(source)
    first = draw_type(source, F32, 2, 4)
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
    kind = source.choice(kinds)
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
