"""Read models in the Ascend deploy form (N1, N8, N11, N20, N24): our own files and those of the vendor's tools.

Types come from our own inference; what ONNX thinks of an int8 convolution does not matter. The offset that a layer
subtracts from its data is found at the quantizer its data comes from. Weights with half the input channels hold two
int4 values to a byte (N4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from amctc.data import deferred
from amctc.errors import InputError, UnsupportedError
from amctc.frontends.ascend_nodes import ASCEND_NODES, REWRITE, required
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name, union_origins
from amctc.numerics.int4 import unpack_int4
from amctc.onnx_bridge import import_model
from amctc.onnx_bridge.converters import (
    Converted,
    Converter,
    NodeView,
    average_pool,
    kernel_sizes,
    max_pool,
    sliding_window,
)
from amctc.onnx_bridge.deploy_form import TARGET_KEY, data_operands, moves
from amctc.onnx_bridge.tensors import ExternalFile
from amctc.ops import ascend, nn, quant
from amctc.types import I4, I8, I16, I32, Dim, QuantizedType

_PREFIX = "Ascend"
_FLOAT = "leave this layer in float"


def is_deploy(model: onnx.ModelProto) -> bool:
    """True for a model in the deploy form: it has nodes of the target's own in the default domain, or metadata of ours.

    A model of weight-only products (N21) has no such node.
    """
    nodes = (n for n in model.graph.node if n.op_type.startswith(_PREFIX) or n.op_type in ASCEND_NODES)
    return any(n.domain in ("", "ai.onnx") for n in nodes) or any(p.key == TARGET_KEY for p in model.metadata_props)


def import_deploy(model: onnx.ModelProto, external: ExternalFile | None = None) -> Graph:
    """The graph of a deploy model, its layers in the ``ascend`` dialect.

    Raises :class:`InputError` for a malformed model, a scale that is not finite and positive (N1), an offset that is
    no integer of the storage type (N25), data of different quantizers that meets in one layer (N19);
    :class:`UnsupportedError` for int8 ops that are not simulated. Errors name the node.
    """
    return import_model(model, external, _DeployForm().converters())


class _DeployForm:
    """Converters of one import, and which quantizer each integer value comes from."""

    def __init__(self) -> None:
        self._quantizers: dict[Value, ascend.Quant] = {}

    def converters(self) -> Mapping[str, Converter]:
        return {
            **ASCEND_NODES, "Conv": self._conv, "ConvTranspose": self._conv_transpose, "Gemm": self._gemm,
            "MatMul": self._matmul, "Add": _bias, "MaxPool": _max_pool, "AveragePool": self._average_pool,
            "GlobalAveragePool": _not_simulated,
        }  # fmt: skip

    def _conv(self, view: NodeView) -> Converted:
        if not _integer(view):
            return None
        group, window = _convolution(view)
        kind = ascend.Conv(**window, group=group, offset_x=self._offset(view))
        return kind, (view.operands[0], _weight(view, 1, 1, group), *view.operands[2:])

    def _conv_transpose(self, view: NodeView) -> Converted:
        if not _integer(view):
            return None
        automatic = view.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        if automatic or "output_shape" in view.attributes:
            raise UnsupportedError("an int8 ConvTranspose with output_shape or auto_pad",
                                   remedy="make the pads explicit")  # fmt: skip
        group, window = _convolution(view)
        extra = tuple(view.attributes.get("output_padding", ()))
        kind = ascend.ConvTranspose(**window, group=group, output_padding=extra, offset_x=self._offset(view))
        return kind, (view.operands[0], _weight(view, 0, 1, group), *view.operands[2:])

    def _average_pool(self, view: NodeView) -> Converted:
        if not _integer(view):
            return None
        converted = average_pool(view)
        assert converted is None or isinstance(converted, tuple)
        kind = None if converted is None else converted[0]
        pool = ascend.SumPool.of(kind, view.type(), self._offset(view)) if isinstance(kind, nn.AveragePool) else None
        if pool is None:
            raise UnsupportedError("an int8 AveragePool whose windows hold different numbers of inputs", rule="N26",
                                   remedy=_FLOAT)  # fmt: skip
        return pool, view.operands[:1]

    def _gemm(self, view: NodeView) -> Converted:
        if not _integer(view):
            return _weight_only(view)
        a = view.attributes
        if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
            raise UnsupportedError("an int8 Gemm with transA, alpha or beta", remedy="fold them before quantizing")
        trans_b = bool(a.get("transB", 0))
        weight, bias = _weight(view, int(trans_b), -1), view.operand(2)
        if bias is not None and weight.type.rank == 2:
            bias = _per_column(bias, weight.type.dims[1 - int(trans_b)])
        return ascend.MatMul(trans_b, self._offset(view)), (view.operands[0], weight, bias)

    def _matmul(self, view: NodeView) -> Converted:
        if not _integer(view):
            return _weight_only(view)
        if constant_data(required(view, 1)) is not None:
            return ascend.MatMul(False, self._offset(view)), (view.operands[0], _weight(view, 0, -1))
        if self._offset(view) or self._offset(view, 1):
            raise UnsupportedError("an int8 MatMul of two computed operands that are not symmetric", remedy=_FLOAT)
        return ascend.BatchMatMul(), view.operands

    def _offset(self, view: NodeView, index: int = 0) -> int:
        """The quantizer's offset of an operand, followed back through ops that only move elements."""
        data = required(view, index)
        stack = [data]
        while stack:
            value = stack[-1]
            op = value.producer
            if value in self._quantizers:
                stack.pop()
            elif op is not None and moves(op):
                operands = [o for o in data_operands(op) if o is not None]
                missing = [o for o in operands if o not in self._quantizers]
                stack.extend(missing)
                if not missing:
                    self._quantizers[value] = _agreed([self._quantizers[o] for o in operands])
            else:
                self._quantizers[value] = _quantizer(op)
        return self._quantizers[data].offset


