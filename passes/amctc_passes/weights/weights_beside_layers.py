"""Weights of ops that are no layers: tables that rows are looked up in, weights of recurrent cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from amctc.analysis import uses
from amctc.data import deferred
from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, constant_data, layer_name, with_operands
from amctc.numerics.linear import quantize_weight
from amctc.numerics.weight_only import weight_only_parameters
from amctc.ops import nn, onnx
from amctc.pipeline import Context
from amctc.substitute import convert
from amctc.types import F32, I8, QuantizedType
from amctc_passes.weights.weight_types import dequantized_weight

SHORTEST = 8
"""Elements that share a scale, at least: fewer int8 numbers and a float32 scale take more than float16 would."""

ROWS, GATES = "row", "gate channel"
"""What shares a scale: a row of a table; a channel of a gate, in each direction of a recurrent cell."""

RECURRENT = ("LSTM", "GRU", "RNN")
"""Carried ops with an input weight [directions, gates · hidden, inputs] and a recurrent one of that form."""


@dataclass(frozen=True)
class WeightSlot:
    """A constant operand that integers can stand in for: number ``position`` of ``op``.

    A ``unit``, :data:`ROWS` or :data:`GATES`, has a scale: a slice along ``axis``.
    """

    op: Op
    position: int
    axis: int
    unit: str

    @property
    def value(self) -> Value:
        """The constant."""
        value = self.op.operands[self.position]
        assert value is not None
        return value


def weight_slots(graph: Graph) -> Iterator[WeightSlot]:
    """Float32 tables of ``Gather`` and weights of recurrent cells, in topological order."""
    for op in graph.ops:
        if isinstance(op.kind, nn.Gather):
            slots = [WeightSlot(op, 0, op.kind.axis % op.operands[0].type.rank, ROWS)] if op.operands[0] else []
        elif isinstance(op.kind, onnx.Node) and op.kind.op_type in RECURRENT and not op.kind.domain:
            slots = [WeightSlot(op, i, 1, GATES) for i in (1, 2) if op.operand(i) is not None]
        else:
            continue
        yield from (slot for slot in slots if _fits(slot))


def _fits(slot: WeightSlot) -> bool:
    data, type_ = constant_data(slot.value), slot.value.type
    if data is None or type_.elem != F32 or (slot.unit == GATES and len(data.shape) != 3):
        return False
    return len(data.shape) >= 2 and data.size >= SHORTEST * max(1, _units(slot))


def _units(slot: WeightSlot) -> int:
    """How many scales the weight has."""
    shape = [d for d in slot.value.type.dims if isinstance(d, int)]
    return shape[0] * shape[1] if slot.unit == GATES else shape[slot.axis]


def with_integer_weights(graph: Graph, slots: Iterable[WeightSlot], context: Context, source: str) -> Graph:
    """``graph`` with the constants of ``slots`` dequantized from int8, symmetric, rounded to nearest.

    Each is stored once, whatever reads it. One that other ops read as numbers stays in float; ``source`` notes both.
    Raises :class:`InputError` that names the op for numbers that are not finite.
    """
    chosen = {(slot.op, slot.position): slot for slot in slots}
    read = uses(graph)
    stored: dict[tuple[Value, int], Value] = {}

    def is_free(slot: WeightSlot) -> bool:
        readers = ((use.op, use.position) for use in read[slot.value])
        return all(r in chosen or (r[1] == 1 and r[0] is not None and isinstance(r[0].kind, nn.Layer)) for r in readers)

    def quantized(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        mine = [chosen[op, i] for i in range(len(operands)) if (op, i) in chosen]
        taken = [slot for slot in mine if is_free(slot)]
        if len(taken) < len(mine):
            context.note(source, layer_name(op), "weights left in float: something else reads their numbers")
        if not taken:
            return None
        replaced = list(operands)
        for slot in taken:
            key = slot.value, slot.axis
            if key not in stored:
                stored[key] = _dequantized(slot)
            replaced[slot.position] = stored[key]
        sizes = [(slot.value.type.num_elements or 0, _units(slot)) for slot in taken]
        before, after = sum(4 * size for size, _ in sizes), sum(size + 4 * units for size, units in sizes)
        context.note(source, layer_name(op), f"weights stored in int8, a scale for each {taken[0].unit}: "
                     f"{before} bytes become {after}; computed in float")  # fmt: skip
        return with_operands(op, tuple(replaced)).results

    return convert(graph, quantized) if chosen else graph


def _dequantized(slot: WeightSlot) -> Value:
    """The numbers of the weight, from int8; scales of two directions are those of blocks as long as a row."""
    data, axis = constant_data(slot.value), slot.axis
    assert data is not None
    shape = data.shape
    rows = (shape[0] * shape[1], shape[2]) if slot.unit == GATES else shape
    along = 0 if slot.unit == GATES else axis
    try:
        matrix = np.moveaxis(data.read().reshape(rows), along, 0).reshape(rows[along], -1)
        scales = weight_only_parameters(matrix, axis=1)[0].reshape(-1)
    except AmctcError as error:
        raise error.located(layer_name(slot.op)) from None
    integers = deferred(
        "quantize weight", lambda w: quantize_weight(w.reshape(rows), scales, axis=along).reshape(shape), data,
        shape=shape, dtype=np.int8,
    )  # fmt: skip
    blocks = slot.unit == GATES and shape[0] > 1
    elem = QuantizedType(
        I8, F32, tuple(map(float, scales)), (0,) * len(scales), 2 if blocks else axis, *I8.integer_range,
        shape[2] if blocks else 0,
    )  # fmt: skip
    return dequantized_weight(slot.op, slot.value, integers, elem)
