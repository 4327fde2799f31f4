"""Correct the biases and scales of a quantized network for what quantization changed in the outputs of its layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from amctc.analysis import uses
from amctc.calibrate.checkpoint import Collection
from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.bias import accumulator_scale, fits_int32, has_headroom, quantize_bias
from amctc.numerics.threads import single_threaded_blas
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I4, I8, I32, Array, QuantizedType
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    is_quantized,
    quantized_type,
    stored_under,
)
from amctc_passes.quantize.float_twins import FloatTwin, float_twins, real_contents
from amctc_passes.quantize.layer_errors import BIAS, NONE, SCALE, Correction, layer_errors
from amctc_passes.quantize.layers import layers
from amctc_passes.weights.layer_inputs import LayerInputs, at_layer, contraction_of


@register
@dataclass(frozen=True)
class CompensateErrors(Pass):
    """Correct each quantized layer for what quantization changed in its output, in execution order.

    A layer reads what the corrected layers before it give. On about ``columns`` windows of the samples its sums are
    compared with those of the float network (``Context.reference``; without one, or where its layer is another, that
    of the weights as they are), and corrections are fitted per channel by least squares where the activation
    follows its input: of the bias (Nagel et al. 2019, section 4.2), and with ``rescale`` of the scale too, which
    changes no integer of the weight. One sample in four only judges: of no correction, that of the bias and both, a
    layer takes what leaves its outputs the least noise there. A note gives their ratio of signal to noise before and
    after. Biases that would leave int32 stay (N9).
    """

    rescale: bool = True
    columns: int = 4096

    name: ClassVar[str] = "compensate-errors"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("biases and weight scales are corrected"), requires=(NOT_LOWERED, UNOBSERVED),
        keeps=(WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR), idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise ValueError(f"columns={self.columns} is below 1")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Walk over the layers in topological order, running the part of both networks in between."""
        chosen = [op for op in layers(graph) if _correctable(op)]
        if not chosen:
            return graph
        return _Walk(self, graph, chosen, float_twins(graph, chosen, context.reference), context).run()


