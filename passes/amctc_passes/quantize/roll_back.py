"""Return to float what disturbs the outputs out of proportion to the work it saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Changes, Contract
from amctc.cycles import layer_macs
from amctc.ir import Graph, Op, Value, layer_name, with_operands
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED
from amctc_passes.quantize.layers import layers
from amctc_passes.quantize.reference import before_quantizer
from amctc_passes.ranges.output_noise import OutputNoise

_WORTH, _OUT_OF_PROPORTION = 0.02, 2.0

_MOST_MACS, _FEWEST_SAMPLES = 2e12, 4
"""Work for all measurements, a few minutes on a core; below it samples are cut, but not to fewer than these."""


@register
@dataclass(frozen=True)
class RollBack(Pass):
    """Take the quantizers off the most sensitive layers, within a budget, until the outputs are clean enough.

    The sensitivity of a layer is the noise at the outputs, over their power, when its activations alone are quantized,
    measured on the first ``samples``. Noises of layers add up. While their sum is above the noise of ``sqnr`` decibels,
    the layer with the most noise per multiply-accumulate goes back to float, as long as all that went back have at most
    the share ``budget`` of the multiply-accumulates. Only layers out of proportion go: of the noise that is left when
    it is their turn they make at least a fiftieth, and twice their share of the multiply-accumulates. Each is noted.
    Every output counts alike; a final softmax is looked through. Where the outputs are clean enough at once that takes
    a run per sample, else one per layer too, and for a large network fewer samples.
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
            batches = context.calibration(self.name)
            probe = OutputNoise(graph, quantized, batches, samples, context.provider)
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
        left = sum(noise.values())
        work = max(1, sum(macs.values()))
        spare, chosen = self.budget, set[Op]()
        for op in sorted(noise, key=lambda o: -noise[o] / max(macs.get(o, 0), 1)):
            cost = macs.get(op, 0) / work
            worth = noise[op] >= max(_WORTH, _OUT_OF_PROPORTION * cost) * left
            if left > self._allowed and cost <= spare and worth:
                chosen.add(op)
                spare -= cost
                left -= noise[op]
        return chosen


def _quantized_operands(op: Op) -> bool:
    return any(o is not None and before_quantizer(o) is not o for o in op.operands)
