"""Make a graph smaller while it stays interesting: delta debugging (Zeller, Hildebrandt 2002) on ops, sizes, contents.

A step that would leave an ill-typed graph cannot be built, so every candidate is a valid graph.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from amctc.data import ArrayData
from amctc.errors import AmctcError
from amctc.ir import Constant, Graph, GraphInput, Op, Value, build, const, constant_data
from amctc.schema import OpKind
from amctc.substitute import substitute
from amctc.types import TensorType

Predicate = Callable[[Graph], bool]
Candidate = Callable[[], Graph]
"""Builds a smaller graph; raises :class:`AmctcError` where there is no such graph."""


def reduced(graph: Graph, interesting: Predicate, *, stop: Callable[[], bool] = lambda: False) -> Graph:
    """The smallest graph found for which ``interesting`` holds; ``graph`` itself must be.

    Rounds of steps run until one finds nothing, or until ``stop`` says so. The result is one-minimal in ops: leaving
    out any one more is not interesting.
    """
    while True:
        before = graph
        for step in (
            fewer_outputs,
            shorter,
            values_to_inputs,
            ops_left_out,
            smaller_sizes,
            plain_attributes,
            plain_constants,
        ):
            graph = _exhausted(step, graph, interesting, stop)
        if graph is before or stop():
            return graph


Step = Callable[[Graph], Iterator[Candidate]]


def _exhausted(step: Step, graph: Graph, interesting: Predicate, stop: Callable[[], bool]) -> Graph:
    """``graph`` after all candidates of a step that are interesting; after each one the step starts anew."""
    found = True
    while found:
        found = False
        for candidate in step(graph):
            if stop():
                return graph
            try:
                smaller = _without_unread(candidate())
            except AmctcError:
                continue
            if smaller is not graph and interesting(smaller):
                graph, found = smaller, True
                break
    return graph


def _without_unread(graph: Graph) -> Graph:
    """Without the inputs that nothing reads, as long as one is left."""
    read = {o for op in graph.ops for o in op.operands} | set(graph.outputs)
    inputs = tuple(i for i in graph.inputs if i in read)
    return graph if inputs == graph.inputs or not inputs else _with_inputs(graph, inputs)


def _with_inputs(graph: Graph, inputs: tuple[GraphInput, ...]) -> Graph:
    return Graph(inputs, graph.outputs, graph.output_names, graph.name, graph.metadata)


def _chunks(items: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """All, then halves, quarters, … down to single ones."""
    size = len(items)
    while size:
        yield from (items[i : i + size] for i in range(0, len(items), size))
        size = size // 2


# --------------------------------------------------------------------------------------------------------------- steps


def fewer_outputs(graph: Graph) -> Iterator[Candidate]:
    """One output alone, or all but one."""
    every = range(len(graph.outputs))
    kept = [[i] for i in every] + [[i for i in every if i != j] for j in every]
    for places in kept if len(graph.outputs) > 1 else []:
        values, names = tuple(graph.outputs[i] for i in places), tuple(graph.output_names[i] for i in places)
        yield partial(graph.with_outputs, values, names)


def shorter(graph: Graph) -> Iterator[Candidate]:
    """An interior value as the only output: first the one in the middle, then ever later ones, by halving."""
    values = [op.results[0] for op in graph.ops if not isinstance(op.kind, Constant)][:-1]
    low = 0
    while low < len(values):
        middle = (low + len(values)) // 2
        yield partial(graph.with_outputs, (values[middle],), ("y",))
        low = middle + 1


def values_to_inputs(graph: Graph) -> Iterator[Candidate]:
    """Computed values become inputs, so that what computes them goes; those near the inputs first."""
    taken = {i.name for i in graph.inputs} | set(graph.output_names)
    names = (name for k in itertools.count() if (name := f"in{k}") not in taken)
    values: list[Value] = [op.results[0] for op in graph.ops if any(o is not None for o in op.operands)]
    inputs = {v: GraphInput(next(names), v.type) for v in values if v not in graph.outputs}
    for chunk in _chunks(list(inputs)):
        yield partial(_fed, graph, {v: inputs[v] for v in chunk})


def _fed(graph: Graph, inputs: Mapping[Value, GraphInput]) -> Graph:
    wider = _with_inputs(graph, (*graph.inputs, *inputs.values()))
    return substitute(wider, inputs)


def ops_left_out(graph: Graph) -> Iterator[Candidate]:
    """An operand takes the place of a result of the same type."""
    passed: dict[Value, Value] = {}
    for op in graph.ops:
        alike = [o for o in op.operands if o is not None and o.type == op.results[0].type]
        if alike:
            passed[op.results[0]] = alike[0]
    for chunk in _chunks(list(passed)[::-1]):
        yield partial(substitute, graph, _followed({v: passed[v] for v in chunk}))


def _followed(replacements: Mapping[Value, Value]) -> dict[Value, Value]:
    """Each value with the end of its chain of replacements."""
    ends: dict[Value, Value] = {}
    for value in replacements:
        end = replacements[value]
        while end in replacements:
            end = replacements[end]
        ends[value] = end
    return ends


def smaller_sizes(graph: Graph) -> Iterator[Candidate]:
    """One size becomes 1, its half, or one less wherever inputs and constants have it."""
    types = [i.type for i in graph.inputs] + [op.results[0].type for op in graph.ops if isinstance(op.kind, Constant)]
    sizes = {d for t in types if t.shape is not None for d in t.dims if isinstance(d, int) and d > 1}
    for old in sorted(sizes, reverse=True):
        for new in dict.fromkeys((1, old // 2, old - 1)):
            yield partial(_resized, graph, old, new)


def _resized(graph: Graph, old: int, new: int) -> Graph:
    def dims(type_: TensorType) -> TensorType:
        return TensorType(tuple(new if d == old else d for d in type_.dims), type_.elem)

    def leaf(value: Value) -> Value:
        if isinstance(value, GraphInput):
            return (
                value
                if value.type.shape is None or old not in value.type.dims
                else GraphInput(value.name, dims(value.type))
            )
        data = constant_data(value)
        if data is None or old not in data.shape:
            return value
        kept = tuple(slice(new) if size == old else slice(None) for size in data.shape)
        return const(ArrayData(np.ascontiguousarray(data.read()[kept])), value.type.elem, name=value.name)

    return _rebuilt(graph, leaf)


def plain_attributes(graph: Graph) -> Iterator[Candidate]:
    """An attribute takes its default value."""
    for op in graph.ops:
        for field in dataclasses.fields(op.kind):
            default = field.default
            if default is not dataclasses.MISSING and getattr(op.kind, field.name) != default:
                kind = dataclasses.replace(op.kind, **{field.name: default})
                yield partial(_rebuilt, graph, lambda value: value, {op: kind})


def plain_constants(graph: Graph) -> Iterator[Candidate]:
    """The elements of float constants become zeros, else ones."""
    for op in graph.ops:
        data = constant_data(op.results[0])
        if data is None or data.dtype.kind != "f":
            continue
        for filler in (0, 1):
            plain = np.full(data.shape, filler, data.dtype)
            if not np.isin(data.read(), (0, filler)).all():
                made = const(ArrayData(plain), op.results[0].type.elem, name=op.results[0].name)
                yield partial(substitute, graph, {op.results[0]: made})


def _rebuilt(graph: Graph, leaf: Callable[[Value], Value], kinds: Mapping[Op, OpKind] | None = None) -> Graph:
    """The graph on other inputs and constants and with other op kinds, every type inferred again."""
    values: dict[Value | None, Value | None] = {None: None, **{i: leaf(i) for i in graph.inputs}}
    for op in graph.ops:
        if isinstance(op.kind, Constant):
            values[op.result] = leaf(op.result)
            continue
        kind = (kinds or {}).get(op, op.kind)
        names = tuple(r.name for r in op.results)
        made = build(kind, *(values[o] for o in op.operands), names=names, origins=op.origins)
        values.update(zip(op.results, made.results, strict=True))
    inputs = tuple(v for i in graph.inputs if isinstance(v := values[i], GraphInput))
    outputs = tuple(v for o in graph.outputs if (v := values[o]) is not None)
    return Graph(inputs, outputs, graph.output_names, graph.name, graph.metadata)
