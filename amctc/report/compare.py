"""Run the float, the QDQ and the integer model side by side and compare them layer by layer, batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from amctc.analysis import uses
from amctc.aside import SetAside
from amctc.calibrate.axes import batch_length
from amctc.interp import Kernel, KernelFactory, Plan
from amctc.ir import Graph, Op, Value, layer_name
from amctc.kernels.ascend_table import ascend_table
from amctc.numerics.error import ErrorStatistics
from amctc.numerics.linear import dequantize_linear
from amctc.onnx_bridge.runtime import CARRIED, FloatSession, fits_memory
from amctc.ops import ascend, nn, quant
from amctc.targets import Profile
from amctc.types import F16, I8, Array, QuantizedType

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
    """Per layer (by the name of its result) the error of its output and the steps its input is off; and the outputs.

    Of ``rows`` of scores (one per sample, one per run where there is no batch axis) ``agreeing`` have the same largest
    element; an output with more than one axis of them per sample has no rows. ``infinite`` counts by op the results
    that were not finite though its operands were: float16 was too small for them. ``zero_rows`` counts by layer the
    rows of zeros that were quantized as they came (N6).
    """

    outputs: ErrorStatistics = field(default_factory=ErrorStatistics)
    layers: dict[str, ErrorStatistics] = field(default_factory=dict)
    steps: dict[str, Steps] = field(default_factory=dict)
    rows: int = 0
    agreeing: int = 0
    samples: int = 0
    overflows: dict[str, int] = field(default_factory=dict)
    infinite: dict[str, int] = field(default_factory=dict)
    zero_rows: dict[str, int] = field(default_factory=dict)


def compare(
    float_graph: Graph,
    qdq_graph: Graph,
    integer_graph: Graph,
    batches: Iterable[Mapping[str, Array]],
    target: Profile,
    progress: Progress = lambda what, done, total: None,
    *,
    provider: str = "cpu",
) -> Comparison:
    """Compare the three graphs; values correspond by name. ONNX Runtime runs the first two on ``provider``."""
    result = Comparison()
    names_of_integers, types = _by_name(integer_graph), _by_name(qdq_graph)
    integer_kinds = nn.Layer | nn.AveragePool
    layers = {op.result.name: op for op in qdq_graph.ops if isinstance(op.kind, integer_kinds) and op.result.name}
    real = _by_name(float_graph)
    quantized_as = {
        op.operands[0].name: op.result.name
        for op in qdq_graph.ops
        if isinstance(op.kind, quant.Quantize) and op.operands[0] is not None
    }
    seen = {n: _integer_view(n, types, quantized_as, names_of_integers, integer_graph) for n in layers if n in real}
    views = {n: v for n, v in seen.items() if v is not None}
    inputs = {n: q for n, op in layers.items() if (q := _input_quantizer(op, names_of_integers)) is not None}
    quantizers = any(isinstance(op.kind, quant.Quantize) for op in float_graph.ops)  # they came with the model
    references = _references(float_graph, real, views)
    float_session = FloatSession(float_graph, list(references.values()), optimise=not quantizers, provider=provider)
    qdq_session = FloatSession(qdq_graph, [q for q, _ in inputs.values()], optimise=False, provider=provider)

    def overflowed(layer: str, count: int) -> None:
        result.overflows[layer] = result.overflows.get(layer, 0) + count

    keep = [v.value for v in views.values()] + [i for _, i in inputs.values()]
    table = {**ascend_table(target, overflowed), **CARRIED}
    watched = {kind: _watched(factory, result.infinite) for kind, factory in table.items()}
    watched[ascend.DynamicQuant] = _counting_zeros(table[ascend.DynamicQuant], result.zero_rows)
    # Kernels hold int8 weights in float32, beside what they were made from.
    aside = None if fits_memory(integer_graph, copies=5) else SetAside("the integer model's weights")
    plan = Plan(integer_graph, watched, keep=list(dict.fromkeys(keep)), aside=aside)
    total = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
    for feeds in batches:
        # The integers first: kept, they take a quarter of what the float values take.
        actual, quantized = plan.run_values(feeds), qdq_session.run_values(feeds)
        expected, expected_values = float_session.run_all(feeds)
        for name, view in views.items():
            reference, found = expected_values[references[name]], view.read(actual)
            if reference.shape == found.shape:  # behind an op that selects, sizes depend on the numbers
                result.layers[name] = result.layers.get(name, ErrorStatistics()).updated_where_finite(reference, found)
        for name, (expected_steps, actual_steps) in inputs.items():
            if quantized[expected_steps].shape == actual[actual_steps].shape:
                result.steps.setdefault(name, Steps()).update(quantized[expected_steps], actual[actual_steps])
        outputs = zip(integer_graph.output_names, integer_graph.outputs, strict=True)
        size = batch_length(feeds)
        _compare_outputs(result, expected, {n: actual[v] for n, v in outputs}, size)
        result.samples += size
        progress("comparing", result.samples, max(total, result.samples))
    return result


def _watched(factory: KernelFactory, infinite: dict[str, int]) -> KernelFactory:
    """Kernels that count where values leave the range of float16."""

    def bind(op: Op, constants: Sequence[Array | None]) -> Kernel:
        kernel = factory(op, constants)
        if not any(r.type.elem == F16 for r in op.results):
            return kernel

        def run(*arrays: Array) -> Array | tuple[Array, ...]:
            results = kernel(*arrays)
            bad = sum(map(_not_finite, results if isinstance(results, tuple) else (results,)))
            if bad and not any(map(_not_finite, arrays)):
                infinite[layer_name(op)] = infinite.get(layer_name(op), 0) + bad
            return results

        return run

    return bind


def _counting_zeros(factory: KernelFactory, counts: dict[str, int]) -> KernelFactory:
    """The quantizer of rows, which counts those of zeros: only their step is 0 (N6)."""

    def bind(op: Op, constants: Sequence[Array | None]) -> Kernel:
        kernel = factory(op, constants)

        def run(x: Array) -> tuple[Array, ...]:
            results = kernel(x)
            assert isinstance(results, tuple)
            if zeros := int(np.count_nonzero(results[1] == 0)):
                counts[layer_name(op)] = counts.get(layer_name(op), 0) + zeros
            return results

        return run

    return bind


def _not_finite(array: Array | None) -> int:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return 0
    return array.size - int(np.count_nonzero(np.isfinite(array)))


def _references(graph: Graph, real: Mapping[str, Value], views: Mapping[str, _View]) -> dict[str, Value]:
    """What each view is compared with: the layer's output, behind the quantizer the model brings if it was fused there.

    Such a quantizer may saturate: other tools leave the clip of a relu to it.
    """
    behind = {o.name: op.result for op in graph.ops if isinstance(op.kind, quant.Dequantize) for o in op.operands if o}
    return {n: real[n] if v.elem is None else behind.get(v.value.name, real[n]) for n, v in views.items()}


def _compare_outputs(result: Comparison, expected: dict[str, Array], actual: dict[str, Array], size: int) -> None:
    """Count the first float tensor among the outputs of a batch of ``size`` samples; of a model without, pixels.

    Not one whose shape depends on the numbers and differs. Only scores, one axis of them per sample, can agree.
    """
    arrays = {n: a for n, a in expected.items() if isinstance(a, np.ndarray)}  # others are sequences and maps
    floats = {n: a for n, a in arrays.items() if a.dtype.kind == "f"}
    tensors = floats or {n: a for n, a in arrays.items() if a.dtype == np.uint8}
    name = next((n for n, a in tensors.items() if a.shape == actual[n].shape), None)
    if name is None:
        return
    a, b = tensors[name], actual[name]
    result.outputs = result.outputs.updated_where_finite(a, b)
    scores = a.shape[1:] if a.shape[:1] == (size,) else a.shape
    shape = (-1, max(scores, default=1))
    if math.prod(scores) == shape[1] > 0:
        same = a.reshape(shape).argmax(1) == b.reshape(shape).argmax(1)
        result.rows += len(same)
        result.agreeing += int(same.sum())


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
    """Values by name; names are hints, so one that two values have tells nothing."""
    times = Counter(v.name for v in graph.values())
    return {v.name: v for v in graph.values() if v.name and times[v.name] == 1}


def _integer_view(
    name: str,
    types: Mapping[str, Value],
    quantized: Mapping[str | None, str | None],
    values: Mapping[str, Value],
    graph: Graph,
) -> _View | None:
    """The value called ``name``, or the integers it was fused into: ``name.quant``, or as the model calls them."""
    if name in values and values[name].type.is_float:
        return _View(values[name], None)
    fused = values.get(f"{name}.quant") or values.get(quantized.get(name) or "")
    if fused is None:
        return None
    elem = _quantized_type(fused, types, graph)
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
