"""Put a quantizer and a dequantizer in front of every layer the target computes in integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from amctc.contract import Changes, Contract
from amctc.errors import UsageError
from amctc.ir import Graph, Op, Value, apply, layer_name
from amctc.ops import quant
from amctc.options import converted
from amctc.pipeline import Context, Pass, register
from amctc.spec import PassSpec, parse_specs
from amctc.substitute import convert
from amctc.types import QuantizedType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED
from amctc_passes.quantize.layers import integer_obstacle, layers, matching, names, quantized_name
from amctc_passes.quantize.ranges import STORAGE, Method, Scheme


@register
@dataclass(frozen=True)
class PlaceQdq(Pass):
    """Quantize the data input of every layer, per tensor, by the ranges that ``observe`` found.

    ``skip`` lists layers to leave in float and ``override`` changes options for some, both by name with wildcards:
    ``override=["block*{method=min-max symmetric}"]``. A pattern that matches no layer is an error.
    """

    bits: int = 8
    symmetric: bool = False
    method: Method = "mse"
    percentile: float = 99.99
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
        schemes = self._schemes(graph)
        skipped = matching(names(graph), self.skip, "skip")
        chosen: dict[Op, Scheme] = {}
        for op in layers(graph):
            name = layer_name(op)
            reason = "skipped on request" if name in skipped else integer_obstacle(op, context.target)
            if reason is None and not _observed(op.operands[0]):
                reason = "its input was not observed"
            if reason is None:
                chosen[op] = schemes.get(name, self._scheme(self))
            else:
                context.note(self.name, name, f"left in float: {reason}")
        shared: dict[tuple[Value, QuantizedType], Value] = {}
        return convert(graph, lambda op, operands: self._placed(op, operands, chosen, shared))

    def _placed(
        self, op: Op, operands: tuple[Value | None, ...], chosen: dict[Op, Scheme],
        shared: dict[tuple[Value, QuantizedType], Value],
    ) -> tuple[Value, ...] | None:  # fmt: skip
        if isinstance(op.kind, quant.Observe):
            source = operands[0]
            assert source is not None
            return (source,)
        if op not in chosen:
            return None
        observed, source = op.operands[0], operands[0]
        assert observed is not None
        assert observed.producer is not None
        assert source is not None
        observer = observed.producer.kind
        assert isinstance(observer, quant.Observe)
        to = chosen[op].quantized_type(observer.histogram, source)
        if (source, to) not in shared:
            count = sum(v is source for v, _ in shared)
            name = quantized_name(source, op, "input") + (f".{count}" if count else "")
            quantized = apply(quant.Quantize(to), source, name=name)
            shared[source, to] = apply(quant.Dequantize(), quantized, name=f"{name}.dequant")
        result = apply(op.kind, shared[source, to], *operands[1:], name=op.result.name)
        return (result,)

    @staticmethod
    def _scheme(options: PlaceQdq) -> Scheme:
        return Scheme(options.bits, options.symmetric, options.method, options.percentile)

    def _schemes(self, graph: Graph) -> dict[str, Scheme]:
        """Schemes of the layers that overrides name; a later override wins."""
        found: dict[str, Scheme] = {}
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
            for name in matching(names(graph), [pattern.strip()], "override"):
                found[name] = self._scheme(changed)
        return found


def _changes(spec: PassSpec) -> dict[str, Any]:
    allowed = ("bits", "symmetric", "method", "percentile")
    changes = {}
    for key, value in spec.options:
        if key not in allowed:
            raise UsageError(f"an override has no option {key!r}", remedy=f"it can change {', '.join(allowed)}")
        try:
            changes[key] = converted(PlaceQdq, key, value)
        except ValueError as error:
            raise UsageError(f"override option {key!r} {error}") from None
    return changes


def _observed(value: Value | None) -> bool:
    return value is not None and value.producer is not None and isinstance(value.producer.kind, quant.Observe)
