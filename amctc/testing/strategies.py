"""Hypothesis strategies: types, arrays, ops and random graphs. All build forward; nothing is filtered."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from amctc.ir import Graph, Op
from amctc.schema import OpKind
from amctc.testing.arrays import draw_recipe, filled
from amctc.testing.random_graphs import random_graph
from amctc.testing.samplers import Wanted, draw_sample, draw_type, free_operands
from amctc.testing.source import HypothesisSource, Unfit
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
def graphs(
    draw: DrawFn, *, max_ops: int = 8, kinds: Sequence[type[OpKind]] = CONTEXT, elems: Sequence[ScalarType] = (F32,),
) -> Graph:  # fmt: skip
    """Random float graphs as :func:`amctc.testing.random_graph` makes them, shrinking towards few ops and small sizes.

    ``elems`` are the element types to begin with.
    """
    return random_graph(HypothesisSource(draw), max_ops=max_ops, kinds=kinds, elems=elems)
