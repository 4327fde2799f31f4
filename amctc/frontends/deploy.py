"""Read models in the Ascend deploy form (N1, N8, N11, N20, N24): our own files and those of the vendor's tools.

Types come from our own inference; what ONNX thinks of an int8 convolution does not matter. The offset that a layer
subtracts from its data is found at the quantizer its data comes from. Weights with half the input channels hold two
int4 values to a byte (N4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from amctc.data import deferred
from amctc.errors import InputError, UnsupportedError
from amctc.ir import Graph, Result, Value, apply, const, constant_data, union_origins
from amctc.numerics.fixed_point import unpack_dequant
from amctc.numerics.int4 import unpack_int4
from amctc.onnx_bridge import import_model
from amctc.onnx_bridge.converters import Converted, Converter, NodeView, kernel_sizes, max_pool, sliding_window
from amctc.onnx_bridge.deploy_form import ANTI_QUANT, DEQUANT, FLOAT_CODES, QUANT, STORAGE, moves
from amctc.onnx_bridge.tensors import ExternalFile
from amctc.ops import ascend
from amctc.types import F32, I4, I8, I16, I32, U64, ScalarType

_PREFIX = "Ascend"
_REWRITE = "write the file again with the tool it comes from"


def is_deploy(model: onnx.ModelProto) -> bool:
    """True for a model in the deploy form: it has ``Ascend…`` nodes in the default domain."""
    return any(n.op_type.startswith(_PREFIX) and n.domain in ("", "ai.onnx") for n in model.graph.node)


def import_deploy(model: onnx.ModelProto, external: ExternalFile | None = None) -> Graph:
    """The graph of a deploy model, its layers in the ``ascend`` dialect.

    Raises :class:`InputError` for a malformed model, a scale that is not finite and positive or an offset that is no
    integer of the storage type (N1), offsets that meet in one layer and differ (N19); :class:`UnsupportedError` for
    int8 ops that are not simulated. Errors name the node.
    """
    return import_model(model, external, _DeployForm().converters())


class _DeployForm:
    """Converters of one import, and which quantizer each integer value comes from."""

    def __init__(self) -> None:
        self._quantizers: dict[Value, ascend.Quant] = {}

    def converters(self) -> Mapping[str, Converter]:
        return {
            QUANT: _quant, DEQUANT: _dequant, ANTI_QUANT: _anti_quant, "Conv": self._conv, "Gemm": self._gemm,
            "MatMul": self._matmul, "Add": _bias, "MaxPool": _max_pool, "AveragePool": _not_simulated,
            "ConvTranspose": _not_simulated, "GlobalAveragePool": _not_simulated, "AscendRequant": _fused,
        }  # fmt: skip

    def _conv(self, view: NodeView) -> Converted:
        if not _integer(view):
            return None
        kernel, group = kernel_sizes(view), int(view.attributes.get("group", 1))
        window = None if kernel is None or view.type().rank < 3 else sliding_window(view, kernel)
        if window is None:
            raise UnsupportedError("an int8 convolution with unknown or negative pads", remedy="export it with explicit pads")
        kind = ascend.Conv(**window, group=group, offset_x=self._offset(view.operands[0]))
        return kind, (view.operands[0], _weight(view, 1, 1, group), *view.operands[2:])

    def _gemm(self, view: NodeView) -> Converted:
        if not _integer(view):
            return None
        a = view.attributes
        if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
            raise UnsupportedError("an int8 Gemm with transA, alpha or beta", remedy="fold the factors before quantizing")
        trans_b = bool(a.get("transB", 0))
        weight = _weight(view, 1 if trans_b else 0, -1)
        bias = view.operand(2)
        if bias is not None:
            bias = _one_per_column(bias, weight.type.dims[0 if trans_b else 1])
        return ascend.MatMul(trans_b, self._offset(view.operands[0])), (view.operands[0], weight, bias)

    def _matmul(self, view: NodeView) -> Converted:
        if not _integer(view):
            return None
        return ascend.MatMul(False, self._offset(view.operands[0])), (view.operands[0], _weight(view, 0, -1))

    def _offset(self, data: Value | None) -> int:
        """The quantizer's offset of a layer's data, followed back through ops that only move elements."""
        assert data is not None
        stack = [data]
        while stack:
            value = stack[-1]
            op = value.producer
            if value in self._quantizers:
                stack.pop()
            elif op is not None and isinstance(op.kind, ascend.Quant):
                self._quantizers[value] = op.kind
            elif op is not None and moves(op):
                operands = [o for o in op.operands if o is not None]
                missing = [o for o in operands if o not in self._quantizers]
                stack.extend(missing)
                if not missing:
                    self._quantizers[value] = _agreed([self._quantizers[o] for o in operands])
            else:
                source = "a graph input" if op is None else op.kind.op_name
                raise UnsupportedError(f"int8 data that comes from {source}, not from a quantizer", rule="N8",
                                       remedy="quantize it with AscendQuant")  # fmt: skip
        return self._quantizers[data].offset


def _agreed(quantizers: list[ascend.Quant]) -> ascend.Quant:
    first = quantizers[0]
    for other in quantizers:
        if other != first:
            raise InputError(
                f"data quantized with scale {first.scale}, offset {first.offset} is joined with data of scale "
                f"{other.scale}, offset {other.offset}", rule="N19", remedy=_REWRITE,
            )  # fmt: skip
    return first


def _integer(view: NodeView) -> bool:
    """True for a layer on int8 data; other integer data from a quantizer is refused, all else is standard ONNX."""
    x = view.operand(0)
    if x is None:
        return False
    if x.type.elem in (I4, I16):
        raise UnsupportedError(f"a layer on {x.type.elem} data is not simulated", remedy="quantize activations to 8 bits")
    return x.type.elem == I8 and x.type.shape is not None


def _weight(view: NodeView, axis: int, data_axis: int, group: int = 1) -> Value:
    """The constant weight; int4 if its bytes hold half the data's channels along ``axis`` (N4)."""
    weight, channels = view.operand(1), view.type().dims[data_axis]
    data = constant_data(weight)
    if weight is None or data is None:
        raise UnsupportedError("an integer layer whose weight is not a constant", remedy="leave this layer in float")
    shape = data.shape
    if weight.type.elem != I8 or group != 1 or axis >= len(shape) or 2 * shape[axis] != channels:
        return weight
    doubled = (*shape[:axis], channels, *shape[axis + 1 :])
    unpacked = deferred("unpack int4", lambda w: unpack_int4(w, axis), data, shape=doubled, dtype=np.int8)
    return const(unpacked, I4, name=weight.name, origins=view.origins)


