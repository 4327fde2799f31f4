"""Integer weights of ops that compute in float: what is looked up in a table, what recurrent cells multiply with.

The target has no op for either. Rows of a table are taken as integers and made numbers then; a recurrent cell reads
numbers made of its integers. Both are standard ops, so the deploy file stays as small as the integers.
"""

from __future__ import annotations

import numpy as np

from amctc.ir import Constant, Graph, Op, Value, apply, const, constant_data, layer_name, with_operands
from amctc.ops import nn, onnx
from amctc.substitute import convert
from amctc.types import F32, I8, Array, Elem, QuantizedType
from amctc_passes.facts import is_quantized, quantized_type, stored_under
from amctc_passes.weights.weights_beside_layers import RECURRENT


def looked_up(op: Op, indices: Value | None) -> Value | None:
    """The rows of a table in int8, times their scales; ``None`` for an op that looks up something else."""
    kind, table = op.kind, op.operands[0]
    if not isinstance(kind, nn.Gather) or not _in_int8(table):
        return None
    stored, elem = stored_under(table), quantized_type(table)
    rank = stored.type.rank
    axis = kind.axis % rank
    if elem.block or elem.axis not in (None, axis):
        return None

    def taken(numbers: Array, what: str) -> Value:
        """What belongs to the rows: one number for all, or the number of each, with the axes of a row behind it."""
        every = const(numbers.astype(np.float32), name=f"{layer_name(op)}.{what}")
        if elem.axis is None:
            return every
        found = apply(nn.Gather(0), every, indices)
        return apply(nn.Unsqueeze(tuple(range(axis + 1 - rank, 0))), found) if axis + 1 < rank else found

    real = apply(nn.Cast(F32), apply(kind, _integers(stored, elem), indices))
    if any(elem.zero_points):
        real = apply(nn.Sub(), real, taken(elem.zero_point_array, "offset"))
    return apply(nn.Mul(), real, taken(elem.scale_array, "scale"), name=op.result.name)


def with_numbers(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    """A recurrent cell that reads numbers made of its integer weights; ``None`` for any other op."""
    kind = op.kind
    if not isinstance(kind, onnx.Node) or kind.op_type not in RECURRENT or not any(map(_in_int8, op.operands)):
        return None
    return with_operands(op, tuple(
        _numbers(old) or new if _in_int8(old) else new for old, new in zip(op.operands, operands, strict=True)
    )).results  # fmt: skip


def _numbers(value: Value | None) -> Value | None:
    """(q - zero point) · scale in standard ops; ``None`` where a row has several scales."""
    stored, elem = stored_under(value), quantized_type(value)
    shape = [1] * stored.type.rank
    dims = tuple(d for d in stored.type.dims if isinstance(d, int))
    if elem.block and elem.block < dims[elem.axis or 0]:
        return None
    if elem.block:
        shape = list(elem.parameter_shape(dims))
    elif elem.axis is not None:
        shape[elem.axis] = -1
    real = apply(nn.Cast(F32), _integers(stored, elem))
    if any(elem.zero_points):
        real = apply(nn.Sub(), real, const(elem.zero_point_array.astype(np.float32).reshape(shape)))
    assert value is not None
    return apply(nn.Mul(), real, const(elem.scale_array.reshape(shape), name=f"{stored.name}.scale"), name=value.name)


def stored_once(graph: Graph) -> Graph:
    """Constants made of the same data for each reader, as tied embeddings and shared layers have them, as one."""
    first: dict[tuple[int, Elem], Value] = {}

    def shared(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        kind = op.kind
        if not isinstance(kind, Constant):
            return None
        return (first.setdefault((id(kind.data), kind.elem), op.result),)  # to compare contents is to compute them

    return convert(graph, shared)


def _in_int8(value: Value | None) -> bool:
    """True for a constant that is dequantized from int8 to float32."""
    if not is_quantized(value) or constant_data(stored_under(value)) is None:
        return False
    elem = quantized_type(value)
    return elem.storage == I8 and elem.expressed == F32


def _integers(stored: Value, elem: QuantizedType) -> Value:
    data = constant_data(stored)
    assert data is not None
    return const(data, elem.storage, name=stored.name)
