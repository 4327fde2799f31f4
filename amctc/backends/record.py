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

    So has an average pool on a dequantized value, with the weight scale 1 of the existing tool. Products of two
    computed sides or of rows that have steps of their own, tensors quantized alone and weight-only layers have no place
    in the format. Unsigned data is
    recorded as the signed integers the target computes with. Raises :class:`UnsupportedError` where no layer is
    quantized, for scales per channel of the data and for weights with a zero point (N10), and :class:`InputError` (N25)
    for values out of the record's limits or layers of one name.
    """
    layers = layer_records(graph)
    if not layers:
        raise UnsupportedError("no layer of this graph is quantized", remedy="run place-qdq and quantize-weights first")
    return format_layers(Record(layers).layers)


def layer_records(graph: Graph) -> tuple[LayerRecord, ...]:
    """The records that :func:`record_text` writes, none for a graph without a layer that has a place in the format."""
    return tuple(
        r for op in graph.ops if isinstance(op.kind, nn.Layer | nn.AveragePool) for r in (_layer(op),) if r is not None
    )


def _layer(op: Op) -> LayerRecord | None:
    data, weight = _dequantized(op.operands[0]), _dequantized(op.operand(1))
    pools = isinstance(op.kind, nn.AveragePool)
    if data is None or not (pools or (weight is not None and constant_data(weight) is not None)):
        return None
    layer, x = layer_name(op), _quantized(data)
    if x.axis is not None:
        raise UnsupportedError("data quantized per channel", where=layer, remedy="quantize it per tensor")
    act = _storage_name(x, layer, "data")
    low, _ = x.storage.integer_range
    offset = x.zero_points[0] - (0 if low else 1 << (x.storage.bits - 1))
    if weight is None:
        return LayerRecord(layer, x.scales[0], offset, (1.0,), (0,), act_type=act)
    w = _quantized(weight)
    if any(w.zero_points):
        raise UnsupportedError(
            "a weight with a zero point", where=layer, rule="N10", remedy="quantize it symmetrically"
        )
    wts = _storage_name(w, layer, "weights")
    return LayerRecord(
        layer, x.scales[0], offset, w.scales, w.zero_points, dst_type=act if act == wts else None, act_type=act,
        wts_type=wts,
    )  # fmt: skip


def _storage_name(elem: QuantizedType, layer: str, what: str) -> str:
    if elem.storage not in _NAMES:
        raise UnsupportedError(f"{elem.storage} {what}", where=layer, remedy="use 4, 8 or 16 bits")
    return _NAMES[elem.storage]


def _dequantized(value: Value | None) -> Value | None:
    """The quantized value under a dequantize op."""
    op = None if value is None else value.producer
    return op.operands[0] if op is not None and isinstance(op.kind, quant.Dequantize) else None


def _quantized(value: Value) -> QuantizedType:
    elem = value.type.elem
    assert isinstance(elem, QuantizedType)
    return elem
