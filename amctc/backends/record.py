"""Write the quantization record (N25) of a QDQ graph, as AMCT tools read it."""

from __future__ import annotations

from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.ops import nn, quant
from amctc.records import LayerRecord, Record, format_layers
from amctc.types import I4, I8, I16, U4, U8, U16, QuantizedType, ScalarType

_NAMES: dict[ScalarType, str] = {I4: "INT4", I8: "INT8", I16: "INT16", U4: "INT4", U8: "INT8", U16: "INT16"}


def record_text(graph: Graph) -> str:
    """The record of every layer that reads a dequantized value and a dequantized constant weight, in graph order.

    Unsigned data is recorded as the signed integers the target computes with. Raises :class:`UnsupportedError` where
    no layer is quantized, for scales per channel of the data and for weights with a zero point (N10), and
    :class:`InputError` (N25) for values out of the record's limits or layers of one name.
    """
    layers = tuple(r for op in graph.ops if isinstance(op.kind, nn.Layer) for r in (_layer(op),) if r is not None)
    if not layers:
        raise UnsupportedError("no layer of this graph is quantized", remedy="run place-qdq and quantize-weights first")
    return format_layers(Record(layers).layers)


def _layer(op: Op) -> LayerRecord | None:
    data, weight = _dequantized(op.operands[0]), _dequantized(op.operands[1])
    if data is None or weight is None or constant_data(weight) is None:
        return None
    layer, x, w = layer_name(op), _quantized(data), _quantized(weight)
    if x.axis is not None:
        raise UnsupportedError("data quantized per channel", where=layer, remedy="quantize it per tensor")
    if any(w.zero_points):
        raise UnsupportedError(
            "a weight with a zero point", where=layer, rule="N10", remedy="quantize it symmetrically"
        )
    act, wts = _NAMES.get(x.storage), _NAMES.get(w.storage)
    if act is None or wts is None:
        raise UnsupportedError(f"{x.storage} data and {w.storage} weights", where=layer, remedy="use 4, 8 or 16 bits")
    low, _ = x.storage.integer_range
    shift = 0 if low else 1 << (x.storage.bits - 1)
    return LayerRecord(
        layer, scale_d=x.scales[0], offset_d=x.zero_points[0] - shift, scale_w=w.scales, offset_w=w.zero_points,
        dst_type=act if act == wts else None, act_type=act, wts_type=wts,
    )  # fmt: skip


def _dequantized(value: Value | None) -> Value | None:
    """The quantized value under a dequantize op."""
    op = None if value is None else value.producer
    return op.operands[0] if op is not None and isinstance(op.kind, quant.Dequantize) else None


def _quantized(value: Value) -> QuantizedType:
    elem = value.type.elem
    assert isinstance(elem, QuantizedType)
    return elem
