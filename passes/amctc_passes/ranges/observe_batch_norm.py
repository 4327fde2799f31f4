"""Calibrate without data: put what batch normalisations say of each quantization point into the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.errors import UsageError
from amctc.ir import Graph, Value, apply
from amctc.ops import quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import substitute
from amctc_passes.facts import TWO_OF_FOUR, UNOBSERVED, UNQUANTIZED
from amctc_passes.quantize.points import quantizable_ops
from amctc_passes.ranges.batch_norm_statistics import channel_statistics


@register
@dataclass(frozen=True)
class ObserveBatchNorm(Pass):
    """Observe without samples what lies behind batch normalisations: channels of Gaussian numbers, cut by activations.

    Batch normalisation leaves each channel with mean β and deviation |γ| over the training data (Nagel et al. 2019).
    ``observe`` looks at values, this pass at the normalisations before them, so it stands before ``fold-batch-norm``.
    Points that no normalisation says anything of are not observed and stay in float; inputs of the graph are such.
    ``required``: a model in which that is all is an error.
    """

    bins: int = 4096
    required: bool = False

    name: ClassVar[str] = "observe-batch-norm"
    contract: ClassVar[Contract] = Contract(
        effect=Exact(), requires=(UNQUANTIZED, UNOBSERVED), keeps=(TWO_OF_FOUR,), idempotent=False
    )

    def __post_init__(self) -> None:
        if self.bins < 256 or self.bins & (self.bins - 1):
            raise ValueError(f"bins={self.bins} is no power of two of at least 256")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Wrap each value that statistics are known of in a ``quant.observe`` that holds them.

        Raises :class:`UsageError` where that is none, though there are layers to quantize, if it is ``required``.
        """
        points = [p for op in quantizable_ops(graph, context.target) if op.obstacle is None for p in op.points]
        wrapped: dict[Value, Value] = {}
        for value in dict.fromkeys(p.value for p in points):
            statistics = channel_statistics(value)
            if statistics is not None:
                origins = () if value.producer is None else value.producer.origins
                kind = quant.Observe.of(statistics.histogram(self.bins))
                wrapped[value] = apply(kind, value, origins=origins)
        if self.required and points and not wrapped:
            raise UsageError("no layer reads what a batch normalisation determines: without data there are no ranges",
                             remedy="keep normalisations when exporting, or calibrate with --data")  # fmt: skip
        return substitute(graph, wrapped)
