"""Quantize weights so that the outputs of their layers change least, and correct the biases for what still changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from amctc.aside import SetAside
from amctc.calibrate.contraction import Contraction
from amctc.calibrate.ends import first_layers, last_layers
from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.adaround import adaround
from amctc.numerics.scale_search import NARROWEST, search_scales
from amctc.numerics.second_order import DAMPING, SWEEPS, damped, quadratic_loss, round_second_order
from amctc.numerics.threads import single_threaded_blas
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I4, Array, QuantizedType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED
from amctc_passes.quantize.reference import before_quantizer, without_quantizers
from amctc_passes.weights.held_rounding import better_held_back, mean_shift, rounded_to_nearest
from amctc_passes.weights.layer_inputs import LayerInputs, at_layer, contraction_of
from amctc_passes.weights.layer_moments import Part, float_means, layer_moments
from amctc_passes.weights.weight_types import WeightScheme, dequantized_weight, narrowable

Float64Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]


@register
@dataclass(frozen=True)
class RoundWeights(Pass):
    """Quantize weights by second-order rounding (GPTQ) and correct biases, layer after layer.

    Each layer sees the input it will see: quantized, from layers already rounded. Its weights are rounded with the
    covariance of that input (Frantar et al. 2023), from about ``columns`` windows spread over the samples, so that
    the errors of one output cancel; its bias takes up the difference of the mean outputs that is left (Nagel et al.
    2019, section 4.2, measured on the samples). ``method=adaround`` learns to round up or down (Nagel et al. 2020).
    Tried first on three samples of four: where on the fourth the outputs are no nearer than with weights rounded to
    nearest the layer takes those, else what is fitted to all. Where the correction of a bias does not hold across
    samples the bias stays. Both are noted. Without ``correct-int8`` biases are corrected only beside weights of 4 bits.
    Scales, ``int4`` and ``weight-only`` are those of ``quantize-weights``; to weights of 4 bits belongs more:

    - of ``scales`` shares of the range, the one with the least error of the output, rounded (sequential MSE);
    - ``compensate``: weights that make up for what earlier layers lost are rounded in place of the model's own (Li et
      al. 2025, GPTAQ); with ``compensate-int8`` those of 8 bits too;
    - ``ends-int8``: layers that no layer comes before, or none after, take 8 bits; a note names them.
    """

    bits: int = 8
    per_channel: bool = True
    correct_bias: bool = True
    correct_int8: bool = True
    damping: float = DAMPING
    columns: int = 16384
    int4: tuple[str, ...] = ()
    weight_only: tuple[str, ...] = ()
    method: Literal["gptq", "adaround"] = "gptq"
    sweeps: int = SWEEPS
    scales: int = 8
    compensate: bool = True
    ends_int8: bool = False
    compensate_int8: bool = False

    name: ClassVar[str] = "round-weights"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to integers, biases corrected"), requires=(NOT_LOWERED, UNOBSERVED),
        ensures=(WEIGHTS_QUANTIZED,), keeps=(TWO_OF_FOUR,),
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.scheme()
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f"damping={self.damping} is not above 0 and at most 1")
        for option, least in (("columns", 1), ("sweeps", 0), ("scales", 1)):
            if getattr(self, option) < least:
                raise ValueError(f"{option}={getattr(self, option)} is below {least}")

    def scheme(self) -> WeightScheme:
        """Bits and scales."""
        return WeightScheme(self.bits, self.per_channel, self.name, self.int4, weight_only=self.weight_only)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Convert layer by layer in topological order, running the part of the network in between."""
        chosen = self.scheme().chosen(graph, context)
        if not chosen:
            return graph
        return _Rounding(self, graph, chosen, context).run()


REMARKS = (
    "weights rounded to nearest: on samples held back, second-order rounding disturbs the outputs more",
    "bias left as it was: what its mean outputs lack differs from sample to sample",
    "bias left as it was where its correction would overflow int32 (N9)",
)
_NEAREST, _BIAS_KEPT, _BIAS_OVERFLOWS = range(len(REMARKS))


@dataclass(frozen=True)
class _Rounded:
    """A weight in integers, its scales, what its bias is corrected by [O], and which of :data:`REMARKS` apply."""

    integers: Array
    scales: Float64Array
    shift: Float64Array
    remarks: npt.NDArray[np.int64]


