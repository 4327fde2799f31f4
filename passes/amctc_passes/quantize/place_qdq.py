"""Put a quantizer and a dequantizer in front of what the target computes in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

from amctc.analysis import value_range
from amctc.contract import Changes, Contract
from amctc.errors import UsageError
from amctc.intervals import Interval
from amctc.ir import Graph, Op, Value, apply, layer_name, with_operands
from amctc.ops import quant
from amctc.options import converted
from amctc.pipeline import Context, Pass, register
from amctc.spec import PassSpec, parse_specs
from amctc.substitute import convert
from amctc.types import QuantizedType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, stands_for_integers
from amctc_passes.quantize.layers import matching, quantized_name, row_obstacle
from amctc_passes.quantize.points import Point, QuantizableOp, quantizable_ops
from amctc_passes.quantize.sharing import Share, range_groups
from amctc_passes.ranges.ranges import STORAGE, Method, Scheme


@register
@dataclass(frozen=True)
class PlaceQdq(Pass):
    """Quantize what layers and average pools read, per tensor, by the ranges that ``observe`` found.

    Both sides of a product of computed matrices are quantized, without offsets; ``two-sided=false`` leaves these
    products in float. ``tensor`` quantizes the inputs of additions and max pools too, as ``observe`` was told.
    ``dynamic`` lists matrix products whose data is quantized row by row instead, each row on the step that its largest
    element asks for when it comes (N6): no range is needed. Where the target has no such product a note says so, and
    one step serves all rows.
    ``share`` says which values take one range: ``requant`` (the default) where a layer's result then leaves the
    accumulator as int8 in one step, ``moves`` all that only moves of elements connect, ``joins`` also the inputs of a
    quantized addition; ``off`` none.

    ``skip`` lists ops to leave in float and ``override`` changes options for some, both by name with wildcards:
    ``override=["block*{method=min-max symmetric}"]``. It can change ``bits``, ``symmetric``, ``method``, ``percentile``
    and ``two-sided``. A pattern that matches nothing is an error.
    """

    bits: int = 8
    symmetric: bool = False
    method: Method = "mse"
    percentile: float = 99.99
    share: Share = "requant"
    two_sided: bool = True
    tensor: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    override: tuple[str, ...] = ()

    name: ClassVar[str] = "place-qdq"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("activations are rounded to integers"), requires=(NOT_LOWERED,), ensures=(UNOBSERVED,),
        keeps=(TWO_OF_FOUR,),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.bits not in STORAGE:
            raise ValueError(f"bits={self.bits}: activations are stored in {', '.join(map(str, STORAGE))} bits")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile={self.percentile} is not above 50 and at most 100")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Place quantizers (one per value and type, shared by its readers) and drop the observers."""
        candidates = quantizable_ops(graph, context.target, self.tensor)
        names = [layer_name(c.op) for c in candidates]
        overridden, skipped = self._overridden(names), matching(names, self.skip, "skip")
        dynamic = matching(names, self.dynamic, "dynamic")
        chosen: dict[Point, Scheme] = {}
        by_rows: set[Point] = set()
        for candidate, name in zip(candidates, names, strict=True):
            wanted = name in dynamic and name not in skipped and candidate.obstacle is None
            if wanted and self._has_rows(candidate.op, name, context):
                by_rows.update(p for p in candidate.points if not stands_for_integers(p.value))  # a second run
                continue
            options = overridden.get(name, self)
            reason = "skipped on request" if name in skipped else options._obstacle(candidate)
            if reason is not None:
                context.note(self.name, name, f"left in float: {reason}")
                continue
            symmetric = options.symmetric or candidate.symmetric
            scheme = Scheme(options.bits, symmetric, options.method, options.percentile)
            chosen.update(dict.fromkeys(candidate.points, scheme))
        groups = range_groups(graph, list(chosen), self.share, context.target)
        return _placed(graph, _types(chosen, groups), by_rows)

    def _has_rows(self, op: Op, name: str, context: Context) -> bool:
        """Whether the data of ``op`` can be quantized row by row; a note says why not."""
        reason = row_obstacle(op, context.target)
        if reason is not None:
            context.note(self.name, name, f"one step for all rows of its data, not one for each: {reason}")
        return reason is None

    def _obstacle(self, candidate: QuantizableOp) -> str | None:
        if candidate.obstacle is not None:
            return candidate.obstacle
        if candidate.symmetric and not self.two_sided:
            return "both sides are computed (two-sided=false)"
        unobserved = any(_observer(p.value) is None for p in candidate.points)
        return "its input was not observed" if unobserved else None

    def _overridden(self, names: Sequence[str]) -> dict[str, PlaceQdq]:
        """The options of the ops that overrides name; a later override wins."""
        found: dict[str, PlaceQdq] = {}
        for text in self.override:
            pattern, brace, options = text.partition("{")
            if not brace:
                raise UsageError(f"override {text!r} has no options", remedy='write it as "conv*{method=min-max}"')
            (spec,) = parse_specs("override{" + options)
            assert isinstance(spec, PassSpec)
            try:
                changed = replace(self, skip=(), override=(), **_changes(spec))
            except ValueError as error:
                raise UsageError(f"override {text!r}: {error}") from None
            for name in matching(names, [pattern.strip()], "override"):
                found[name] = changed
        return found


