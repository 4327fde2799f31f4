"""Quantize weights so that the outputs of their layers change least, and correct the biases for what still changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from amctc.calibrate.contraction import Contraction
from amctc.calibrate.frontier import Frontier, watched
from amctc.contract import Changes, Contract
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.gram import Covariance, Mean
from amctc.numerics.second_order import DAMPING, round_second_order
from amctc.numerics.threads import single_threaded_blas
from amctc.ops import nn
from amctc.pipeline import Batch, Context, Pass, register
from amctc.substitute import convert
from amctc.types import Array, QuantizedType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED, is_quantized
from amctc_passes.quantize.layers import layers
from amctc_passes.quantize.reference import before_quantizer, without_quantizers
from amctc_passes.quantize.weight_types import WeightScheme, dequantized_weight

Float64Array = npt.NDArray[np.float64]

LONGEST = 2304
"""Terms whose covariances are kept together: 3 × 3 windows of 256 channels, 40 MiB in float64."""


@register
@dataclass(frozen=True)
class RoundWeights(Pass):
    """Quantize weights by second-order rounding (GPTQ) and correct biases, layer after layer.

    Each layer sees the input it will see: quantized, from layers already rounded. Its weights are rounded with the
    covariance of that input (Frantar et al. 2023), from about ``columns`` windows spread over the samples, so that
    the errors of one output cancel; its bias takes up the difference of the mean outputs that is left (Nagel et al.
    2019, section 4.2, measured on the samples). Scales are those of ``quantize-weights``.
    """

    bits: int = 8
    per_channel: bool = True
    correct_bias: bool = True
    damping: float = DAMPING
    columns: int = 16384

    name: ClassVar[str] = "round-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to integers, biases corrected"), requires=(NOT_LOWERED, UNOBSERVED),
        ensures=(WEIGHTS_QUANTIZED,), keeps=(TWO_OF_FOUR,),
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.scheme()
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f"damping={self.damping} is not above 0 and at most 1")
        if self.columns < 1:
            raise ValueError(f"columns={self.columns} is not positive")

    def scheme(self) -> WeightScheme:
        """Bits and scales."""
        return WeightScheme(self.bits, self.per_channel, self.name)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Convert layer by layer in topological order, running the part of the network in between."""
        chosen = [o for o in layers(graph) if is_quantized(o.operands[0]) and constant_data(o.operands[1]) is not None]
        if not chosen:
            return graph
        return _Rounding(self, graph, chosen, context).run()


