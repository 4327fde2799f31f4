"""Run the float, the QDQ and the integer model side by side and compare them layer by layer, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from amctc.analysis import uses
from amctc.interp import Plan
from amctc.ir import Graph, Op, Value
from amctc.kernels.ascend_table import ascend_table
from amctc.numerics.error import ErrorStatistics
from amctc.numerics.linear import dequantize_linear
from amctc.onnx_bridge.runtime import CARRIED, FloatSession
from amctc.ops import nn, quant
from amctc.targets import Profile
from amctc.types import I8, Array, QuantizedType

Progress = Callable[[str, int, int], None]


@dataclass
class Steps:
    """Differences between two integer tensors: the largest, how many elements differ, how many there are."""

    largest: int = 0
    different: int = 0
    total: int = 0

    def update(self, a: Array, b: Array) -> None:
        """Count one batch."""
        difference = np.abs(a.astype(np.int32) - b.astype(np.int32))
        self.largest = max(self.largest, int(difference.max(initial=0)))
        self.different += int(np.count_nonzero(difference))
        self.total += difference.size


@dataclass
class Comparison:
    """Per layer (by the name of its result) the error of its output and the steps its input is off; and the outputs."""

    outputs: ErrorStatistics = field(default_factory=ErrorStatistics)
    layers: dict[str, ErrorStatistics] = field(default_factory=dict)
    steps: dict[str, Steps] = field(default_factory=dict)
    agreeing: int = 0
    samples: int = 0
    overflows: dict[str, int] = field(default_factory=dict)


def compare(
    float_graph: Graph,
    qdq_graph: Graph,
    integer_graph: Graph,
    batches: Iterable[Mapping[str, Array]],
    target: Profile,
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Compare the three graphs; values correspond by name."""
    result = Comparison()
    names_of_integers, types = _by_name(integer_graph), _by_name(qdq_graph)
    layers = {op.result.name: op for op in qdq_graph.ops if isinstance(op.kind, nn.Layer) and op.result.name}
    real = _by_name(float_graph)
    found = {n: _integer_view(n, types, names_of_integers, integer_graph) for n in layers if n in real}
    views = {n: v for n, v in found.items() if v is not None}
    inputs = {n: q for n, op in layers.items() if (q := _input_quantizer(op, names_of_integers)) is not None}
    float_session = FloatSession(float_graph, [real[n] for n in views])
    qdq_session = FloatSession(qdq_graph, [q for q, _ in inputs.values()], optimise=False)

    def overflowed(layer: str, count: int) -> None:
        result.overflows[layer] = result.overflows.get(layer, 0) + count

    keep = [v.value for v in views.values()] + [i for _, i in inputs.values()]
    plan = Plan(integer_graph, {**ascend_table(target, overflowed), **CARRIED}, keep=list(dict.fromkeys(keep)))
    total = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
    for feeds in batches:
        expected, expected_values = float_session.run_all(feeds)
        quantized, actual = qdq_session.run_values(feeds), plan.run_values(feeds)
        for name, view in views.items():
            old = result.layers.get(name, ErrorStatistics())
            result.layers[name] = old.updated(expected_values[real[name]], view.read(actual))
        for name, (expected_steps, actual_steps) in inputs.items():
            result.steps.setdefault(name, Steps()).update(quantized[expected_steps], actual[actual_steps])
        outputs = zip(integer_graph.output_names, integer_graph.outputs, strict=True)
        _compare_outputs(result, expected, {n: actual[v] for n, v in outputs})
        result.samples += len(next(iter(feeds.values())))
        progress("comparing", result.samples, max(total, result.samples))
    return result


def _compare_outputs(result: Comparison, expected: dict[str, Array], actual: dict[str, Array]) -> None:
    name = next((n for n, a in expected.items() if a.dtype.kind == "f"), None)
    if name is None:
        return
    a, b = expected[name], actual[name]
    result.outputs = result.outputs.updated(a, b)
    rows = a.reshape(len(a), -1) if a.ndim else a.reshape(1, 1)
    result.agreeing += int((rows.argmax(1) == b.reshape(rows.shape).argmax(1)).sum())


@dataclass(frozen=True)
class _View:
    """A layer's output in the integer graph: in float, or as integers of a known type."""

    value: Value
    elem: QuantizedType | None

    def read(self, arrays: Mapping[Value, Array]) -> Array:
        array = arrays[self.value]
        if self.elem is None:
            return array.astype(np.float32)
        return dequantize_linear(array, self.elem.scale_array, self.elem.zero_point_array)


def _by_name(graph: Graph) -> dict[str, Value]:
    return {v.name: v for v in graph.values() if v.name}


def _integer_view(
    name: str, types: Mapping[str, Value], values: Mapping[str, Value], integer_graph: Graph
) -> _View | None:
    """The value called ``name``, or the integers it was fused into, called ``name.quant``."""
    if name in values and values[name].type.is_float:
        return _View(values[name], None)
    fused = values.get(f"{name}.quant")
    if fused is None:
        return None
    elem = _quantized_type(fused, types, integer_graph)
    return None if elem is None else _View(fused, elem)


def _quantized_type(value: Value, types: Mapping[str, Value], graph: Graph) -> QuantizedType | None:
    """The type of integers: the QDQ graph's value of that name, else that of the pool or concat they go into."""
    reads = uses(graph)
    for _ in range(16):
        known = types.get(value.name or "")
        if known is not None and isinstance(known.type.elem, QuantizedType):
            return known.type.elem
        reader = next((u.op for u in reads.get(value, ()) if u.op is not None), None)
        if reader is None or reader.results[0].type.elem != I8:
            return None
        value = reader.results[0]
    return None


def _input_quantizer(op: Op, values: Mapping[str, Value]) -> tuple[Value, Value] | None:
    """A layer's quantized input in the QDQ graph and in the integer graph."""
    data = op.operands[0]
    if data is None or data.producer is None or not isinstance(data.producer.kind, quant.Dequantize):
        return None
    stored = data.producer.operands[0]
    found = None if stored is None else values.get(stored.name or "")
    return None if stored is None or found is None or found.type.elem != I8 else (stored, found)
