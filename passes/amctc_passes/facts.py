"""Facts that passes require, ensure and keep."""

from __future__ import annotations

from amctc.analysis import backward
from amctc.contract import Fact
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.numerics.sparsity import has_n_of_m
from amctc.ops import ascend, nn, quant
from amctc.types import I8, I16, U64, Array, QuantizedType


@backward
def _kinds(graph: Graph) -> frozenset[type]:
    return frozenset([type(op.kind) for op in graph.ops])


def _none_of(graph: Graph, kinds: tuple[type, ...]) -> str | None:
    if not any(issubclass(kind, kinds) for kind in _kinds(graph)):
        return None
    for op in graph.ops:
        if isinstance(op.kind, kinds):
            return f"{layer_name(op)} is {op.kind.op_name}"
    return None


_QUANTIZERS = (quant.Quantize, quant.Dequantize, quant.FakeQuantizeRows)

UNQUANTIZED = Fact("unquantized", lambda g: _none_of(g, (*_QUANTIZERS, *ascend.KINDS)))
"""A float graph, observers allowed."""

NOT_LOWERED = Fact("not lowered", lambda g: _none_of(g, ascend.KINDS))
"""No op of the target yet."""

UNOBSERVED = Fact("without observers", lambda g: _none_of(g, (quant.Observe,)))


def _lowered(graph: Graph) -> str | None:
    for op in graph.ops:
        for result in op.results:
            if isinstance(result.type.elem, QuantizedType):
                return f"{layer_name(op)} has type {result.type.elem.storage} with a scale"
    return None


LOWERED = Fact("lowered", _lowered)
"""No quantized element type is left: scales are operands and attributes of ``ascend`` ops."""


def _packed(graph: Graph) -> str | None:
    for op in graph.ops:
        if isinstance(op.kind, ascend.Dequant | ascend.Requant):
            scale = op.operands[1]
            assert scale is not None
            if scale.type.elem != U64:
                return f"the parameter of {layer_name(op)} is {scale.type.elem}"
    return None


PACKED = Fact("packed", _packed)
"""Dequantization and requantization parameters are uint64 words (N11)."""


def is_quantized(value: Value | None) -> bool:
    """True for a value that has just been dequantized."""
    return value is not None and value.producer is not None and isinstance(value.producer.kind, quant.Dequantize)


def has_row_steps(value: Value | None) -> bool:
    """True for data rounded row by row as it comes (N6): it stands for integers, on steps that no type can hold."""
    return value is not None and value.producer is not None and isinstance(value.producer.kind, quant.FakeQuantizeRows)


def stands_for_integers(value: Value | None) -> bool:
    """True for data that a layer reads as integers, on steps known before or found row by row."""
    return is_quantized(value) or has_row_steps(value)


def stored_under(value: Value | None) -> Value:
    """The integers under a dequantized value."""
    assert value is not None
    assert value.producer is not None
    integers = value.producer.operands[0]
    assert integers is not None
    return integers


def quantized_type(value: Value | None) -> QuantizedType:
    """The quantized type under a dequantized value."""
    elem = stored_under(value).type.elem
    assert isinstance(elem, QuantizedType)
    return elem


def has_quantizer(elem: QuantizedType) -> bool:
    """True when AscendQuant can produce activations of this type: per tensor, the whole range of int8 or int16 (N1)."""
    whole = (elem.low, elem.high) == elem.storage.integer_range
    return elem.axis is None and elem.storage in (I8, I16) and whole


def _weights_quantized(graph: Graph) -> str | None:
    for op in graph.ops:
        reads = isinstance(op.kind, nn.Layer) and stands_for_integers(op.operands[0])
        if reads and constant_data(op.operands[1]) is not None:
            return f"the weight of {layer_name(op)} is float while its input is quantized"
    return None


WEIGHTS_QUANTIZED = Fact("weights quantized", _weights_quantized)
"""Every layer with a quantized input has a quantized weight."""


def _biases_quantized(graph: Graph) -> str | None:
    for op in graph.ops:
        both = isinstance(op.kind, nn.Layer) and is_quantized(op.operands[0]) and is_quantized(op.operands[1])
        if both and constant_data(op.operand(2)) is not None:
            return f"the bias of {layer_name(op)} is float while its input and weight are quantized"
    return None


BIASES_QUANTIZED = Fact("biases quantized", _biases_quantized)
"""Every layer with a quantized input and weight has a quantized bias, or none."""


def sparse_obstacle(op: Op) -> str | None:
    """Why the sparse cube cannot compute a layer (N22: in groups of four input channels); ``None`` when it can.

    As in the existing tool two channels are too few.
    """
    kind, w = op.kind, op.operands[1]
    assert w is not None
    if getattr(kind, "group", 1) != 1:
        return "a grouped convolution"
    if isinstance(kind, nn.MatMul) and w.type.rank != 2:
        return "the constant side is no matrix"
    channels = w.type.dims[_input_axis(op)]
    return f"only {channels} input channels" if isinstance(channels, int) and channels <= 2 else None


def _input_axis(op: Op) -> int:
    kind, w = op.kind, op.operands[1]
    assert w is not None
    if isinstance(kind, ascend.Layer):
        return ascend.weight_input_axis(kind)
    assert isinstance(kind, nn.Layer)
    return nn.weight_input_axis(kind, w.type)


def _dense(graph: Graph) -> str | None:
    for op in graph.ops:
        if not isinstance(op.kind, nn.Layer | ascend.Layer):
            continue
        weight = _weight(op) if sparse_obstacle(op) is None else None
        if weight is not None and not has_n_of_m(weight, axis=_input_axis(op)):
            return f"{layer_name(op)} has more than two of four weights"
    return None


def _weight(op: Op) -> Array | None:
    """The numbers of a constant weight, or the integers where integer 0 is the number 0."""
    value = op.operands[1]
    if is_quantized(value):
        assert value is not None
        assert value.producer is not None
        value = value.producer.operands[0]
    data = constant_data(value)
    if data is None:
        return None
    elem = None if value is None else value.type.elem
    if isinstance(elem, QuantizedType) and any(elem.zero_points):
        return quant.dequantized(data, elem).read()
    return data.read()


TWO_OF_FOUR = Fact("2 of 4", _dense)
"""Every constant weight that the sparse cube could compute has at most two of four input channels that are not 0 (N22).

``mask-n-of-m`` makes it so where all layers are chosen; what folds and quantizes keeps zeros exact."""