def _one_per_column(bias: Value, columns: object) -> Value:
    """A constant bias that broadcasts to the result, as ``[columns]``; any other is left for inference to judge."""
    data = constant_data(bias)
    if data is None or not isinstance(columns, int) or data.size not in (1, columns) or data.shape == (columns,):
        return bias
    if data.size != 1 and data.shape[-1] != columns:
        return bias
    flat = np.broadcast_to(data.read().reshape(-1), (columns,))
    return const(flat, bias.type.elem, name=bias.name)


def _bias(view: NodeView) -> Converted:
    """MatMul, Add of a constant: one op, because the bias belongs to the accumulator (N24)."""
    for product, bias in (view.operands, view.operands[::-1]) if len(view.operands) == 2 else ():
        op = None if product is None else product.producer
        if op is None or bias is None or not isinstance(op.kind, ascend.MatMul | ascend.Conv):
            continue
        columns = op.result.type.dims[-1]
        fitted = _one_per_column(bias, columns)
        single = isinstance(op.kind, ascend.MatMul) and op.operand(2) is None and bias.type.elem == I32
        if not single or constant_data(bias) is None or fitted.type.dims != (columns,):
            raise UnsupportedError("an int32 sum that is not the constant bias of a MatMul", remedy=_REWRITE, rule="N24")
        origins = union_origins(op.origins, view.origins)
        return apply(op.kind, *op.operands[:2], fitted, name=view.node.output[0], origins=origins)
    return None


def _max_pool(view: NodeView) -> Converted:
    x = view.operand(0)
    return max_pool(view) if x is not None and x.type.elem == I8 else None


