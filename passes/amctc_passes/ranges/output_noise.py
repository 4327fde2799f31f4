"""What single quantizers do to the outputs of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from amctc.calibrate.frontier import fed_array
from amctc.calibrate.inputs import no_samples
from amctc.ir import Constant, Graph, GraphInput, Op, Value, apply, with_operands
from amctc.onnx_bridge.runtime import FloatSession
from amctc.ops import nn
from amctc.outputs import with_scores
from amctc.substitute import convert
from amctc.types import F32, Array, TensorType
from amctc_passes.quantize.reference import before_quantizer, without_quantizers
from amctc_passes.ranges.range_noise import energy, first_samples

_TOGETHER = 8
"""Ops, one after the other, whose quantizers one session switches: each costs a run of what lies behind them all."""

Batch = dict[str, Array]


class OutputNoise:
    """What the quantizers in front of ``ops``, in their order, do to the outputs, on whole batches of ``samples``.

    Batches are taken until there are so many samples. Raises :class:`UsageError` where there are none.
    """

    def __init__(
        self, graph: Graph, ops: Sequence[Op], batches: Iterable[Mapping[str, Array]], samples: int, provider: str
    ) -> None:  # fmt: skip
        self._real, self._twins = without_quantizers(graph)
        self._real, self._provider = with_scores(self._real), provider
        self._batches = [
            {i.name: fed_array(i, feeds) for i in graph.inputs} for feeds in first_samples(batches, samples)
        ]
        if not self._batches:
            raise no_samples()
        self._outputs = [n for n, o in zip(graph.output_names, self._real.outputs, strict=True) if o.type.is_float]
        session = FloatSession(self._real, optimise=False, provider=provider)
        self._clean = [session.run(feeds) for feeds in self._batches]
        self._signal = np.sum([[energy(clean[n]) for n in self._outputs] for clean in self._clean], axis=0)
        self._runs = [tuple(ops[i : i + _TOGETHER]) for i in range(0, len(ops), _TOGETHER)]
        self._switches: _Switches | None = None

    def share(self, ops: Sequence[Op]) -> float:
        """Noise over signal with the quantizers of ``ops`` at work, the mean over the floating-point outputs."""
        noise = np.zeros(len(self._outputs))
        for disturbed, clean in zip(self._switching(ops).run(ops), self._clean, strict=True):
            noise += [_difference(disturbed[n], clean[n]) for n in self._outputs]
        shares = np.divide(noise, self._signal, out=np.zeros_like(noise), where=self._signal > 0)
        return float(shares.mean()) if self._outputs else 0.0

    def _switching(self, ops: Sequence[Op]) -> _Switches:
        """The switches of all ``ops``: of few beside them, and those that were used last if they do."""
        together = next((run for run in self._runs if set(ops) <= set(run)), tuple(ops))
        if self._switches is None or self._switches.ops != together:
            self._switches = _Switches(self._real, self._twins, together, self._batches, self._provider)
        return self._switches


class _Switches:
    """The float network behind the first of some ops, with a switch for the quantizers of each.

    A quantized operand becomes x + gate·(dequantize(quantize(x)) - x). What lies before is computed once.
    """

    def __init__(
        self, real: Graph, twins: Mapping[Value, Value], ops: tuple[Op, ...], batches: Sequence[Batch],
        provider: str,
    ) -> None:  # fmt: skip
        self.ops = ops
        self._gates = {op: GraphInput(f"gate/{i}", TensorType((), F32)) for i, op in enumerate(ops)}
        rest, kept = behind(real, _gated(real, twins, self._gates))
        self._fed = list(batches)
        if kept:
            before = FloatSession(real.with_outputs((), ()), list(kept), optimise=False, provider=provider)
            found = ({kept[v].name: a for v, a in before.run_values(feeds).items()} for feeds in batches)
            self._fed = [feeds | values for feeds, values in zip(batches, found, strict=True)]
        self._session = FloatSession(
            Graph((*real.inputs, *kept.values(), *self._gates.values()), rest.outputs, rest.output_names),
            optimise=False, provider=provider,
        )  # fmt: skip

    def run(self, ops: Sequence[Op]) -> Iterator[Batch]:
        """The outputs of each batch with the quantizers of ``ops`` at work."""
        gates: Batch = {g.name: np.array(op in ops, np.float32) for op, g in self._gates.items()}
        return (self._session.run({**feeds, **gates}) for feeds in self._fed)


def _gated(real: Graph, twins: Mapping[Value, Value], gates: Mapping[Op, GraphInput]) -> Graph:
    """The float network ``real`` with the quantizers of some ops of the quantized one behind gates."""
    originals = {twins[op.results[0]].producer: op for op in gates}

    def gated(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        original = originals.get(op)
        if original is None:
            return None
        pairs = zip(original.operands, operands, strict=True)
        return with_operands(op, tuple(_switched(old, new, gates[original]) for old, new in pairs)).results

    return convert(Graph((*real.inputs, *gates.values()), real.outputs, real.output_names), gated)


def _switched(quantized: Value | None, value: Value | None, gate: Value) -> Value | None:
    """``value``, or with the gate open what the quantizers of ``quantized`` make of it."""
    if quantized is None or value is None or before_quantizer(quantized) is quantized:
        return value
    disturbed = _requantized(quantized, before_quantizer(quantized), value)
    return apply(nn.Add(), value, apply(nn.Mul(), gate, apply(nn.Sub(), disturbed, value)))


def _requantized(quantized: Value, source: Value, value: Value) -> Value:
    """The quantizers between ``source`` and ``quantized``, on ``value``."""
    if quantized is source:
        return value
    op = quantized.producer
    assert op is not None
    data = op.operands[0]
    assert data is not None
    return with_operands(op, (_requantized(data, source, value), *op.operands[1:])).results[0]


def behind(real: Graph, gated: Graph) -> tuple[Graph, dict[Value, GraphInput]]:
    """``gated`` without what it shares with ``real``: its values come as inputs, by the values of ``real``."""
    shared = {op for op in real.ops if not isinstance(op.kind, Constant)}
    kept: dict[Value, GraphInput] = {}
    values: dict[Value, Value] = {}

    def taken(value: Value) -> Value:
        if value.producer in shared:
            return kept.setdefault(value, GraphInput(f"kept/{len(kept)}", value.type))
        return values.get(value, value)

    for op in gated.ops:
        if op not in shared and not isinstance(op.kind, Constant):
            operands = tuple(None if o is None else taken(o) for o in op.operands)
            values.update(zip(op.results, with_operands(op, operands).results, strict=True))
    return gated.with_outputs(tuple(map(taken, gated.outputs))), kept


def _difference(a: Array, b: Array) -> float:
    """The energy of a - b; none where their shapes depend on the data and differ (detections)."""
    if a.shape != b.shape:
        return 0.0
    with np.errstate(invalid="ignore"):  # infinities may be masked positions
        return energy(a - b)
