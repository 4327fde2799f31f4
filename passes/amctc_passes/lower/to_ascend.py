"""Lower quantized layers to the integer op set of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Contract, Lossy
from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.bias import accumulator_scale
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import QuantizedType
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    LOWERED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    has_quantizer,
    is_quantized,
    quantized_type,
)


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
        return convert(graph, lambda op, operands: _lowered(op, operands))


def _lowered(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    kind = op.kind
    if isinstance(kind, quant.Quantize):
        return (_quant(op, operands[0], kind.to),)
    if isinstance(kind, quant.Dequantize):
        return _dequantize(op, operands[0])
    if isinstance(kind, nn.Layer) and is_quantized(op.operands[0]) and is_quantized(op.operands[1]):
        return (_layer(op, operands),)
    data = constant_data(op.results[0])
    elem = op.results[0].type.elem
    if data is not None and isinstance(elem, QuantizedType):
        return (const(data, elem.storage, name=op.results[0].name),)
    return None


def _quant(op: Op, source: Value | None, to: QuantizedType) -> Value:
    """AscendQuant holds the reciprocal of the step in float32 (N1)."""
    if not has_quantizer(to):
        raise UnsupportedError(f"no quantizer of the target gives {to}", where=layer_name(op),
                               remedy="quantize activations per tensor to the whole range of int8")  # fmt: skip
    reciprocal = float(np.float32(1.0) / np.float32(to.scales[0]))
    return apply(ascend.Quant(reciprocal, to.zero_points[0], to.storage), source)


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
    return (apply(ascend.AntiQuant(elem.scales[0], -elem.zero_points[0]), stored),)


def _layer(op: Op, operands: tuple[Value | None, ...]) -> Value:
    """The integer layer, AscendDequant by scale_d · scale_w (N11), and the activation."""
    kind = op.kind
    assert isinstance(kind, nn.Layer)
    activation, weight = quantized_type(op.operands[0]), quantized_type(op.operands[1])
    bias = None if op.operand(2) is None else _integers(op.operand(2))
    stored = _looked_through(operands[0])
    offset = activation.zero_points[0]
    integer = _integer_kind(kind, offset)
    acc = apply(integer, stored, _integers(op.operands[1]), bias)
    scale = const(accumulator_scale(weight.scale_array, np.float32(activation.scales[0])),
                  name=f"{layer_name(op)}.dequant.param")  # fmt: skip
    axis = nn.result_channel_axis(kind, acc.type.rank)
    if kind.activation is None:
        return apply(ascend.Dequant(axis), acc, scale)
    return apply(kind.activation, apply(ascend.Dequant(axis), acc, scale))


def _integer_kind(kind: nn.Layer, offset: int) -> ascend.Conv | ascend.MatMul:
    if isinstance(kind, nn.Conv):
        return ascend.Conv(kind.strides, kind.pads, kind.dilations, kind.group, offset)
    if isinstance(kind, nn.ConvTranspose):
        raise UnsupportedError("int8 ConvTranspose is not simulated yet", remedy="run legalize before to-ascend")
    return ascend.MatMul(isinstance(kind, nn.Gemm) and kind.trans_b, offset)


def _looked_through(value: Value | None) -> Value:
    """The integers under the AscendAntiQuant that a float reader would need."""
    assert value is not None
    assert value.producer is not None
    assert isinstance(value.producer.kind, ascend.AntiQuant)
    stored = value.producer.operands[0]
    assert stored is not None
    return stored


def _integers(dequantized: Value | None) -> Value:
    """The constant integers under a dequantizer, as plain storage."""
    assert dequantized is not None
    assert dequantized.producer is not None
    stored = dequantized.producer.operands[0]
    assert stored is not None
    data, elem = constant_data(stored), stored.type.elem
    assert data is not None
    assert isinstance(elem, QuantizedType)
    return const(data, elem.storage, name=stored.name)