class _Rounding:
    """One walk over a graph."""

    def __init__(self, options: RoundWeights, graph: Graph, chosen: list[Op], context: Context) -> None:
        self._options, self._graph, self._context = options, graph, context
        self._index = {op: i for i, op in enumerate(chosen)}
        self._scheme = options.scheme()
        if options.ends_int8:
            self._scheme = replace(
                self._scheme, int8=tuple(map(layer_name, (*first_layers(graph), *last_layers(graph))))
            )
        self._inputs = LayerInputs(chosen, context, options.name, options.columns)
        four = options.bits == 4 or bool(options.int4)
        self._corrects = options.correct_bias and (options.correct_int8 or four)
        self._means = float_means(graph, chosen, context, options.name) if self._corrects else {}
        self._float: LayerInputs | None = None
        if options.compensate_int8 or (options.compensate and four):
            self._float = LayerInputs(chosen, context, options.name, options.columns)
            self._twins = without_quantizers(graph)[1]
        self._collection = context.collection(options.name, chosen)
        self._state: dict[str, Array] = {}
        self._aside = SetAside("rounded weights")

    def run(self) -> Graph:
        with single_threaded_blas():  # threads cost more than they give on small matrices, and reorder sums
            result = convert(self._graph, self._converted)
        self._collection.finish()
        return result

    def _converted(self, op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        if op not in self._index:
            return None
        reads = [(self._inputs, operands[0])]
        if self._float is not None:
            reads.append((self._float, self._twin(op)))
        # Stored for a layer that was rounded before, too: others start there.
        with at_layer(op, reads, stored=not self._collection.finished):
            result = self._quantized(op, operands)
        self._context.progress("rounding weights", self._index[op] + 1, len(self._index))
        return (result,)

    def _twin(self, op: Op) -> Value:
        """What the layer reads in the float network."""
        return self._twins[before_quantizer(op.operands[0])]

    def _quantized(self, op: Op, operands: tuple[Value | None, ...]) -> Value:
        weight, data = operands[1], constant_data(operands[1])
        assert weight is not None
        assert data is not None
        elem = self._scheme.weight_type(op, operands, self._context)
        found = self._kept(op, data.shape, len(elem.scales)) or self._rounded(op, operands, data.read(), elem)
        index, stored = self._index[op], self._aside.array(found.integers)
        self._state |= {f"{index} weight": stored.read(), f"{index} scales": found.scales,
                        f"{index} shift": found.shift, f"{index} remarks": found.remarks}  # fmt: skip
        if index >= self._collection.done:
            self._collection.advance(lambda: self._state)
        for remark in np.flatnonzero(found.remarks).tolist():
            self._context.note(self._options.name, layer_name(op), REMARKS[remark])
        elem = replace(elem, scales=tuple(map(float, found.scales)))
        real, rest = dequantized_weight(op, weight, stored, elem), operands[2:]
        if self._corrects:
            rest = (_corrected(op, operands[2] if rest else None, found.shift, data.dtype),)
        return apply(op.kind, operands[0], real, *rest, name=op.result.name)

    def _kept(self, op: Op, shape: tuple[int, ...], scales: int) -> _Rounded | None:
        """What :meth:`_rounded` gave in the run that this one resumes, if it came to this layer."""
        index, array = self._index[op], self._collection.array
        if index >= self._collection.done:
            return None
        return _Rounded(
            array(f"{index} weight", shape, np.int8), array(f"{index} scales", (scales,), np.float64),
            array(f"{index} shift", (contraction_of(op).outputs,), np.float64),
            array(f"{index} remarks", (len(REMARKS),), np.int64),
        )  # fmt: skip

    def _rounded(
        self, op: Op, operands: tuple[Value | None, ...], weight: Array, elem: QuantizedType
    ) -> _Rounded:  # fmt: skip
        contraction, four = contraction_of(op), elem.storage == I4
        wanted = self._options.compensate if four else self._options.compensate_int8
        reference = (self._float, self._twin(op)) if self._float is not None and wanted else None
        means = self._means.get(op)
        moments = layer_moments(op, operands[0], self._inputs, None if means is None else means.value, reference)
        matrix = contraction.matrix(weight).astype(np.float64)
        full = elem.scale_array.astype(np.float64)
        spread = _spread_scales(full, elem, contraction, matrix.shape[:2])
        free = np.zeros(matrix.shape[:2], bool)
        if searched := four and len(full) == contraction.outputs:
            free = narrowable(op, operands, elem, NARROWEST).reshape(free.shape)
        bits, remarks = elem.storage.bits, np.zeros(len(REMARKS), np.int64)
        scales, codes = self._tried(matrix, moments.to_choose(), spread, free, bits)
        nearest = rounded_to_nearest(matrix, spread, bits)
        if better_held_back(moments.to_judge(), matrix, (codes, scales), (nearest, spread)):
            codes = self._fitted(matrix, moments.of_all(), scales, bits)
        else:
            remarks[_NEAREST], scales, codes = 1, spread, nearest
        shift = np.zeros(matrix.shape[:2])
        if means is not None:
            shift, remarks[_BIAS_KEPT] = mean_shift(means, moments.mean, matrix, codes * scales[:, :, None])
            fitting = self._fitting(op, operands, shift, scales.reshape(-1) if searched else full, elem)
            remarks[_BIAS_OVERFLOWS] = not fitting.all()
            shift = np.where(fitting, shift, 0.0)
        integers = np.ascontiguousarray(contraction.weight(codes))
        return _Rounded(integers, scales.reshape(-1) if searched else full, shift.reshape(-1), remarks)

    def _fitting(
        self, op: Op, operands: tuple[Value | None, ...], shift: Float64Array, scales: Float64Array, elem: QuantizedType
    ) -> Array:  # fmt: skip
        """The channels whose int32 bias and accumulator hold the bias with ``shift`` [G, O] (N9)."""
        corrected = _corrected(op, operands[2] if len(operands) > 2 else None, shift.reshape(-1), np.dtype(np.float64))
        kept = narrowable(op, (*operands[:2], corrected), replace(elem, scales=tuple(map(float, scales))), 1.0)
        return kept.reshape(shift.shape) if kept.size == shift.size else np.broadcast_to(kept.all(), shift.shape)

    def _tried(
        self, matrix: Float64Array, parts: Sequence[Part], full: Float64Array, free: Array, bits: int
    ) -> tuple[Float64Array, Codes]:
        """Scales [G, O], those that are ``free`` searched, and integers [G, O, K]."""
        scales, codes = full.copy(), np.empty(matrix.shape, np.int8)
        for group in range(len(matrix)):
            scales[group], codes[group] = self._searched(matrix, parts, group, full[group], free[group], bits)
        return scales, codes

    def _searched(
        self, matrix: Float64Array, parts: Sequence[Part], group: int, full: Float64Array, free: Array, bits: int
    ) -> tuple[Float64Array, Codes]:
        """Scales [O] and integers [O, K] of one group, its parts rounded one by one."""
        damping = self._options.damping
        works = [(p.terms, p.target(group, matrix[group, :, p.terms]), p.covariance[group]) for p in parts]

        def trial(scales: Float64Array) -> tuple[Codes, Float64Array]:
            codes, loss = np.empty(matrix.shape[1:], np.int8), np.zeros(len(scales))
            scales = np.where(free, scales, full)
            for terms, target, gram in works:
                codes[:, terms] = self._round(target, gram, scales, bits)
                loss += quadratic_loss(target - codes[:, terms] * scales[:, None], damped(gram, damping))
            return codes, loss

        known = free.any() and any(gram.any() for _, _, gram in works)  # one sample may say nothing
        return search_scales(full, trial, self._options.scales if known else 1)

    def _fitted(self, matrix: Float64Array, parts: Sequence[Part], scales: Float64Array, bits: int) -> Codes:
        """Integers [G, O, K] in steps of ``scales`` [G, O]."""
        codes = np.empty(matrix.shape, np.int8)
        for part, group in product(parts, range(len(matrix))):
            target = part.target(group, matrix[group, :, part.terms])
            codes[group, :, part.terms] = self._round(target, part.covariance[group], scales[group], bits)
        return codes

    def _round(self, target: Float64Array, gram: Float64Array, scales: Float64Array, bits: int) -> Codes:
        damping = self._options.damping
        if self._options.method == "adaround":
            return adaround(target, gram, scales, bits=bits, damping=damping)
        return round_second_order(target, gram, scales, bits=bits, damping=damping, sweeps=self._options.sweeps,
                                  executor=self._context.executor)  # fmt: skip


def _spread_scales(
    scales: Float64Array, elem: QuantizedType, contraction: Contraction, shape: tuple[int, ...]
) -> Float64Array:
    """Scales [G, O/G]: one per output, groups of a transposed convolution share theirs."""
    shared = elem.axis is None or isinstance(contraction.kind, nn.ConvTranspose)
    return np.array(np.broadcast_to(scales, shape) if shared else scales.reshape(shape))


def _corrected(op: Op, bias: Value | None, shift: Float64Array, dtype: np.dtype[np.generic]) -> Value:
    """``bias`` plus ``shift`` [O]; a layer without a bias gets one."""
    data = constant_data(bias)
    old = np.zeros(1) if data is None else data.read().astype(np.float64)
    name = f"{layer_name(op)}.bias" if bias is None else bias.name
    return const((old + shift).astype(dtype), name=name)
