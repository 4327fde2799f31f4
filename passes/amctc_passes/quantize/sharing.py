"""Which quantization points take one range, so that integers can flow between them (N19)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from scipy.cluster.hierarchy import DisjointSet

from amctc.analysis import Use, uses
from amctc.ir import Graph, Op, Value, constant_data
from amctc.onnx_bridge.deploy_form import data_operands, moves
from amctc.ops import nn, quant
from amctc.targets import Profile
from amctc_passes.quantize.points import Point
from amctc_patterns.requant import concat_obstacle

Share = Literal["off", "requant", "moves", "joins"]
"""How much shares a range: each level adds to the one before, see :func:`range_groups`."""

Uses = Mapping[Value, Sequence[Use]]


def range_groups(graph: Graph, points: Sequence[Point], share: Share, target: Profile) -> Mapping[Value, Value]:
    """For the value at each point one that stands for its group; the values of a group take one range.

    * ``off``: every value has a group of its own.
    * ``requant``: what reads the result of an integer layer, directly or through ops the target moves quantizers
      through, where nothing needs that result in float. One range then lets it leave the accumulator as int8 in one
      step, which takes the same scale at every consumer (N19).
    * ``moves``: all values whose elements reach each other through ops that only move them.
    * ``joins``: and the two quantized inputs of an addition (the existing tool's joint quantization).
    """
    groups = DisjointSet(dict.fromkeys(p.value for p in points))
    for values in _linked(graph, points, share, target):
        for value in values:
            groups.add(value)
            groups.merge(values[0], value)
    return {p.value: groups[p.value] for p in points}


def _linked(graph: Graph, points: Sequence[Point], share: Share, target: Profile) -> Iterator[Sequence[Value]]:
    """Values that belong together."""
    if share == "requant" and target.requant != "unfused":
        yield from _requantized(graph, points, target)
    if share in ("moves", "joins"):
        for op in graph.ops:
            if moves(op) or isinstance(op.kind, quant.Observe):
                yield *op.results, *(o for o in data_operands(op) if o is not None and constant_data(o) is None)
    if share == "joins":
        additions = dict.fromkeys(p.op for p in points if isinstance(p.op.kind, nn.Add))
        yield from ([p.value for p in points if p.op is op] for op in additions)


def _requantized(graph: Graph, points: Sequence[Point], target: Profile) -> Iterator[list[Value]]:
    """For each layer whose result only quantizers read: the values they quantize."""
    read, known = uses(graph), set(points)
    for op in dict.fromkeys(p.op for p in points):
        if isinstance(op.kind, nn.Layer | nn.AveragePool):
            values = _quantized_values(_activated(op.result, read), read, known, target)
            if values:
                yield values


def _activated(value: Value, read: Uses) -> Value:
    """The result of the activation that alone reads ``value``, else ``value``."""
    readers = read.get(value, ())
    op = readers[0].op if len(readers) == 1 else None
    return op.result if op is not None and isinstance(op.kind, nn.Activation) else value


def _quantized_values(source: Value, read: Uses, points: set[Point], target: Profile) -> list[Value]:
    """The values that quantizers after ``source`` read, none where something else reads it."""
    found, pending = dict[Value, None](), [source]
    while pending:
        value = pending.pop()
        for op, position in read.get(value, ()):
            if op is None:
                return []
            if Point(op, position) in points:
                found[value] = None
            elif _passed_by_quantizers(op, target):
                pending.append(op.result)
            else:
                return []
    return list(found)


def _passed_by_quantizers(op: Op, target: Profile) -> bool:
    """True for an op in front of which the target moves the quantizers behind it (N19, N26)."""
    if isinstance(op.kind, nn.MaxPool):
        return target.max_pool_int8 == "int8"
    if isinstance(op.kind, nn.Concat):
        return concat_obstacle(op, target.c0["i8"]) is None
    return isinstance(op.kind, quant.Observe)