def _quantizer(op: Op | None) -> ascend.Quant:
    if op is not None and isinstance(op.kind, ascend.Quant):
        return op.kind
    source = "a graph input" if op is None else op.kind.op_name
    raise UnsupportedError(f"int8 data that comes from {source}, not from a quantizer", rule="N8",
                           remedy="quantize it with AscendQuant")  # fmt: skip


def _agreed(quantizers: list[ascend.Quant]) -> ascend.Quant:
    first = quantizers[0]
    for other in quantizers:
        if other != first:
            raise InputError(
                f"data of scale {first.scale} and offset {first.offset} is joined with data of scale {other.scale} "
                f"and offset {other.offset}", rule="N19", remedy=REWRITE,
            )  # fmt: skip
    return first


def _convolution(view: NodeView) -> tuple[int, dict[str, Any]]:
    """Groups and window of an int8 convolution, transposed or not."""
    if view.type().rank < 3:
        raise InputError(f"an int8 convolution of {view.type()}", remedy=REWRITE)
    kernel = kernel_sizes(view)
    window = None if kernel is None else sliding_window(view, kernel)
    if window is None:
        raise UnsupportedError("an int8 convolution with unknown or negative pads", remedy="make the pads explicit")
    return int(view.attributes.get("group", 1)), window


def _integer(view: NodeView) -> bool:
    """True for a layer on int8 data; on other quantized data it is refused, on anything else it is standard ONNX."""
    x = required(view)
    if x.type.elem in (I4, I16):
        raise UnsupportedError(f"a layer on {x.type.elem} data is not simulated", remedy="quantize the data to 8 bits")
    return x.type.elem == I8 and x.type.shape is not None and x.type.rank >= 1


def _weight(view: NodeView, axis: int, data_axis: int, group: int = 1) -> Value:
    """The constant weight; int4 if its bytes hold half the data's channels along ``axis`` (N4)."""
    weight, channels = required(view, 1), view.type().dims[data_axis]
    data = constant_data(weight)
    if data is None:
        raise UnsupportedError("an integer layer whose weight is not a constant", remedy=_FLOAT)
    shape = data.shape
    if weight.type.elem != I8 or group != 1 or axis >= len(shape) or 2 * shape[axis] != channels:
        return weight
    doubled = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
    unpacked = deferred("unpack int4", lambda w: unpack_int4(w, axis), data, shape=doubled, dtype=np.int8)
    return const(unpacked, I4, name=weight.name)


