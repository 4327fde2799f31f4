"""Calibrate: run the samples and put what each quantization point saw into the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.calibrate.collect import collect
from amctc.calibrate.observers import Observers
from amctc.contract import Contract, Exact
from amctc.errors import InputError
from amctc.ir import Graph, Value, apply
from amctc.numerics.moving_average import MovingAverageRange
from amctc.ops import quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import substitute
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED
from amctc_passes.quantize.points import quantizable_ops


@register
@dataclass(frozen=True)
class Observe(Pass):
    """Observe, over the samples, every value that a quantizer may stand behind on the target.

    These are the data inputs of layers and average pools, both sides of products of computed matrices, and the
    inputs of the additions and max pools that ``tensor`` names, by name with wildcards, as for ``place-qdq``.
    ``bins`` is the resolution of the histograms: a power of two, half of the bins for negative values.

    ``moving-average`` also averages the range over batches, for ``place-qdq{method=moving-average}``: each batch moves
    either end by ``rate`` of its difference, towards the extremes of the batch or, below 100, its ``percentile``. The
    result depends on the order and the size of the batches; histograms do not.
    """

    bins: int = 4096
    tensor: tuple[str, ...] = ()
    moving_average: bool = False
    rate: float = 0.01
    percentile: float = 100.0

    name: ClassVar[str] = "observe"
    contract: ClassVar[Contract] = Contract(
        effect=Exact(), requires=(UNQUANTIZED, UNOBSERVED), keeps=(TWO_OF_FOUR,), idempotent=False
    )

    def __post_init__(self) -> None:
        if self.bins < 256 or self.bins & (self.bins - 1):
            raise ValueError(f"bins={self.bins} is no power of two of at least 256")
        try:
            self._average()
        except InputError as error:
            raise ValueError(error.what) from None

    def _average(self) -> MovingAverageRange:
        return MovingAverageRange(self.rate, self.percentile)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Wrap each observed value in a ``quant.observe`` that holds what was seen of it."""
        ops = quantizable_ops(graph, context.target, self.tensor)
        values = list(dict.fromkeys(p.value for op in ops if op.obstacle is None for p in op.points))
        if not values:
            return graph
        samples, average = context.calibration(self.name), self._average() if self.moving_average else None
        found = collect(
            graph, values, samples, Observers.empty(len(values), self.bins, average),
            collection=context.collection(self.name, values), progress=context.progress, executor=context.executor,
            provider=context.provider,
        )  # fmt: skip
        wrapped: dict[Value, Value] = {}
        for index, value in enumerate(values):
            origins = () if value.producer is None else value.producer.origins
            ends = found.averages[index].range() if average is not None and found.averages[index].batches else ()
            wrapped[value] = apply(quant.Observe.of(found.histograms[index], ends), value, origins=origins)
        return substitute(graph, wrapped)