def _changes(spec: PassSpec) -> dict[str, Any]:
    allowed = ("bits", "symmetric", "method", "percentile", "two-sided")
    changes = {}
    for key, value in spec.options:
        if key not in allowed:
            raise UsageError(f"an override has no option {key!r}", remedy=f"it can change {', '.join(allowed)}")
        field = key.replace("-", "_")
        try:
            changes[field] = converted(PlaceQdq, field, value)
        except ValueError as error:
            raise UsageError(f"override option {key!r} {error}") from None
    return changes


def _types(chosen: Mapping[Point, Scheme], groups: Mapping[Value, Value]) -> dict[Point, QuantizedType]:
    """The type at each point: points of one group and scheme take one, from all that was seen of their values."""
    members: dict[tuple[Value, Scheme], dict[Value, None]] = {}
    for point, scheme in chosen.items():
        members.setdefault((groups[point.value], scheme), {})[point.value] = None
    types: dict[tuple[Value, Scheme], QuantizedType] = {}
    for key, values in members.items():
        ranges = [value_range(v) for v in values]
        bounds = Interval(min(r.low for r in ranges), max(r.high for r in ranges))
        seen = reduce(quant.Observe.merged, (o for o in map(_observer, values) if o is not None))
        types[key] = key[1].quantized_type(seen, bounds)
    return {point: types[groups[point.value], scheme] for point, scheme in chosen.items()}


def _placed(graph: Graph, types: Mapping[Point, QuantizedType], by_rows: Set[Point]) -> Graph:
    """The graph without observers, with what stands at each point quantized and dequantized, or rounded ``by_rows``."""
    shared: dict[tuple[Value, QuantizedType], Value] = {}
    rounded: dict[Value, Value] = {}

    def through_rows(op: Op, source: Value) -> Value:
        if source not in rounded:
            name = f"{source.name or f'{layer_name(op)}.input'}.rows"
            rounded[source] = apply(quant.FakeQuantizeRows(), source, name=name)
        return rounded[source]

    def through_integers(op: Op, position: int, source: Value) -> Value:
        to = types[Point(op, position)]
        if (source, to) not in shared:
            count = sum(v is source for v, _ in shared)
            name = quantized_name(source, op, f"input{position or ''}") + (f".{count}" if count else "")
            quantized = apply(quant.Quantize(to), source, name=name)
            shared[source, to] = apply(quant.Dequantize(), quantized, name=f"{name}.dequant")
        return shared[source, to]

    def placed(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        if isinstance(op.kind, quant.Observe):
            source = operands[0]
            assert source is not None
            return (source,)
        read = list(operands)
        for position, operand in enumerate(operands):
            if operand is not None and Point(op, position) in types:
                read[position] = through_integers(op, position, operand)
            elif operand is not None and Point(op, position) in by_rows:
                read[position] = through_rows(op, operand)
        return None if tuple(read) == operands else with_operands(op, tuple(read)).results

    return convert(graph, placed)


def _observer(value: Value) -> quant.Observe | None:
    kind = None if value.producer is None else value.producer.kind
    return kind if isinstance(kind, quant.Observe) else None
