"""Put channel factors into the constants of layers and normalisations."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from amctc.data import deferred
from amctc.ir import Graph, Op, Value, apply, const, constant_data
from amctc.ops import nn
from amctc.substitute import convert
from amctc.types import Array
from amctc_passes.balance.channels import ChannelClasses, contracted
from amctc_patterns.layers import per_input_channel, per_output_channel

Factors = npt.NDArray[np.float64]
_BLOCK = 1 << 18


def rescaled_graph(graph: Graph, found: ChannelClasses, factors: Factors) -> Graph:
    """``graph`` with the channels ``found`` multiplied by the factors of their numbers; what reads them undoes it."""

    def rescaled(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        written = _written(found, factors, op.results[0])
        if isinstance(op.kind, nn.Layer):
            channels = contracted(found, op)
            read = None if channels is None else _unless_one(factors[channels.numbers])
            changes = read is not None or written is not None
            return (rescaled_layer(op, operands, read, written),) if changes else None
        if written is not None and isinstance(op.kind, nn.LayerNorm | nn.BatchNorm | nn.InstanceNorm | nn.GroupNorm):
            return (rescaled_normalization(op, operands, written),)
        return None

    return convert(graph, rescaled)


def rescaled_layer(op: Op, operands: tuple[Value | None, ...], read: Factors | None, written: Factors | None) -> Value:
    """``op`` on data whose channels were multiplied by ``read`` [C], its own result's by ``written`` [O]."""
    kind, weight = op.kind, operands[1]
    assert isinstance(kind, nn.Layer)
    assert weight is not None
    factors = []
    if read is not None:
        factors.append(1.0 / per_input_channel(kind, weight.type, read))
    if written is not None:
        factors.append(per_output_channel(kind, weight.type, written))
    rest = [o if o is None or written is None else times(o, written) for o in operands[2:]]
    return apply(kind, operands[0], times(weight, *factors), *rest, name=op.result.name)


def rescaled_normalization(op: Op, operands: tuple[Value | None, ...], written: Factors) -> Value:
    """A normalisation whose scale and bias carry ``written`` [C]."""
    parameters = [None if o is None else times(o, written) for o in operands[1:3]]
    return apply(op.kind, operands[0], *parameters, *operands[3:], name=op.result.name)


def times(value: Value, *factors: Factors) -> Value:
    """A constant times the product of ``factors``, broadcast to each other; computed when it is read.

    Until then the factors alone are kept, and then they are multiplied some rows at a time: their product may have the
    size of a weight, and twice its bytes.
    """
    data = constant_data(value)
    assert data is not None
    shape = np.broadcast_shapes(data.shape, *(f.shape for f in factors))

    def scaled(array: Array) -> Array:
        result = np.empty(shape, array.dtype)
        every = [np.atleast_1d(np.broadcast_to(a, shape)) for a in (array, *factors)]
        for part, source, *rest in zip(*(_in_blocks(a) for a in (np.atleast_1d(result), *every)), strict=True):
            # Rounded once, at the end.
            np.multiply(source, functools.reduce(np.multiply, rest), out=part, dtype=np.float64, casting="unsafe")
        return result

    return const(deferred("rescale channels", scaled, data, shape=shape, dtype=data.dtype), name=value.name)


def _in_blocks(array: Array) -> Iterator[Array]:
    """Views of some rows each, about :data:`_BLOCK` elements."""
    rows = max(1, _BLOCK * len(array) // max(1, array.size))
    return (array[first : first + rows] for first in range(0, len(array), rows))


def _written(found: ChannelClasses, factors: Factors, value: Value) -> Factors | None:
    return _unless_one(factors[found.of[value].numbers]) if value in found.of else None


def _unless_one(factors: Factors) -> Factors | None:
    return None if (factors == 1.0).all() else factors
