"""The quantizers of a QDQ graph, grouped by the range they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.cluster.hierarchy import DisjointSet

from amctc.analysis import value_range
from amctc.intervals import Interval
from amctc.ir import Graph, Op, Value, constant_data
from amctc.ops import quant
from amctc.targets import Profile
from amctc.types import QuantizedType
from amctc_passes.facts import has_quantizer, is_quantized, quantized_type, stored_under
from amctc_passes.quantize.points import Point
from amctc_passes.quantize.reference import before_quantizer, without_quantizers
from amctc_passes.quantize.sharing import range_groups


@dataclass(frozen=True)
class QuantizedTensor:
    """What takes one range.

    ``elem`` is its type; ``quantizers`` are ops of the QDQ graph. ``points`` are read in the float network: the ops
    that take the integers. ``bounds``: what interval analysis knows of the values.
    """

    elem: QuantizedType
    quantizers: tuple[Op, ...]
    points: tuple[Point, ...]
    bounds: Interval

    @property
    def values(self) -> tuple[Value, ...]:
        """What is quantized, in the float network."""
        return tuple(dict.fromkeys(p.value for p in self.points))

    @property
    def range(self) -> tuple[float, float]:
        """The real ends (low, high) of its integers."""
        step, zero = self.elem.scales[0], self.elem.zero_points[0]
        return (self.elem.low - zero) * step, (self.elem.high - zero) * step


def quantized_tensors(graph: Graph, target: Profile) -> tuple[Graph, list[QuantizedTensor]]:
    """The float network inside a QDQ graph, and the computed tensors that are quantized in it, in topological order.

    Tensors with a quantizer of the target only (per tensor, the whole range of the storage). Quantizers of one type
    belong together where any :data:`~amctc_passes.quantize.sharing.Share` gives their values one range.
    """
    reference, twins = without_quantizers(graph)
    points: dict[Point, Op] = {}
    for op in graph.ops:
        twin = twins[op.results[0]].producer if op.results else None
        for position, operand in enumerate(op.operands):
            quantizer = _quantizer(operand)
            if twin is not None and quantizer is not None and len(twin.operands) == len(op.operands):
                points[Point(twin, position)] = quantizer
    groups = _groups(reference, points, target)
    return reference, [_tensor(members, points) for members in groups]


def _quantizer(operand: Value | None) -> Op | None:
    """The quantizer that a computed ``operand`` comes through, if it is one of the target's."""
    if operand is None or not is_quantized(operand) or before_quantizer(operand) is operand:
        return None
    quantizer = stored_under(operand).producer
    constant = constant_data(before_quantizer(operand)) is not None
    return quantizer if has_quantizer(quantized_type(operand)) and not constant else None


def _groups(reference: Graph, points: dict[Point, Op], target: Profile) -> list[list[Point]]:
    """Points with one range, in the order of their first."""
    groups = DisjointSet(list(points))
    for share in ("requant", "joins"):
        shared = range_groups(reference, list(points), share, target)
        first: dict[tuple[Value, QuantizedType], Point] = {}
        for point, quantizer in points.items():
            elem = quantizer.result.type.elem
            assert isinstance(elem, QuantizedType)
            groups.merge(first.setdefault((shared[point.value], elem), point), point)
    members: dict[Point, list[Point]] = {}
    for point in points:
        members.setdefault(groups[point], []).append(point)
    return list(members.values())


def _tensor(members: Sequence[Point], points: dict[Point, Op]) -> QuantizedTensor:
    quantizers = tuple(dict.fromkeys(points[p] for p in members))
    elem = quantizers[0].result.type.elem
    assert isinstance(elem, QuantizedType)
    assert isinstance(quantizers[0].kind, quant.Quantize)
    ranges = [value_range(p.value) for p in members]
    bounds = Interval(min(r.low for r in ranges), max(r.high for r in ranges))
    return QuantizedTensor(elem, quantizers, tuple(members), bounds)
