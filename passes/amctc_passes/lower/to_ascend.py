"""Lower quantized layers to the integer op set of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Contract, Lossy
from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, Value, apply, build, const, constant_data, layer_name
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import F32, I8, U8, QuantizedType
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    LOWERED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    has_quantizer,
    has_row_steps,
    is_quantized,
    quantized_type,
    stored_under,
)
from amctc_passes.lower.stored_weights import looked_up, stored_once, with_numbers
from amctc_passes.quantize.layers import accumulator_scales, weight_only_obstacle
from amctc_passes.quantize.signed_storage import signed
from amctc_passes.quantize.stored_forms import row_weight_obstacle


@register
@dataclass(frozen=True)
class ToAscend(Pass):
    """Replace quantizers, quantized layers and dequantizers by AscendQuant, integer layers and AscendDequant (N24).

    The result is unfused, as the deploy file is: dequantization and requantization meet in ``fuse-requant``. The bias
    holds no offset fold (N8).
    """

    name: ClassVar[str] = "to-ascend"
    contract: ClassVar[Contract] = Contract(
        effect=Lossy(bound=2), requires=(NOT_LOWERED, UNOBSERVED, WEIGHTS_QUANTIZED, BIASES_QUANTIZED),
        ensures=(LOWERED,), keeps=(TWO_OF_FOUR,), idempotent=False,
    )  # fmt: skip

    def run(self, graph: Graph, context: Context) -> Graph:
        """Convert op by op; integers keep flowing through pools and reshapes."""
        pools_integers = context.target.max_pool_int8 == "int8"
        return stored_once(convert(graph, lambda op, operands: _lowered(op, operands, pools_integers)))


def _lowered(op: Op, operands: tuple[Value | None, ...], pools_integers: bool) -> tuple[Value, ...] | None:
    kind = op.kind
    if isinstance(kind, quant.Quantize):
        return (_quant(op, operands[0], kind.to),)
    if isinstance(kind, quant.Dequantize):
        return _dequantize(op, operands[0])
    if isinstance(kind, quant.FakeQuantizeRows):
        return (_rows(op, operands[0]),)
    if isinstance(kind, nn.MatMul | nn.Gemm) and has_row_steps(op.operands[0]) and row_weight_obstacle(op) is None:
        return (_product_of_rows(op, operands),)
    if isinstance(kind, nn.Layer) and is_quantized(op.operands[0]) and is_quantized(op.operands[1]):
        return (_layer(op, operands),)
    if isinstance(kind, nn.MatMul | nn.Gemm) and is_quantized(op.operands[1]):
        return _weight_only(op, operands)
    if isinstance(kind, nn.AveragePool) and is_quantized(op.operands[0]):
        return _average(op, operands[0])
    if isinstance(kind, nn.MaxPool) and is_quantized(op.operands[0]) and pools_integers:
        return _maximum(kind, operands[0])
    if isinstance(kind, nn.Gather) and (rows := looked_up(op, operands[1])) is not None:
        return (rows,)
    if (computed := with_numbers(op, operands)) is not None:
        return computed
    data = constant_data(op.results[0])
    elem = op.results[0].type.elem
    if data is not None and isinstance(elem, QuantizedType):
        return (const(data, elem.storage, name=op.results[0].name),)
    return None


def _quant(op: Op, source: Value | None, to: QuantizedType) -> Value:
    """AscendQuant holds the reciprocal of the step in float32 (N1). What has just that type is taken as it is."""
    anti = _anti_quant(source)
    if anti is not None and anti.kind == _undone(to) and _looked_through(source).type.elem == to.storage:
        return _looked_through(source)
    if to.storage == U8 and (shifted := signed(to)) is not None and has_quantizer(shifted):
        return _unsigned(_quant(op, source, shifted))
    if not has_quantizer(to):
        raise _no_quantizer(op, to)
    reciprocal = float(np.float32(1.0) / np.float32(to.scales[0]))
    return apply(ascend.Quant(reciprocal, to.zero_points[0], to.storage), source)


def _no_quantizer(op: Op, elem: QuantizedType) -> UnsupportedError:
    return UnsupportedError(f"no quantizer of the target gives {elem}", where=layer_name(op),
                            remedy="quantize activations per tensor to the whole range of int8")  # fmt: skip


def _unsigned(integers: Value) -> Value:
    """The uint8 of an interface from the int8 that is 128 below; float16 holds all of them."""
    raised = apply(nn.Add(), apply(nn.Cast(F32), integers), const(np.float32(128)))
    return apply(nn.Cast(U8), raised)


def _dequantize(op: Op, stored: Value | None) -> tuple[Value, ...]:
    """Integers read by a float op: AscendAntiQuant (N20), or the float values of a constant. A layer looks through."""
    source = op.operands[0]
    assert source is not None
    elem = source.type.elem
    assert isinstance(elem, QuantizedType)
    if (data := constant_data(source)) is not None:
        return (const(quant.dequantized(data, elem), name=op.result.name),)
    if elem.axis is not None:
        raise UnsupportedError("an activation quantized per channel", where=layer_name(op))
    if elem.storage == U8:
        raise _no_quantizer(op, elem)
    return (apply(_undone(elem), stored),)


def _undone(elem: QuantizedType) -> ascend.AntiQuant:
    """What gives the values back that integers of this type stand for (N20)."""
    return ascend.AntiQuant(elem.scales[0], -elem.zero_points[0])


def _layer(op: Op, operands: tuple[Value | None, ...]) -> Value:
    """The integer layer, AscendDequant by scale_d · scale_w (N11), and the activation."""
    kind = op.kind
    assert isinstance(kind, nn.Layer)
    activation, weight = quantized_type(op.operands[0]), quantized_type(op.operands[1])
    bias = None if op.operand(2) is None else _integers(op.operand(2))
    stored = _looked_through(operands[0])
    if constant_data(stored_under(op.operands[1])) is None:
        acc = apply(ascend.BatchMatMul(), stored, _looked_through(operands[1]), bias)
    else:
        acc = apply(_integer_kind(kind, activation.zero_points[0]), stored, _integers(op.operands[1]), bias)
    parameter = const(accumulator_scales(kind, activation, weight), name=f"{layer_name(op)}.dequant.param")
    axis = nn.result_channel_axis(kind, acc.type.rank)
    if kind.activation is None:
        return apply(ascend.Dequant(axis), acc, parameter)
    return apply(kind.activation, apply(ascend.Dequant(axis), acc, parameter))


def _integer_kind(kind: nn.Layer, offset: int) -> ascend.Conv | ascend.ConvTranspose | ascend.MatMul:
    if isinstance(kind, nn.Conv):
        return ascend.Conv(kind.strides, kind.pads, kind.dilations, kind.group, offset)
    if isinstance(kind, nn.ConvTranspose):
        window = kind.strides, kind.pads, kind.dilations, kind.group
        return ascend.ConvTranspose(*window, kind.output_padding, offset)
    return ascend.MatMul(isinstance(kind, nn.Gemm) and kind.trans_b, offset)


def _rows(op: Op, source: Value | None) -> Value:
    """DynamicQuant (N6), and the numbers its integers stand for; a product looks through to the integers."""
    kind, value = ascend.DynamicQuant(), op.result.name or f"{layer_name(op)}.rows"
    q, steps = build(kind, source, names=(f"{value}.quant", f"{value}.scale")).results
    return apply(nn.Mul(), apply(nn.Cast(F32), q), apply(nn.Unsqueeze((-1,)), steps), name=op.result.name)


def _product_of_rows(op: Op, operands: tuple[Value | None, ...]) -> Value:
    """The integer product, and the epilogue with the steps of rows and columns and a float bias (N13)."""
    kind, q = op.kind, _source(_source(operands[0]))  # behind the product with the steps, and the cast
    assert isinstance(kind, nn.MatMul | nn.Gemm)
    assert q.producer is not None
    acc = apply(_integer_kind(kind, 0), q, _integers(op.operands[1]))
    scale = const(quantized_type(op.operands[1]).scale_array, name=f"{layer_name(op)}.dequant.scale")
    y = apply(ascend.DequantRows(), acc, scale, q.producer.results[1], operands[2] if len(operands) > 2 else None)
    return y if kind.activation is None else apply(kind.activation, y)


def _source(value: Value | None) -> Value:
    """The first operand of the op that gives ``value``."""
    assert value is not None
    assert value.producer is not None
    source = value.producer.operands[0]
    assert source is not None
    return source


def _weight_only(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    """The product of float data and integer weights (N21), and the activation; other forms take the float weights."""
    kind, x, bias = op.kind, operands[0], operands[2] if len(operands) > 2 else None
    stored = stored_under(op.operands[1])
    assert isinstance(kind, nn.MatMul | nn.Gemm)
    assert x is not None
    if constant_data(stored) is None or weight_only_obstacle(op) is not None:
        return None
    trans_b = isinstance(kind, nn.Gemm) and kind.trans_b
    product, parameters = ascend.weight_quant_matmul(stored, trans_b=trans_b, layer=layer_name(op))
    y = apply(product, x, *parameters, bias)
    return (y if kind.activation is None else apply(kind.activation, y),)


def _average(op: Op, data: Value | None) -> tuple[Value, ...] | None:
    """The sum of each window, and AscendDequant by scale_d over its positions (N26)."""
    kind, stored = op.kind, _looked_through(data)
    assert isinstance(kind, nn.AveragePool)
    elem = quantized_type(op.operands[0])
    pool = ascend.SumPool.of(kind, stored.type, elem.zero_points[0])
    if pool is None:
        raise UnsupportedError("an int8 average of windows that hold different numbers of inputs",
                               where=layer_name(op), rule="N26", remedy="run legalize before to-ascend")  # fmt: skip
    parameter = const(elem.scale_array, name=f"{layer_name(op)}.dequant.param")
    return (apply(ascend.Dequant(1, divisor=pool.area), apply(pool, stored), parameter),)


def _maximum(kind: nn.MaxPool, data: Value | None) -> tuple[Value, ...] | None:
    """The largest integer stands for the largest value (N26, max_pool_int8)."""
    anti = _anti_quant(data)
    if anti is None or anti.operands[0] is None or anti.operands[0].type.elem != I8:
        return None
    return (apply(anti.kind, apply(kind, anti.operands[0])),)


def _anti_quant(value: Value | None) -> Op | None:
    """The AscendAntiQuant that gives ``value``, if one does."""
    op = None if value is None else value.producer
    return op if op is not None and isinstance(op.kind, ascend.AntiQuant) else None


def _looked_through(value: Value | None) -> Value:
    """The integers under the AscendAntiQuant that a float reader would need."""
    assert _anti_quant(value) is not None
    return _source(value)


def _integers(dequantized: Value | None) -> Value:
    """The constant integers under a dequantizer, as plain storage."""
    stored = stored_under(dequantized)
    data, elem = constant_data(stored), stored.type.elem
    assert data is not None
    assert isinstance(elem, QuantizedType)
    return const(data, elem.storage, name=stored.name)