class _Rounding:
    """One walk over a graph."""

    def __init__(self, options: RoundWeights, graph: Graph, chosen: list[Op], context: Context) -> None:
        self._options, self._graph, self._context = options, graph, context
        self._index = {op: i for i, op in enumerate(chosen)}
        self._scheme = options.scheme()
        samples = context.calibration(options.name)
        self._frontier = Frontier(samples, context.provider)
        self._released = _last_readers(chosen)
        self._built: dict[Value, Value] = {}
        self._means = _float_means(graph, chosen, samples, context.provider) if options.correct_bias else {}

    def run(self) -> Graph:
        with single_threaded_blas():  # threads cost more than they give on small matrices, and reorder sums
            return convert(self._graph, self._converted)

    def _converted(self, op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        if op not in self._index:
            return None
        old, new = before_quantizer(op.operands[0]), before_quantizer(operands[0])
        self._built[old] = new
        try:
            self._frontier.store(new)
            result = self._rounded(op, operands)
        except AmctcError as error:
            raise error.located(layer_name(op)) from None
        for value in self._released.get(op, ()):
            self._frontier.drop(self._built[value])
        self._context.progress("rounding weights", self._index[op] + 1, len(self._index))
        return (result,)

    def _rounded(self, op: Op, operands: tuple[Value | None, ...]) -> Value:
        weight, data = operands[1], constant_data(operands[1])
        assert weight is not None
        assert data is not None
        contraction, elem = contraction_of(op), self._scheme.weight_type(op, operands, self._context)
        mean, covariances = self._moments(op, operands[0], contraction)
        matrix = contraction.matrix(data.read()).astype(np.float64)
        scales = _scales_of(elem, contraction, matrix.shape[:2])
        codes = np.empty(matrix.shape, np.int8)
        for part, covariance in covariances:
            for group, h in enumerate(covariance):
                codes[group, :, part] = round_second_order(
                    matrix[group, :, part], h, scales[group], bits=elem.storage.bits, damping=self._options.damping
                )
        real = dequantized_weight(op, weight, np.ascontiguousarray(contraction.weight(codes)), elem)
        rest = operands[2:]
        if self._options.correct_bias:
            shift = np.einsum("gok,gk->go", matrix, self._means[op])
            shift -= np.einsum("gok,gk->go", codes * scales[:, :, None], mean)
            rest = (_corrected(op, operands[2] if rest else None, shift.reshape(-1), data.dtype),)
        return apply(op.kind, operands[0], real, *rest, name=op.result.name)

    def _moments(
        self, op: Op, data: Value | None, contraction: Contraction
    ) -> tuple[Float64Array, list[tuple[slice, Float64Array]]]:
        """Mean [G, K] of what the layer reads, and covariances [G, k, k] of its parts, from the frontier."""
        assert data is not None
        centre, mean, seen = self._means.get(op), Mean(), 0
        parts = _parts(contraction.length)
        covariances = [Covariance(None if centre is None else centre[:, p]) for p in parts]
        share = -(-max(self._options.columns, 4 * (parts[0].stop - parts[0].start)) // max(1, self._frontier.rows))
        for x in map(np.atleast_2d, self._frontier.read(data)):
            mean.add(*contraction.mean_column(x))
            columns = contraction.columns(x, self._spread(op, seen, x, contraction.positions(x), share))
            for part, covariance in zip(parts, covariances, strict=True):
                covariance.add(columns[:, part])
            seen += len(x)
        whole = np.broadcast_to(mean.value, (contraction.groups, contraction.length))
        square = [c.matrix(contraction.groups, p.stop - p.start) for p, c in zip(parts, covariances, strict=True)]
        return whole, list(zip(parts, square, strict=True))

    def _spread(self, op: Op, first: int, x: Array, positions: int, share: int) -> npt.NDArray[np.int64]:
        """Which windows of each row of ``x`` count [N, P]: drawn by the number of the row, whatever its batch."""
        seeds = ([self._context.seed, self._index[op], first + i] for i in range(len(x)))
        drawn = [np.random.default_rng(s).permutation(positions)[:share] for s in seeds]
        return np.array(drawn, np.int64).reshape(len(x), min(share, positions))


def _parts(length: int) -> list[slice]:
    """The terms of a long sum in parts, each rounded by its own covariance: memory and time grow with their squares."""
    count = max(1, -(-length // LONGEST))
    ends = [length * (i + 1) // count for i in range(count)]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def contraction_of(op: Op) -> Contraction:
    """A layer with a weight of known shape as a matrix product."""
    weight = op.operands[1]
    assert isinstance(op.kind, nn.Layer)
    assert weight is not None
    return Contraction(op.kind, tuple(d for d in weight.type.dims if isinstance(d, int)))


def _scales_of(elem: QuantizedType, contraction: Contraction, shape: tuple[int, ...]) -> Float64Array:
    """Scales [G, O/G]: one per output, groups of a transposed convolution share theirs."""
    scales = elem.scale_array.astype(np.float64)
    shared = elem.axis is None or isinstance(contraction.kind, nn.ConvTranspose)
    return np.broadcast_to(scales, shape) if shared else scales.reshape(shape)


def _corrected(op: Op, bias: Value | None, shift: Float64Array, dtype: np.dtype[np.generic]) -> Value:
    """``bias`` plus ``shift`` [O]; a layer without a bias gets one."""
    data = constant_data(bias)
    old = np.zeros(1) if data is None else data.read().astype(np.float64)
    name = f"{layer_name(op)}.bias" if bias is None else bias.name
    return const((old + shift).astype(dtype), name=name)


def _float_means(graph: Graph, chosen: list[Op], samples: Iterable[Batch], provider: str) -> Mapping[Op, Float64Array]:
    """The mean columns [G, K] that each layer reads in the float network."""
    reference, twins = without_quantizers(graph)
    read = {op: twins[before_quantizer(op.operands[0])] for op in chosen}
    means = {op: Mean() for op in chosen}
    for arrays in watched(reference, list(dict.fromkeys(read.values())), samples, provider):
        for op in chosen:
            means[op].add(*contraction_of(op).mean_column(arrays[read[op]]))
    return {op: mean.value for op, mean in means.items()}


def _last_readers(chosen: list[Op]) -> dict[Op, list[Value]]:
    """Per layer, the kept values (of the old graph) from which no later piece starts."""
    kept: set[Value] = set()
    last: dict[Value, Op] = {}
    for op in chosen:
        value = before_quantizer(op.operands[0])
        stack, seen = [value], set[Value]()
        while stack:
            top = stack.pop()
            if top in kept:
                last[top] = op
            elif top not in seen and top.producer is not None:
                seen.add(top)
                stack.extend(o for o in top.producer.operands if o is not None)
        kept.add(value)
        last[value] = op
    found: dict[Op, list[Value]] = {}
    for value, op in last.items():
        found.setdefault(op, []).append(value)
    return found
