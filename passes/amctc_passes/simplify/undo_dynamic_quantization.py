"""Make float layers of those that quantize their data at run time."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from amctc.contract import Changes, Contract
from amctc.data import Data, deferred
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.onnx_bridge.integer_products import float_product
from amctc.onnx_bridge.lookups import is_looked_up, quantizes_at_run_time
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pass, register
from amctc.substitute import substitute
from amctc.types import F32, QuantizedType

MOST_FACTORS = 5
"""The product, two scales of data, two of weights."""


@register
@dataclass(frozen=True)
class UndoDynamicQuantization(Pass):
    """Make float layers of products that quantize their data at run time, so that calibration can quantize them.

    ``Cast(MatMulInteger(q, w)) · scale_x · scale_w`` with q from ``DynamicQuantizeLinear(x)``, as ONNX Runtime's
    quantizer writes it, becomes ``MatMul(x, w) · scale_w``, and so does ``ConvInteger``. The target finds no range
    of a whole tensor while it runs: it would compute the integers of such a layer one by one outside its cube.
    Where no other data has a quantizer, tables that came in integers, as of embeddings, lose theirs: what is looked
    up in them becomes plain numbers, the same.
    """

    name: ClassVar[str] = "undo-dynamic-quantization"
    contract: ClassVar[Contract] = Contract(effect=Changes("data is no longer rounded at run time"))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace the innermost product that holds both the integers' product and the scale of its data."""
        layers = dict(_plain_lookups(graph)) if quantizes_at_run_time(graph) else {}
        for op in graph.ops:
            found = _real_product(op, layers) if isinstance(op.kind, nn.Mul) else None
            if found is not None:
                layers[op.result], layer = found
                context.note(self.name, layer_name(layer),
                             "made a float layer: the model quantized its data at run time")  # fmt: skip
        return substitute(graph, layers)


def _plain_lookups(graph: Graph) -> Iterator[tuple[Value, Value]]:
    """What is dequantized in ``graph``, each with the same numbers that no quantizer gave."""
    for op in graph.ops:
        if not isinstance(op.kind, quant.Dequantize):
            continue
        stored = op.operands[0]
        assert stored is not None
        data, elem, quantizer = constant_data(stored), stored.type.elem, stored.producer
        if data is not None and isinstance(elem, QuantizedType):
            yield op.result, const(quant.dequantized(data, elem), name=op.result.name)
        elif quantizer is not None and isinstance(quantizer.kind, quant.Quantize) and quantizer.operands[0] is not None:
            yield op.result, quantizer.operands[0]


class _Side(NamedTuple):
    """An operand in real numbers; ``scale`` is what its integers were a multiple of, ``None`` for steps of 1."""

    real: Value
    scale: Value | None


def _real_product(op: Op, done: Container[Value]) -> tuple[Value, Op] | None:
    """The product of real numbers that ``op`` computes in integers and scales, and the layer in it."""
    factors = _factors(op, done)
    for at, factor in enumerate(factors):
        integer = _cast_product(factor)
        layer = None if integer is None else _layer(integer, factors[:at] + factors[at + 1 :])
        if layer is not None:
            product, remaining = layer
            assert product.producer is not None
            result = product
            for other in remaining:
                result = apply(nn.Mul(), result, other)
            return result, product.producer
    return None


def _factors(op: Op, done: Container[Value]) -> list[Value]:
    """What a tree of multiplications multiplies; nothing where it is large."""
    leaves: list[Value] = []
    rest = [o for o in op.operands if o is not None]
    while rest:
        value = rest.pop()
        inner = None if value in done else value.producer
        if inner is not None and isinstance(inner.kind, nn.Mul):
            rest.extend(o for o in inner.operands if o is not None)
        else:
            leaves.append(value)
        if len(leaves) + len(rest) > MOST_FACTORS:
            return []
    return leaves


def _cast_product(value: Value) -> Op | None:
    """The carried op whose int32 result is ``value`` in float."""
    cast = value.producer
    if cast is None or not isinstance(cast.kind, nn.Cast) or cast.kind.to != F32:
        return None
    source = cast.operands[0]
    return None if source is None or not _is_node(source.producer, "ConvInteger", "MatMulInteger") else source.producer


def _is_node(op: Op | None, *op_types: str) -> bool:
    return op is not None and isinstance(op.kind, Node) and not op.kind.domain and op.kind.op_type in op_types


def _layer(integer: Op, scales: list[Value]) -> tuple[Value, list[Value]] | None:
    """The layer for an integer product, and which of ``scales`` it does not account for."""
    left = _side(integer.operand(0), integer.operand(2), None)
    right = _side(integer.operand(1), integer.operand(3), 0 if _is_node(integer, "ConvInteger") else -1)
    if left is None or right is None:
        return None
    remaining = list(scales)
    for scale in (left.scale, right.scale):
        if scale is not None and scale not in remaining:
            return None
        if scale is not None:
            remaining.remove(scale)
    product = float_product(integer, left.real, right.real)
    return None if product is None else (product, remaining)


def _side(stored: Value | None, zero: Value | None, axis: int | None) -> _Side | None:
    """An operand of an integer product; a constant may have zero points along ``axis``."""
    assert stored is not None
    maker, data = stored.producer, constant_data(stored)
    if data is not None:
        centred = _centred(data, zero, axis)
        return None if centred is None else _Side(const(centred, name=stored.name), None)
    if is_looked_up(stored):
        return _looked_up(stored, zero)
    if maker is None or not _is_node(maker, "DynamicQuantizeLinear"):
        return None
    (source,), (integers, scale, point) = maker.operands, maker.results
    assert source is not None
    return _Side(source, scale) if stored is integers and zero is point else None


def _looked_up(stored: Value, zero: Value | None) -> _Side | None:
    """Integers of a table less its one zero point, as float32."""
    given = constant_data(zero)
    if zero is not None and (given is None or given.size != 1):
        return None
    real = apply(nn.Cast(F32), stored)
    point = np.float32(0) if given is None else given.read().reshape(()).astype(np.float32)
    return _Side(apply(nn.Sub(), real, const(point)) if point else real, None)


def _centred(data: Data, zero: Value | None, axis: int | None) -> Data | None:
    """Integers less their zero points as float32, which holds them exactly."""
    given = constant_data(zero)
    points = np.zeros((), np.int32) if given is None else given.read().astype(np.int32)
    along = axis is not None and points.ndim == 1 < len(data.shape) and points.size == data.shape[axis]
    if (zero is not None and given is None) or not (points.size == 1 or along):
        return None
    shape = [1] * len(data.shape)
    if points.size != 1:
        assert axis is not None
        shape[axis] = points.size
    zeros = points.reshape(shape)
    return deferred("less zero point", lambda q: (q - zeros).astype(np.float32), data, shape=data.shape,
                    dtype=np.float32)  # fmt: skip
