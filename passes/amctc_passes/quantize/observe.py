"""Calibrate: run the samples and put what each quantization point saw into the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.calibrate.collect import collect_histograms
from amctc.contract import Contract, Exact
from amctc.errors import UsageError
from amctc.ir import Graph, Value, apply, constant_data
from amctc.ops import quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import substitute
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED
from amctc_passes.quantize.layers import layers


@register
@dataclass(frozen=True)
class Observe(Pass):
    """Observe the data input of every layer over the samples.

    ``bins`` is the resolution of the histograms: a power of two, half of the bins for negative values.
    """

    bins: int = 4096

    name: ClassVar[str] = "observe"
    contract: ClassVar[Contract] = Contract(
        effect=Exact(), requires=(UNQUANTIZED, UNOBSERVED), keeps=(TWO_OF_FOUR,), idempotent=False
    )

    def __post_init__(self) -> None:
        if self.bins < 256 or self.bins & (self.bins - 1):
            raise ValueError(f"bins={self.bins} is no power of two of at least 256")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Wrap each observed value in a ``quant.observe`` that holds its histogram."""
        points: dict[Value, None] = {}
        for op in layers(graph):
            data = op.operands[0]
            assert data is not None
            if data.type.is_float and constant_data(data) is None:
                points[data] = None
        if not points:
            return graph
        if context.samples is None:
            raise UsageError("calibration needs samples", where="pass observe", remedy="pass samples (--data)")
        found = collect_histograms(graph, list(points), context.samples, bins=self.bins, progress=context.progress)
        wrapped: dict[Value, Value] = {}
        for value, histogram in zip(points, found, strict=True):
            origins = () if value.producer is None else value.producer.origins
            wrapped[value] = apply(quant.Observe.of(histogram), value, origins=origins)
        return substitute(graph, wrapped)