def _weight_only(view: NodeView) -> Converted:
    """A product of float data and a dequantized constant matrix (N21): Gemm or MatMul, standard ONNX otherwise."""
    x, stored = required(view), _dequantized(view.operand(1))
    a, gemm = view.attributes, view.node.op_type == "Gemm"
    factors = gemm and (a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0)
    if stored is None or stored.type.rank != 2 or factors:
        return None
    trans_b = bool(gemm and a.get("transB", 0))
    kind, parameters = ascend.weight_quant_matmul(stored, trans_b=trans_b, layer=view.node.name)
    return kind, (x, *parameters, view.operand(2))


def _dequantized(value: Value | None) -> Value | None:
    """The constant integers that ``value`` is dequantized from, through a cast to the type of the data."""
    op = None if value is None else value.producer
    if op is not None and isinstance(op.kind, nn.Cast) and op.operands[0] is not None:
        op = op.operands[0].producer
    stored = op.operands[0] if op is not None and isinstance(op.kind, quant.Dequantize) else None
    if stored is None or constant_data(stored) is None:
        return None
    elem = stored.type.elem
    return stored if isinstance(elem, QuantizedType) and elem.storage in (I4, I8) else None


def _per_column(bias: Value, columns: Dim) -> Value:
    """A constant bias that broadcasts along rows, as ``[columns]``; any other is left for inference to judge."""
    data = constant_data(bias)
    if data is None or not isinstance(columns, int) or data.shape == (columns,):
        return bias
    if data.size not in (1, columns) or (data.size != 1 and data.shape[-1] != columns):
        return bias
    return const(np.broadcast_to(data.read().reshape(-1), (columns,)), bias.type.elem, name=bias.name)


def _bias(view: NodeView) -> Converted:
    """MatMul, then Add of a constant: one op, because the bias belongs to the accumulator (N24)."""
    if len(view.operands) != 2:
        return None
    for product, bias in (view.operands, view.operands[::-1]):
        op = None if product is None else product.producer
        if op is None or bias is None:
            continue
        if isinstance(op.kind, ascend.WeightQuantMatMul) and _is_own_bias(view, op, bias):
            origins = union_origins(op.origins, view.origins)
            operands = (*op.operands, *(None,) * (4 - len(op.operands)), bias)
            return apply(op.kind, *operands, name=view.node.output[0], origins=origins)
        if not isinstance(op.kind, ascend.Layer | ascend.SumPool):
            continue
        fitted = _per_column(bias, op.result.type.dims[-1])
        bare = isinstance(op.kind, ascend.MatMul | ascend.BatchMatMul) and op.operand(2) is None
        if not bare or constant_data(bias) is None or bias.type.elem != I32 or fitted.type.rank != 1:
            raise UnsupportedError("an int32 sum that is not the constant bias of a MatMul", rule="N24", remedy=REWRITE)
        origins = union_origins(op.origins, view.origins)
        return apply(op.kind, *op.operands[:2], fitted, name=view.node.output[0], origins=origins)
    return None


def _is_own_bias(view: NodeView, op: Op, bias: Value) -> bool:
    """Whether an addition is what our writer makes of the bias of a weight-only MatMul: it rounds once, with it."""
    plain = op.operand(4) is None and constant_data(bias) is not None and bias.type.dims == op.result.type.dims[-1:]
    return plain and view.node.name == f"{layer_name(op)}/bias"


def _max_pool(view: NodeView) -> Converted:
    return max_pool(view) if required(view).type.elem == I8 else None


def _not_simulated(view: NodeView) -> Converted:
    if required(view).type.elem == I8:
        raise UnsupportedError(f"int8 {view.node.op_type} is not simulated yet", remedy=_FLOAT)
    return None