class _Walk:
    """One walk over a graph."""

    def __init__(
        self, options: CompensateErrors, graph: Graph, chosen: list[Op], twins: dict[Op, FloatTwin], context: Context
    ) -> None:  # fmt: skip
        self._options, self._graph, self._twins, self._context = options, graph, twins, context
        self._index = {op: i for i, op in enumerate(chosen)}
        self._quantized, self._real = (LayerInputs(chosen, context, options.name, options.columns) for _ in range(2))
        self._collection: Collection = context.collection(options.name, chosen)
        self._state: dict[str, Array] = {}

    def run(self) -> Graph:
        with single_threaded_blas():
            result = convert(self._graph, self._converted)
        self._collection.finish()
        return result

    def _converted(self, op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        if op not in self._index:
            return None
        reads = (self._quantized, operands[0]), (self._real, self._twins[op].data)
        with at_layer(op, reads, stored=not self._collection.finished):
            found = self._found(op, operands)
        self._context.progress("compensating errors", self._index[op] + 1, len(self._index))
        return _corrected(op, operands, found)

    def _found(self, op: Op, operands: tuple[Value | None, ...]) -> Correction:
        """The correction that holds for ``op``; measured now, or in the run that this one resumes."""
        index = self._index[op]
        if index < self._collection.done:
            array = self._collection.array
            gains, offsets = array(f"{index}", (2, contraction_of(op).outputs), np.float64)
            kind, before, after = array(f"{index} figures", (3,), np.float64).tolist()
            found = Correction(int(kind), gains, offsets, before, after)
        else:
            found = self._measured(op, operands)
        figures = np.array([found.kind, found.before, found.after], np.float64)
        self._state |= {f"{index}": np.stack([found.gains, found.offsets]), f"{index} figures": figures}
        if index >= self._collection.done:
            self._collection.advance(lambda: self._state)
        if found.kind != NONE:
            what = "bias" if found.kind == BIAS else "scale and bias"
            text = f"{what} corrected: its outputs come from {found.before:.1f} to {found.after:.1f} dB"
            self._context.note(self._options.name, layer_name(op), text)
        return found

    def _measured(self, op: Op, operands: tuple[Value | None, ...]) -> Correction:
        """What is best for ``op``, without the channels whose int32 bias or accumulator it would make overflow (N9)."""
        weight, bias = (real_contents(op.operand(i)) for i in (1, 2))
        assert weight is not None
        errors = layer_errors(op, operands[0], weight.read(), None if bias is None else bias.read(), self._twins[op],
                              self._quantized, self._real, _activation(op, self._graph))  # fmt: skip
        per_channel = len(quantized_type(op.operands[1]).scales) == contraction_of(op).outputs
        found = errors.best(rescale=self._options.rescale and per_channel)
        if found.kind == NONE:
            return found
        fits = _fits(op, _bias(op, found))
        found = replace(found, gains=np.where(fits, found.gains, 1.0), offsets=np.where(fits, found.offsets, 0.0))
        none = replace(found, gains=np.ones_like(found.gains), offsets=np.zeros_like(found.offsets))
        lost = _weight(op, found) == _weight(op, none) and np.array_equal(_bias(op, found)[0], _bias(op, none)[0])
        return replace(found, kind=NONE) if lost else found  # a correction below the steps of bias and scale is none


def _correctable(op: Op) -> bool:
    """Whether a layer computes with integers whose bias and scale can be changed."""
    if not (is_quantized(op.operands[0]) and is_quantized(op.operands[1])):
        return False
    weight, bias = op.operands[1], op.operand(2)
    data, elem, read = constant_data(stored_under(weight)), quantized_type(weight), quantized_type(op.operands[0])
    if data is None or elem.storage not in (I4, I8) or any(elem.zero_points) or elem.block or len(read.scales) > 1:
        return False
    assert isinstance(op.kind, nn.Layer)
    if isinstance(op.kind, nn.Gemm) and (op.kind.trans_a or (op.kind.alpha, op.kind.beta) != (1.0, 1.0)):
        return False
    if isinstance(op.kind, nn.MatMul) and len(data.shape) != 2:
        return False
    added, outputs = real_contents(bias), contraction_of(op).outputs
    whole = bias is None or (added is not None and added.shape == (outputs,))
    return whole and len(elem.scales) in (1, outputs)  # groups of a transposed convolution share theirs


def _activation(op: Op, graph: Graph) -> nn.Activation | None:
    """What acts on the sums of a layer before anything else reads them: its own activation, or an op of its own."""
    assert isinstance(op.kind, nn.Layer)
    readers = uses(graph).get(op.result, ())
    behind = readers[0].op if len(readers) == 1 else None
    if op.kind.activation is None and behind is not None and isinstance(behind.kind, nn.Activation):
        return behind.kind
    return op.kind.activation


def _weight(op: Op, found: Correction) -> QuantizedType:
    """The type of the corrected weight: its scales times the gains."""
    elem = quantized_type(op.operands[1])
    if found.kind != SCALE:
        return elem
    scales = (elem.scale_array.astype(np.float64) * found.gains).astype(np.float32)
    return replace(elem, scales=tuple(map(float, scales)))


def _bias(op: Op, found: Correction) -> tuple[Array, Array]:
    """The corrected bias in int64, and its steps: one, or one per output."""
    data = real_contents(op.operand(2))
    real = np.zeros(1) if data is None else data.read().astype(np.float64)
    scales = accumulator_scale(_weight(op, found).scale_array, np.float32(quantized_type(op.operands[0]).scales[0]))
    return quantize_bias((found.gains * real + found.offsets).astype(np.float32), scales), scales


def _fits(op: Op, bias: tuple[Array, Array]) -> Array:
    """Per output: whether the bias is an int32, and no accumulator can leave that range (N9)."""
    data = constant_data(stored_under(op.operands[1]))
    assert data is not None
    rows = contraction_of(op).matrix(data.read()).astype(np.int64)
    rows = rows.reshape(-1, rows.shape[2])
    zero_point = quantized_type(op.operands[0]).zero_points[0]
    return fits_int32(bias[0]) & has_headroom(bias[0], rows.sum(axis=1), np.abs(rows).sum(axis=1), zero_point)


def _corrected(op: Op, operands: tuple[Value | None, ...], found: Correction) -> tuple[Value, ...] | None:
    """The layer with the corrected weight scales and bias; an absent bias appears in the form of the others."""
    if found.kind == NONE:
        return None
    weight, bias = op.operands[1], op.operand(2)
    elem, (integers, scales) = _weight(op, found), _bias(op, found)
    assert weight is not None
    stored = stored_under(weight)
    read = const(constant_data(stored), elem, name=stored.name)
    real = apply(quant.Dequantize(), read, name=weight.name)
    if bias is not None and not is_quantized(bias):
        shifted = (integers * scales.astype(np.float64)).astype(elem.expressed.dtype)
        return (apply(op.kind, operands[0], real, const(shifted, name=bias.name), name=op.result.name),)
    axis = None if len(scales) == 1 else 0
    to = QuantizedType(I32, elem.expressed, tuple(map(float, scales)), (0,) * len(scales), axis, *I32.integer_range)
    name = f"{layer_name(op)}.bias.quant" if bias is None else stored_under(bias).name
    added = const(integers.astype(np.int32), to, name=name)
    dequantized = apply(quant.Dequantize(), added, name=f"{name}.dequant" if bias is None else bias.name)
    return (apply(op.kind, operands[0], real, dequantized, name=op.result.name),)
