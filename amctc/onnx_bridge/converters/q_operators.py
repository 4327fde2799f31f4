"""Nodes that compute on integers as a whole: QLinearConv and the other ops of ONNX Runtime's QOperator format.

Such a node says in one step what dequantizers, a float op and a quantizer say, and becomes these, so that passes see
the layer. The runtime accumulates integers and scales them once, which rounds less often than the float op does: where
a result lies between two integers it may come out one step apart (``docs/conformance.md`` counts how often).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amctc.ir import Origin, Result, Value, apply, const, constant_data
from amctc.onnx_bridge.converters.linear import LINEAR
from amctc.onnx_bridge.converters.nbits import matmul_nbits
from amctc.onnx_bridge.converters.node_view import Carry, Converted, Converter, NodeView, ranked
from amctc.onnx_bridge.converters.normalization import NORMALIZATION
from amctc.onnx_bridge.converters.pointwise import POINTWISE
from amctc.onnx_bridge.converters.pooling import POOLING
from amctc.onnx_bridge.converters.quantization import QUANTIZATION, quantized_type, reals_of_integers
from amctc.onnx_bridge.converters.sampling import SAMPLING
from amctc.onnx_bridge.converters.selection import SELECTION
from amctc.ops import nn, quant
from amctc.types import F32, I8, I32, U8, QuantizedType, ScalarType

RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own ops."""

_FLOAT_OPS = {**LINEAR, **NORMALIZATION, **POINTWISE, **POOLING, **SAMPLING, **SELECTION}


@dataclass(frozen=True)
class _Form:
    """What a node computes on real numbers, and where its operands stand.

    Each of ``data`` is followed by its scale and zero point; so is what stands at ``output`` by a zero point. ``plain``
    operands come first in the float op, ``bias`` (int32, in steps of the product of the data's scales) last.
    """

    op_type: str
    data: tuple[int, ...]
    output: int
    bias: int | None = None
    plain: tuple[int, ...] = ()


def _converter(form: _Form) -> Converter:
    def convert(view: NodeView) -> Converted:
        if view.attributes.get("channels_last", 0):
            return None
        data = [_real(view, at, _channel_axis(form, view) if at == form.data[-1] else None) for at in form.data]
        bias = () if form.bias is None or view.operand(form.bias) is None else (_bias(view, form, data),)
        operands = (*(view.operands[i] for i in form.plain), *data, *bias)
        origins = (*(Origin(o.name, form.op_type) for o in view.origins[-1:]),)
        version = int(view.attributes.get("opset", _NEWEST))
        converted = _FLOAT_OPS[form.op_type](NodeView(view.node, operands, version, origins))
        if converted is None or isinstance(converted, Result):
            return None
        (kind, kept), name = converted, view.node.output[0]
        if view.operand(form.output) is None:  # a QGemm may give its result in float
            return apply(kind, *kept, name=name, origins=origins)
        real = apply(kind, *kept, name=f"{name}.float", origins=origins)
        return _quantized(view, real, _result_type(view, form.output))

    return ranked(convert)


_NEWEST = 17
"""The opset whose meaning the attributes of ops without a version of their own have."""


def _channel_axis(form: _Form, view: NodeView) -> int | None:
    """The axis of a weight's scales; other operands have one scale."""
    if form.op_type == "Conv":
        return 0
    if form.op_type == "Gemm":
        return 0 if view.attributes.get("transB", 0) else 1
    return view.type(form.data[-1]).rank - 1 if form.op_type == "MatMul" else None


def _real(view: NodeView, at: int, axis: int | None = None) -> Value:
    """The real numbers that the operand at ``at`` stands for."""
    stored = view.operands[at]
    assert stored is not None
    storage = stored.type.elem
    given = storage if isinstance(storage, QuantizedType) else None
    storage = given.storage if given else storage
    assert isinstance(storage, ScalarType)
    elem = quantized_type(view, storage, F32, axis=axis, scale=at + 1)
    if elem is None or storage not in (I8, U8) or (given is not None and given != elem):
        raise Carry("an operand in a form of its own")
    data = constant_data(stored)
    if data is not None and given is None:
        stored = const(data, elem, name=stored.name)
    elif given is None:
        name = f"{stored.name or view.node.input[at]}.dequant"
        if (real := reals_of_integers(stored, elem, name, view.origins)) is None:
            raise Carry("scales at the end of float32")
        return real
    return apply(quant.Dequantize(), stored, name=f"{stored.name}.dequant", origins=view.origins)


