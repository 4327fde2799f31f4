"""Put a graph together whose layers are taken from graphs of different precision."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from amctc.errors import UnsupportedError
from amctc.ir import Constant, Graph, Op, Value, apply, build, layer_name
from amctc.ops import quant
from amctc.substitute import convert
from amctc.types import I8, QuantizedType, ScalarType

FLOAT = "f16"
"""The candidate that leaves a layer as it is; the target computes it in float16."""

Assignment = Mapping[str, str]
"""A candidate for each layer, by name."""


class Assembly:
    """A float graph, and graphs that passes quantized it to, one for each candidate.

    Ops correspond by their order. A layer here is every op of one name that reads quantized data, or an integer weight,
    in one of the graphs, pools and additions too. ``layers`` are in the order of the graph, and for each ``candidates``
    are those that differ for it: float, and the quantized ones unless an earlier one stores the same. ``ops`` are the
    first of each layer.
    Raises :class:`UnsupportedError` where ops do not correspond.
    """

    def __init__(self, graph: Graph, quantized: Mapping[str, Graph]) -> None:
        self._graph = graph
        self._twins = {name: _twins(graph, twin) for name, twin in quantized.items()}
        self.ops: dict[str, Op] = {}
        found: dict[str, dict[str, list[list[ScalarType | None]]]] = {}
        for op in graph.ops:
            for name, twins in self._twins.items():
                if (twin := twins.get(op)) is not None:
                    self.ops.setdefault(layer_name(op), op)
                    found.setdefault(layer_name(op), {}).setdefault(name, []).append(_form(twin))
        self.candidates: dict[str, tuple[str, ...]] = {}
        for layer, forms in found.items():
            distinct = [n for i, n in enumerate(forms) if forms[n] not in list(forms.values())[:i]]
            self.candidates[layer] = (FLOAT, *distinct)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of what can be quantized."""
        return tuple(self.candidates)

    def uniform(self, candidate: str) -> dict[str, str]:
        """All layers with one candidate; those that do not have it with the one before it."""
        order = [FLOAT, *self._twins]
        upto = order[: order.index(candidate) + 1]
        return {layer: next(c for c in reversed(upto) if c in own) for layer, own in self.candidates.items()}

    def assembled(self, assignment: Assignment) -> Graph:
        """The graph with each layer as ``assignment`` has it; layers it does not name stay in float."""
        quantizers: dict[tuple[Value, object], Value] = {}

        def taken(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            twin = self._twins.get(assignment.get(layer_name(op), FLOAT), {}).get(op)
            if twin is None:
                return None
            pairs = zip_longest(twin.operands, operands)  # bias correction gives biases to layers without one
            read = tuple(_operand(old, own, quantizers) for old, own in pairs)
            return build(twin.kind, *read, names=tuple(r.name for r in op.results)).results

        return convert(self._graph, taken)


def _twins(graph: Graph, quantized: Graph) -> dict[Op, Op]:
    """The op of ``quantized`` for each op of ``graph`` that reads quantized data there, or an integer weight.

    Quantizers and constants stand between ops and their operands, so without them both graphs have the same order.
    """
    found: dict[Op, Op] = {}
    for op, twin in zip_longest(_computing(graph), _computing(quantized)):
        if op is None or twin is None or _described(op) != _described(twin):
            raise UnsupportedError("quantizing changed more than constants, so layers cannot be exchanged",
                                   where=layer_name(twin or op), remedy="use a preset without that pass")  # fmt: skip
        if any(o is not None and (_quantizer(o) is not None or _is_stored(o)) for o in twin.operands):
            found[op] = twin
    return found


def _computing(graph: Graph) -> list[Op]:
    quantizers = Constant | quant.Quantize | quant.Dequantize | quant.FakeQuantizeRows
    return [op for op in graph.ops if not isinstance(op.kind, quantizers)]


def _described(op: Op) -> tuple[object, ...]:
    return type(op.kind), tuple(r.name for r in op.results)


def _quantizer(value: Value) -> Op | None:
    """The quantizer of dequantize(quantize(x)), or the op that rounds rows of x."""
    op = value.producer
    if op is not None and isinstance(op.kind, quant.FakeQuantizeRows):
        return op
    if op is None or not isinstance(op.kind, quant.Dequantize):
        return None
    stored = op.operands[0]
    quantizer = None if stored is None else stored.producer
    return quantizer if quantizer is not None and isinstance(quantizer.kind, quant.Quantize) else None


def _operand(twin: Value | None, own: Value | None, quantizers: dict[tuple[Value, object], Value]) -> Value | None:
    """What an op reads: its own operand behind the twin's quantizer, the twin's constant, or its own operand."""
    if twin is None:
        return None
    quantizer = _quantizer(twin)
    if quantizer is None:
        return twin if _is_constant(twin) else own
    assert own is not None
    key = own, quantizer.kind
    if key not in quantizers and isinstance(quantizer.kind, quant.FakeQuantizeRows):
        quantizers[key] = apply(quantizer.kind, own, name=twin.name, origins=quantizer.origins)
    elif key not in quantizers:
        stored = apply(quantizer.kind, own, name=quantizer.result.name, origins=quantizer.origins)
        origins = () if twin.producer is None else twin.producer.origins
        quantizers[key] = apply(quant.Dequantize(), stored, name=twin.name, origins=origins)
    return quantizers[key]


def _is_constant(value: Value) -> bool:
    """Whether a value is a constant, or one dequantized."""
    return _is_stored(value) or (value.producer is not None and isinstance(value.producer.kind, Constant))


def _is_stored(value: Value) -> bool:
    """Whether a value is a constant dequantized."""
    op = value.producer
    stored = op.operands[0] if op is not None and isinstance(op.kind, quant.Dequantize) else None
    return stored is not None and stored.producer is not None and isinstance(stored.producer.kind, Constant)


def _form(op: Op) -> list[ScalarType | None]:
    """How each operand is stored, where it is dequantized: what tells two candidates of an op apart."""
    return [_storage(o.producer) if o is not None and o.producer is not None else None for o in op.operands]


def _storage(op: Op) -> ScalarType | None:
    if isinstance(op.kind, quant.FakeQuantizeRows):
        return I8
    stored = op.operands[0] if isinstance(op.kind, quant.Dequantize) else None
    elem = None if stored is None else stored.type.elem
    return elem.storage if isinstance(elem, QuantizedType) else None
