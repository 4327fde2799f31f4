"""Return to float what disturbs the outputs out of proportion to the work it saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.calibrate.axes import batch_length
from amctc.calibrate.frontier import fed_array
from amctc.calibrate.inputs import no_samples
from amctc.contract import Changes, Contract
from amctc.cycles import layer_macs
from amctc.ir import Graph, GraphInput, Op, Value, apply, layer_name, with_operands
from amctc.onnx_bridge.runtime import FloatSession
from amctc.ops import nn
from amctc.outputs import with_scores
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import F32, Array, TensorType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED
from amctc_passes.quantize.layers import layers
from amctc_passes.quantize.reference import before_quantizer

_WORTH, _OUT_OF_PROPORTION = 0.05, 2.0

_MOST_MACS, _FEWEST_SAMPLES = 2e12, 4
"""Work for all measurements, a few minutes on a core; below it samples are cut, but not to fewer than these."""


@register
@dataclass(frozen=True)
class RollBack(Pass):
    """Take the quantizers off the most sensitive layers, within a budget, until the outputs are clean enough.

    The sensitivity of a layer is the noise at the outputs, over their power, when its activations alone are quantized,
    measured on the first ``samples``. Noises of layers add up. While their sum is above the noise of ``sqnr`` decibels,
    the layer with the most noise per multiply-accumulate goes back to float, as long as all that went back have at most
    the share ``budget`` of the multiply-accumulates. Only layers out of proportion go: those that make at least a
    twentieth of the noise and twice their share of it. Each is noted. Every output counts alike; a final softmax is
    looked through. Where the outputs are clean enough at once that takes a run per sample, else one per layer too, and
    for a large network fewer samples.
    """

    sqnr: float = 35.0
    budget: float = 0.1
    samples: int = 16

    name: ClassVar[str] = "roll-back"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("sensitive layers return to float"), requires=(NOT_LOWERED, UNOBSERVED), keeps=(TWO_OF_FOUR,),
        idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 0.0 <= self.budget <= 1.0:
            raise ValueError(f"budget={self.budget} is no share")
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} is not positive")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Measure, choose, and strip quantizers."""
        quantized = [op for op in graph.ops if _quantized_operands(op)]
        if len(quantized) < 2:
            return graph
        macs = {op: layer_macs(op) or 0 for op in layers(graph)}
        affordable = int(_MOST_MACS // max(1, len(quantized) * sum(macs.values())))
        noise = self._noise(graph, quantized, context, min(self.samples, max(_FEWEST_SAMPLES, affordable)))
        if not noise:
            return graph
        chosen = self._chosen(noise, macs)
        for op in (op for op in quantized if op in chosen):
            decibels = -10.0 * np.log10(noise[op])
            context.note(self.name, layer_name(op), f"left in float: quantized, it alone limits the outputs to "
                         f"{decibels:.1f} dB")  # fmt: skip

        def stripped(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            if op not in chosen:
                return None
            return with_operands(op, tuple(None if o is None else before_quantizer(o) for o in operands)).results

        return convert(graph, stripped)

    def _noise(self, graph: Graph, quantized: list[Op], context: Context, samples: int) -> dict[Op, float]:
        """The noise of each op alone; of none where the outputs are clean enough with all of them."""
        collection = context.collection(self.name, quantized)
        shares = collection.array("shares", (collection.done,), np.float64).tolist() if collection.done else []
        if not collection.finished:
            probe = OutputNoise(graph, quantized, context, samples)
            for ops in [quantized, *([op] for op in quantized)][len(shares) :]:
                if shares and shares[0] <= self._allowed:
                    break
                shares.append(probe.share(ops))
                collection.advance(lambda: {"shares": np.array(shares)})
                context.progress("measuring sensitivities", len(shares) - 1, len(quantized))
            collection.finish()
        return dict(zip(quantized, shares[1:], strict=False))

    @property
    def _allowed(self) -> float:
        return float(10.0 ** (-self.sqnr / 10.0))

    def _chosen(self, noise: Mapping[Op, float], macs: Mapping[Op, int]) -> set[Op]:
        left = total = sum(noise.values())
        work = max(1, sum(macs.values()))
        spare, chosen = self.budget, set[Op]()
        for op in sorted(noise, key=lambda o: -noise[o] / max(macs.get(o, 0), 1)):
            cost = macs.get(op, 0) / work
            worth = noise[op] >= max(_WORTH, _OUT_OF_PROPORTION * cost) * total
            if left > self._allowed and cost <= spare and worth:
                chosen.add(op)
                spare -= cost
                left -= noise[op]
        return chosen


class OutputNoise:
    """What the quantizers in front of ``ops`` do to the outputs, on whole batches until there are ``samples``.

    One session serves all questions: each quantized operand becomes x + gate·(dequantize(quantize(x)) - x).
    """

    def __init__(self, graph: Graph, ops: Sequence[Op], context: Context, samples: int) -> None:
        batches = _first(context.calibration(RollBack.name), samples)
        gated, self._gates = _gated(graph, ops)
        self._session = FloatSession(gated, optimise=False, provider=context.provider)
        self._outputs = [n for n, o in zip(gated.output_names, gated.outputs, strict=True) if o.type.is_float]
        closed: dict[str, Array] = {g.name: np.zeros((), np.float32) for g in self._gates.values()}
        self._batches = [{i.name: fed_array(i, feeds) for i in graph.inputs} | closed for feeds in batches]
        if not self._batches:
            raise no_samples()
        self._clean = [self._session.run(feeds) for feeds in self._batches]
        self._signal = np.sum([[_energy(clean[n]) for n in self._outputs] for clean in self._clean], axis=0)

    def share(self, ops: Iterable[Op]) -> float:
        """Noise over signal with the quantizers of ``ops`` at work, the mean over the floating-point outputs."""
        opened: dict[str, Array] = {self._gates[op].name: np.ones((), np.float32) for op in ops}
        noise = np.zeros(len(self._outputs))
        for feeds, clean in zip(self._batches, self._clean, strict=True):
            disturbed = self._session.run(feeds | opened)
            noise += [_difference(disturbed[n], clean[n]) for n in self._outputs]
        shares = np.divide(noise, self._signal, out=np.zeros_like(noise), where=self._signal > 0)
        return float(shares.mean()) if self._outputs else 0.0


def _first(batches: Iterable[Mapping[str, Array]], samples: int) -> Iterator[Mapping[str, Array]]:
    """Whole batches that hold at least ``samples`` samples, or all there are."""
    seen = 0
    for feeds in batches:
        yield feeds
        seen += batch_length(feeds)
        if seen >= samples:
            return


def _difference(a: Array, b: Array) -> float:
    """The energy of a - b; none where their shapes depend on the data and differ (detections)."""
    if a.shape != b.shape:
        return 0.0
    with np.errstate(invalid="ignore"):  # infinities may be masked positions
        return _energy(a - b)


def _energy(array: Array) -> float:
    """The sum of squares of what is finite."""
    return float(np.square(array, where=np.isfinite(array), out=np.zeros(array.shape)).sum())


def _quantized_operands(op: Op) -> bool:
    return any(o is not None and before_quantizer(o) is not o for o in op.operands)


def _gated(graph: Graph, ops: Sequence[Op]) -> tuple[Graph, dict[Op, GraphInput]]:
    """The graph with a scalar input for each of ``ops`` that switches its quantizers on."""
    gates = {op: GraphInput(f"gate/{i}", TensorType((), F32)) for i, op in enumerate(ops)}

    def gated(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        if op not in gates:
            return None
        return with_operands(op, tuple(None if o is None else _switched(o, gates[op]) for o in operands)).results

    converted = convert(graph, gated)
    inputs, outputs = (*graph.inputs, *gates.values()), with_scores(converted).outputs
    return Graph(inputs, outputs, graph.output_names), gates


def _switched(value: Value, gate: Value) -> Value:
    source = before_quantizer(value)
    if source is value:
        return value
    return apply(nn.Add(), source, apply(nn.Mul(), gate, apply(nn.Sub(), value, source)))