def _bias(view: NodeView, form: _Form, data: list[Value]) -> Value:
    """The bias of a layer: int32 in steps of the scales of data and weight, one for each channel if the weight has."""
    assert form.bias is not None
    stored, given = view.operands[form.bias], constant_data(view.operand(form.bias))
    activation, weight = (_dequantized_type(v) for v in data)
    if stored is None or given is None or stored.type.elem != I32 or activation.axis is not None:
        raise Carry("a bias that is computed, or not int32")
    steps = np.float32(view.attributes.get("alpha", 1.0)) * (activation.scale_array * weight.scale_array)
    axis = None if weight.axis is None else len(given.shape) - 1
    usable = bool((steps > 0).all() and np.isfinite(steps).all())
    if not usable or (axis is not None and given.shape[axis:] != steps.shape):
        raise Carry("a bias of another shape, or in steps out of range")
    elem = QuantizedType(I32, F32, tuple(map(float, steps)), (0,) * len(steps), axis, *I32.integer_range)
    constant = const(given, elem, name=stored.name)
    return apply(quant.Dequantize(), constant, name=f"{stored.name}.dequant", origins=view.origins)


def _dequantized_type(value: Value) -> QuantizedType:
    assert value.producer is not None
    source = value.producer.operands[0]
    assert source is not None
    assert isinstance(source.type.elem, QuantizedType)
    return source.type.elem


def _result_type(view: NodeView, scale: int) -> QuantizedType:
    """The type of the result, whose scale stands at ``scale``; the storage is that of its zero point."""
    zero = view.operand(scale + 1)
    storage = U8 if zero is None else zero.type.elem
    to = quantized_type(view, storage, F32, axis=None, scale=scale) if isinstance(storage, ScalarType) else None
    if to is None or storage not in (I8, U8):
        raise Carry("a result in a form of its own")
    return to


def _quantized(view: NodeView, real: Value, to: QuantizedType) -> Result:
    return apply(quant.Quantize(to), real, name=view.node.output[0], origins=view.origins)


@ranked
def _concat(view: NodeView) -> Converted:
    """Operands in the type of the result are joined as integers; others are quantized again."""
    to = _result_type(view, 0)
    parts = range(2, len(view.operands), 3)
    kind = nn.Concat(int(view.attributes["axis"]))
    if all((o := view.operands[at]) is not None and o.type.elem == to for at in parts):
        return kind, [view.operands[at] for at in parts]
    real = apply(kind, *(_real(view, at) for at in parts), name=f"{view.node.output[0]}.float", origins=view.origins)
    return _quantized(view, real, to)


_ONE, _TWO = ((0,), 3), ((0, 3), 6)

Q_OPERATORS: dict[tuple[str, str], Converter] = {
    ("", "QLinearConv"): _converter(_Form("Conv", *_TWO, bias=8)),
    ("", "QLinearMatMul"): _converter(_Form("MatMul", *_TWO)),
    (RUNTIME, "QLinearConv"): _converter(_Form("Conv", *_TWO, bias=8)),
    (RUNTIME, "QGemm"): _converter(_Form("Gemm", (0, 3), 7, bias=6)),
    (RUNTIME, "QLinearAdd"): _converter(_Form("Add", *_TWO)),
    (RUNTIME, "QLinearMul"): _converter(_Form("Mul", *_TWO)),
    (RUNTIME, "QLinearAveragePool"): _converter(_Form("AveragePool", *_ONE)),
    (RUNTIME, "QLinearGlobalAveragePool"): _converter(_Form("GlobalAveragePool", *_ONE)),
    (RUNTIME, "QLinearLeakyRelu"): _converter(_Form("LeakyRelu", *_ONE)),
    (RUNTIME, "QLinearReduceMean"): _converter(_Form("ReduceMean", *_ONE)),
    (RUNTIME, "QLinearSigmoid"): _converter(_Form("Sigmoid", *_ONE)),
    (RUNTIME, "QLinearSoftmax"): _converter(_Form("Softmax", *_ONE)),
    (RUNTIME, "QLinearWhere"): _converter(_Form("Where", (1, 4), 7, plain=(0,))),
    (RUNTIME, "QLinearConcat"): _concat,
    (RUNTIME, "MatMulNBits"): matmul_nbits,
    (RUNTIME, "QuantizeLinear"): QUANTIZATION["QuantizeLinear"],
    (RUNTIME, "DequantizeLinear"): QUANTIZATION["DequantizeLinear"],
}
"""Converters by domain and op type."""