def _not_simulated(view: NodeView) -> Converted:
    x = view.operand(0)
    if x is not None and x.type.elem == I8:
        raise UnsupportedError(f"int8 {view.node.op_type} is not simulated yet", remedy="leave this layer in float")
    return None


def _fused(view: NodeView) -> Converted:
    raise UnsupportedError("a fused requantization; deploy files are unfused", rule="N18", remedy=_REWRITE)


def _quant(view: NodeView) -> Converted:
    a = view.attributes
    if a.get("round_mode", "Round") != "Round" or len(view.operands) > 1:
        raise UnsupportedError("AscendQuant with another round_mode, or with scales as inputs", remedy=_REWRITE)
    name = a.get("dst_type", f"INT{a.get('quant_bit', 8)}")
    storage = STORAGE.get(name)
    if storage is None:
        raise UnsupportedError(f"AscendQuant to {name!r}", rule="N1", remedy=f"one of {', '.join(STORAGE)}")
    return ascend.Quant(_scale(view), _whole_offset(view, storage), storage, bool(a.get("sqrt_mode", 0))), view.operands


def _anti_quant(view: NodeView) -> Converted:
    """The file holds the quantizer's own offset, our op the compiler's, its negative (N20)."""
    storage = view.type().elem if view.operand(0) is not None else I8
    if not isinstance(storage, ScalarType) or not storage.is_integer or view.attributes.get("sqrt_mode", 0):
        raise UnsupportedError("AscendAntiQuant of data that is no integer, or with sqrt_mode", remedy=_REWRITE)
    return ascend.AntiQuant(_scale(view), -_whole_offset(view, storage), _float_type(view)), view.operands


def _dequant(view: NodeView) -> Converted:
    if view.attributes.get("sqrt_mode", 0):
        raise UnsupportedError("AscendDequant with sqrt_mode", remedy=_REWRITE)
    acc, parameter = view.operands[0], _parameter(view)
    assert acc is not None
    producer = None if acc.producer is None else acc.producer.kind
    if not isinstance(producer, ascend.Conv | ascend.MatMul) and parameter.type.dims != (1,):
        raise UnsupportedError("a scale per channel of something that is no layer", rule="N24", remedy=_REWRITE)
    axis = 1 if isinstance(producer, ascend.Conv) else acc.type.rank - 1
    return ascend.Dequant(axis, _float_type(view), bool(view.attributes.get("relu_flag", 0))), (acc, parameter)


def _parameter(view: NodeView) -> Result | Value:
    """The parameter words (or float32 scales) as ``[C]`` or ``[1]``, checked: scales finite and positive, offset_w 0."""
    value = view.operand(1)
    data = constant_data(value)
    if value is None or data is None or value.type.elem not in (U64, F32):
        raise UnsupportedError("AscendDequant without a constant parameter of uint64 or float32", remedy=_REWRITE)
    words = data.read()
    scales = words
    if value.type.elem == U64:
        scales, _, offset_w = unpack_dequant(words)
        if (offset_w & ~64).any():  # bit 46 marks a signed output in the requantize form and says nothing here
            raise InputError("a weight offset in the dequantization parameter", rule="N10", remedy=_REWRITE)
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise InputError("a dequantization scale that is not finite and positive", rule="N25", remedy=_REWRITE)
    return value if len(data.shape) == 1 else const(words.reshape(-1), value.type.elem, name=value.name)


def _float_type(view: NodeView) -> ScalarType:
    code = view.attributes.get("dtype", 0)
    if code not in FLOAT_CODES:
        raise UnsupportedError(f"{view.node.op_type} to data type {code}", remedy="0 is float32, 1 is float16")
    return FLOAT_CODES[code]


def _scale(view: NodeView) -> float:
    scale = view.attributes.get("scale")
    if not isinstance(scale, float | int) or not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale {scale!r} is not a finite positive number", rule="N1", remedy=_REWRITE)
    return float(scale)


def _whole_offset(view: NodeView, storage: ScalarType) -> int:
    offset, (low, high) = view.attributes.get("offset", 0.0), storage.integer_range
    if not isinstance(offset, float | int) or not (low <= offset <= high) or offset != int(offset):
        raise InputError(f"offset {offset!r} is not an integer in [{low}, {high}]", rule="N25", remedy=_REWRITE)
    return int(offset)
