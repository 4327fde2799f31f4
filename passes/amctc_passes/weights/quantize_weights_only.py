"""Quantize the weights of matrix products whose data stays in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from amctc.contract import Changes, Contract
from amctc.data import Data, deferred
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, constant_data, layer_name, with_operands
from amctc.numerics.weight_only import quantize_weight_only, weight_only_parameters
from amctc.numerics.weight_only_search import BlockScheme, RoundedWeight
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I4, I8, Array, QuantizedType
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    is_quantized,
    stands_for_integers,
)
from amctc_passes.quantize.layers import float_data_obstacle, int4_obstacle, layers, matching, names
from amctc_passes.weights.calibrated_weights import CalibratedWeights
from amctc_passes.weights.layer_inputs import contraction_of
from amctc_passes.weights.salient_channels import scaled_inputs
from amctc_passes.weights.weight_types import dequantized_weight
from amctc_passes.weights.weights_beside_layers import GATES, ROWS, WeightSlot, weight_slots, with_integer_weights


@register
@dataclass(frozen=True)
class QuantizeWeightsOnly(Pass):
    """Quantize the constant weights of MatMul and Gemm under float data (N21).

    ``embeddings`` are tables that Gather takes rows from, one scale per row, and ``recurrent`` the weights of LSTM, GRU
    and RNN, one per gate channel: int8, symmetric, to nearest, whatever the other options say. They are stored so; the
    rows taken, and what recurrent cells compute, are float on every target.

    ``group`` 0 gives each output channel one scale, else each ``group`` input channels of it one (a multiple of 32; a
    weight of fewer channels has one group). ``symmetric=false`` adds zero points. ``skip`` lists layers to leave in
    float, by name with wildcards. A weight that cannot be packed in 4 bits (N4) takes 8.

    ``method=nearest`` needs no samples. The others measure the error of each layer's output, on about ``columns`` rows
    of what it reads behind layers already rounded, and take per layer what is best on every fourth sample, which is
    held back; rounding to nearest where nothing is better. Notes say what each layer took and what that gained.
    ``gptq`` rounds by second moments (Frantar et al. 2022), ``awq`` scales inputs and narrows ranges (Lin et al. 2023),
    ``best`` tries both, and ranges narrowed for gptq.
    """

    bits: int = 8
    group: int = 0
    symmetric: bool = True
    skip: tuple[str, ...] = ()
    method: Literal["nearest", "gptq", "awq", "best"] = "nearest"
    columns: int = 16384
    embeddings: bool = True
    recurrent: bool = True

    name: ClassVar[str] = "quantize-weights-only"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded to integers, inputs of their layers rescaled"), requires=(NOT_LOWERED,),
        keeps=(UNOBSERVED, WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits={self.bits}: weights are stored in 4 or 8 bits")
        if self.group < 0 or self.group % 32:
            raise ValueError(f"group={self.group} is no multiple of 32")
        if self.columns < 1:
            raise ValueError(f"columns={self.columns} is not positive")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace float weights by dequantized integer ones."""
        slots = self._slots(graph)
        skipped = matching([*names(graph), *(layer_name(slot.op) for slot in slots)], self.skip, "skip")
        graph = self._layers(graph, skipped, context)
        kept = (slot for slot in self._slots(graph) if layer_name(slot.op) not in skipped)
        return with_integer_weights(graph, kept, context, self.name)

    def _slots(self, graph: Graph) -> list[WeightSlot]:
        wanted = {ROWS: self.embeddings, GATES: self.recurrent}
        return [slot for slot in weight_slots(graph) if wanted[slot.unit]]

    def _layers(self, graph: Graph, skipped: Container[str], context: Context) -> Graph:
        schemes = self._schemes(graph, skipped, context)
        if self.method == "nearest" or not schemes:
            return self._to_nearest(graph, schemes)
        if self.method != "gptq":
            scaled = scaled_inputs(graph, schemes, context, self.name)
            if scaled is not graph:
                graph, schemes = scaled, self._schemes(scaled, skipped, context, noted=False)
        if plain := self._uncalibrated(schemes, context):
            graph = self._to_nearest(graph, plain)
            schemes = self._schemes(graph, skipped, context, noted=False)
        walk = CalibratedWeights(schemes, context, self.name, clip=self.method != "gptq",
                                 second_order=self.method != "awq", columns=self.columns)  # fmt: skip
        return walk.run(graph, _with_rounded)

    def _uncalibrated(self, schemes: Mapping[Op, BlockScheme], context: Context) -> dict[Op, BlockScheme]:
        """The layers whose data says nothing about how to round their weights, noted."""
        readers = Counter(op.operands[1] for op in schemes)
        found: dict[Op, BlockScheme] = {}
        for op, scheme in schemes.items():
            reason = "other layers read its weight too" if readers[op.operands[1]] > 1 else None
            if getattr(op.kind, "trans_a", False):
                reason = "its data are transposed"
            if reason is not None:
                context.note(self.name, layer_name(op), f"rounded to nearest: {reason}")
                found[op] = scheme
        return found

    def _schemes(
        self, graph: Graph, skipped: Container[str], context: Context, *, noted: bool = True
    ) -> dict[Op, BlockScheme]:
        """The layers whose weights are quantized, and how; the others are ``noted``."""
        context = context if noted else replace(context, notes=[])
        found: dict[Op, BlockScheme] = {}
        for op in layers(graph):
            weight = op.operand(1)
            if stands_for_integers(op.operands[0]) or is_quantized(weight):
                continue
            reason = "skipped on request" if layer_name(op) in skipped else float_data_obstacle(op, context.target)
            if reason is not None:
                context.note(self.name, layer_name(op), f"left in float: {reason}")
                continue
            found[op] = BlockScheme(self._bits(op, context), self._block(op), self.symmetric)
        return found

    def _block(self, op: Op) -> int:
        return self.group if self.group < contraction_of(op).length else 0

    def _bits(self, op: Op, context: Context) -> int:
        obstacle = int4_obstacle(op, context.target) if self.bits == 4 else None
        if obstacle is None:
            return self.bits
        context.note(self.name, layer_name(op), f"weights stored in 8 bits, not 4: {obstacle} (N4)")
        return 8

    def _to_nearest(self, graph: Graph, schemes: Mapping[Op, BlockScheme]) -> Graph:
        """Weights rounded to nearest, computed when they are read; one that several layers read is stored once."""
        known: dict[tuple[Value, int, int], Value] = {}

        def quantized(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            if op not in schemes:
                return None
            weight = operands[1]
            assert isinstance(op.kind, nn.Layer)
            assert weight is not None
            key = weight, nn.weight_channel_axis(op.kind, weight.type), schemes[op].bits
            if key not in known:
                known[key] = _nearest(op, weight, schemes[op])
            return with_operands(op, (operands[0], known[key], *operands[2:])).results

        return convert(graph, quantized)


def _nearest(op: Op, weight: Value, scheme: BlockScheme) -> Value:
    """The dequantized integers that stand for ``weight``."""
    data, along = constant_data(weight), _along(op, weight)
    assert data is not None
    bits, block = scheme.bits, scheme.block
    try:
        scales, zeros = weight_only_parameters(
            data.read(), axis=along, block=block, bits=bits, symmetric=scheme.symmetric
        )
    except AmctcError as error:
        raise error.located(layer_name(op)) from None
    integers: Data = deferred(
        "quantize weight", lambda w: quantize_weight_only(w, scales, zeros, axis=along, block=block, bits=bits),
        data, shape=data.shape, dtype=np.int8,
    )  # fmt: skip
    return dequantized_weight(op, weight, integers, _stored_type(op, weight, scheme, scales, zeros))


def _with_rounded(
    op: Op, operands: tuple[Value | None, ...], found: RoundedWeight, scheme: BlockScheme
) -> tuple[Value, ...]:
    """The layer with its weight stored as ``found``."""
    weight = operands[1]
    assert weight is not None
    scales, zeros = (a.T if _along(op, weight) == 0 else a for a in (found.scales, found.zeros))
    integers = np.ascontiguousarray(contraction_of(op).weight(found.codes[None]))
    real = dequantized_weight(op, weight, integers, _stored_type(op, weight, scheme, scales, zeros))
    return with_operands(op, (operands[0], real, *operands[2:])).results


def _stored_type(op: Op, weight: Value, scheme: BlockScheme, scales: Array, zeros: Array) -> QuantizedType:
    """The type of integers with ``scales`` and ``zeros``, in the layout of the weight with blocks for inputs."""
    assert isinstance(op.kind, nn.Layer)
    axis = _along(op, weight) if scheme.block else nn.weight_channel_axis(op.kind, weight.type)
    storage = I4 if scheme.bits == 4 else I8
    return QuantizedType(
        storage, weight.type.scalar, tuple(map(float, scales.ravel())), tuple(map(int, zeros.ravel())), axis,
        *storage.integer_range, scheme.block,
    )  # fmt: skip


def _along(op: Op, weight: Value) -> int:
    """The axis of the inputs."""
    assert isinstance(op.kind, nn.Layer)
    return nn.weight_input_axis(op.kind, weight.type)
