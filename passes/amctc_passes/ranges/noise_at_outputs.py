"""The noise that quantized tensors make in the outputs of the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from amctc.calibrate.axes import batch_length
from amctc.calibrate.frontier import fed_array
from amctc.calibrate.inputs import no_samples
from amctc.files.scratch import ScratchFile
from amctc.ir import Graph, Op, Value, apply, with_operands
from amctc.onnx_bridge.runtime import FloatSession
from amctc.ops import quant
from amctc.outputs import with_scores
from amctc.pipeline import Context
from amctc.substitute import convert
from amctc.types import Array, QuantizedType
from amctc_passes.quantize.held_back import held
from amctc_passes.quantize.points import Point
from amctc_passes.ranges.output_noise import behind
from amctc_passes.ranges.quantized_tensors import QuantizedTensor
from amctc_passes.ranges.range_noise import Float64Array, Noise, energy, first_samples, mean_share

MATTERS = 0.01
"""The share of all noise from which on the range of a tensor is worth searching."""


class NoiseAtOutputs:
    """The error of the floating-point outputs on the first ``samples``, all outputs alike.

    A final softmax is looked through. Each question runs what lies behind the tensors in the float network
    ``reference``; what lies before is computed once for each tensor and waits on disk. Raises :class:`UsageError`
    without samples.
    """

    def __init__(self, reference: Graph, context: Context, source: str, samples: int) -> None:
        self._graph, self._provider = with_scores(reference), context.provider
        batches = list(first_samples(context.calibration(source), samples))
        if not batches:
            raise no_samples()
        self._batches = [{i.name: fed_array(i, feeds) for i in reference.inputs} for feeds in batches]
        self._sizes = [batch_length(feeds) for feeds in batches]
        self._real = [n for n, o in zip(self._graph.output_names, self._graph.outputs, strict=True) if o.type.is_float]
        session = FloatSession(self._graph, provider=self._provider)
        self._clean = list(map(session.run, self._batches))
        self._kept = _Kept((), ())
        self._known: dict[tuple[QuantizedType, ...], Noise] = {}

    def worth_searching(self, tensors: Sequence[QuantizedTensor]) -> Sequence[QuantizedTensor]:
        """Tensors that alone make at least a hundredth of the sum of all noises, the noisiest first."""
        noise = {t: self.alone(t, t.elem).chosen for t in tensors}
        known = {t: n for t, n in noise.items() if n > 0 and np.isfinite(n)}
        least = MATTERS * sum(known.values())
        return sorted((t for t in known if known[t] >= least), key=lambda t: -known[t])

    def alone(self, tensor: QuantizedTensor, elem: QuantizedType) -> Noise:
        """With that tensor stored, a run for each question."""
        return self._noise({tensor: elem})

    def in_place(self, tensor: QuantizedTensor, types: Mapping[QuantizedTensor, QuantizedType]) -> Noise:
        """With all of them stored."""
        key = tuple(types.values())
        if key not in self._known:
            self._known[key] = self._noise(types)
        return self._known[key]

    def _noise(self, types: Mapping[QuantizedTensor, QuantizedType]) -> Noise:
        totals, first = np.zeros((len(self._real), 2, 2)), 0
        runs = self._runs(_stored(self._graph, {p: elem for t, elem in types.items() for p in t.points}))
        for size, clean, noisy in zip(self._sizes, self._clean, runs, strict=True):
            back = held(first + np.arange(size)).astype(np.int64)
            for total, name in zip(totals, self._real, strict=True):
                np.add.at(total, back, _energies(noisy[name], clean[name], size))
            first += size
        return mean_share(totals)

    def _runs(self, graph: Graph) -> Iterator[Mapping[str, Array]]:
        """The outputs of ``graph``, batch by batch: what it shares with the float network is not run again."""
        rest, kept = behind(self._graph, graph)
        session = FloatSession(
            Graph((*self._graph.inputs, *kept.values()), rest.outputs, rest.output_names), provider=self._provider
        )
        if tuple(kept) != self._kept.values:
            self._kept = _Kept(tuple(kept), ())
            if kept:
                before = FloatSession(self._graph.with_outputs((), ()), list(kept), provider=self._provider)
                self._kept = _Kept(tuple(kept), map(before.run_values, self._batches))
        names = {v: i.name for v, i in kept.items()}
        for number, feeds in enumerate(self._batches):
            yield session.run({**feeds, **{names[v]: array for v, array in self._kept.batch(number)}})


class _Kept:
    """Arrays of ``values`` on disk, batch by batch."""

    def __init__(self, values: tuple[Value, ...], batches: Iterable[Mapping[Value, Array]]) -> None:
        self.values, self._file = values, ScratchFile("activations")
        self._places = [
            [(self._file.append(arrays[v]), arrays[v].shape, arrays[v].dtype) for v in values] for arrays in batches
        ]

    def batch(self, number: int) -> Iterator[tuple[Value, Array]]:
        """The values and their arrays in one batch."""
        places = self._places[number] if self.values else ()
        return ((v, self._file.read(*place)) for v, place in zip(self.values, places, strict=True))


def _energies(noisy: Array, clean: Array, samples: int) -> Float64Array:
    """(energy of the error, energy) [samples, 2]: shared evenly where rows are no samples, 0 where shapes differ."""
    if noisy.shape != clean.shape:  # they depend on the data (detections)
        return np.zeros((samples, 2))
    with np.errstate(invalid="ignore"):
        error = noisy - clean
    if clean.ndim and len(clean) == samples:
        return np.array([(energy(e), energy(c)) for e, c in zip(error, clean, strict=True)])
    return np.full((samples, 2), (energy(error), energy(clean))) / samples


def _stored(graph: Graph, types: Mapping[Point, QuantizedType]) -> Graph:
    """A float graph in which what is read at these points goes through integers."""

    def through(elem: QuantizedType | None, value: Value | None) -> Value | None:
        if value is None or elem is None:
            return value
        return apply(quant.Dequantize(), apply(quant.Quantize(elem), value))

    def stored(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        elems = [types.get(Point(op, i)) for i in range(len(operands))]
        if not any(elems):
            return None
        return with_operands(op, tuple(map(through, elems, operands))).results

    return convert(graph, stored)
