"""Standard ONNX forms of the ``nn`` and ``quant`` dialects (opset 17 and newer)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from amctc.errors import UnsupportedError
from amctc.ir import Constant, Op, layer_name
from amctc.onnx_bridge.exporter import Emitter, Writer, emit_carried, emit_constant, is_dilated
from amctc.onnx_bridge.tensors import elem_code
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.schema import OpKind
from amctc.types import I32, QuantizedType, ScalarType


def node_name(op: Op, op_type: str) -> str:
    """The name of the user's node this one stands for: the last origin of that op type, else the layer's."""
    for origin in reversed(op.origins):
        if origin.op_type == op_type:
            return origin.name
    return layer_name(op)


def simple(op_type: str, **fixed: Any) -> Emitter:
    """One node with the operands as they are."""

    def emit(writer: Writer, op: Op) -> None:
        inputs, outputs = [writer.name(o) for o in op.operands], [writer.name(op.result)]
        writer.node(op_type, inputs, outputs, node_name(op, op_type), **fixed)

    return emit


def _activated(writer: Writer, op: Op, activation: nn.Activation | None) -> str:
    """The name the layer's own node must write: the result, or a tensor that the activation's nodes read."""
    if activation is None:
        return writer.name(op.result)
    return writer.tensor(f"{writer.name(op.result)}/linear")


def _activate(writer: Writer, op: Op, activation: nn.Activation | None, inner: str) -> None:
    if activation is not None:
        _emit_activation(writer, op, activation, inner, writer.name(op.result))


def _emit_activation(writer: Writer, op: Op, kind: nn.Activation, source: str, target: str) -> None:
    if isinstance(kind, nn.Relu):
        writer.node("Relu", [source], [target], node_name(op, "Relu"))
    elif isinstance(kind, nn.LeakyRelu):
        writer.node("LeakyRelu", [source], [target], node_name(op, "LeakyRelu"), alpha=kind.alpha)
    else:
        dtype = op.result.type.scalar.dtype
        bounds = [
            "" if math.isinf(v) else writer.constant(f"{target}/{n}", np.asarray(v, dtype))
            for n, v in (("low", kind.low), ("high", kind.high))
        ]
        while bounds and not bounds[-1]:
            bounds.pop()
        writer.node("Clip", [source, *bounds], [target], node_name(op, "Clip"))


def _activation(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Relu | nn.LeakyRelu | nn.Clip)
    _emit_activation(writer, op, kind, writer.name(op.operands[0]), writer.name(op.result))


def _conv(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Conv)
    inner = _activated(writer, op, kind.activation)
    writer.node(
        "Conv", [writer.name(o) for o in op.operands], [inner], node_name(op, "Conv"), strides=kind.strides,
        pads=kind.pads, dilations=kind.dilations, group=kind.group, kernel_shape=_kernel(op),
    )  # fmt: skip
    _activate(writer, op, kind.activation, inner)


def _kernel(op: Op) -> list[int] | None:
    weight = op.operands[1]
    assert weight is not None
    sizes = [d for d in weight.type.dims[2:] if isinstance(d, int)]
    return sizes if len(sizes) == weight.type.rank - 2 else None


def _conv_transpose(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.ConvTranspose)
    inner = _activated(writer, op, kind.activation)
    writer.node(
        "ConvTranspose", [writer.name(o) for o in op.operands], [inner], node_name(op, "ConvTranspose"),
        strides=kind.strides, pads=kind.pads, dilations=kind.dilations, group=kind.group, kernel_shape=_kernel(op),
        output_padding=kind.output_padding or None,
    )  # fmt: skip
    _activate(writer, op, kind.activation, inner)


def _gemm(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Gemm)
    inner = _activated(writer, op, kind.activation)
    writer.node(
        "Gemm", [writer.name(o) for o in op.operands], [inner], node_name(op, "Gemm"), alpha=kind.alpha, beta=kind.beta,
        transA=int(kind.trans_a), transB=int(kind.trans_b),
    )  # fmt: skip
    _activate(writer, op, kind.activation, inner)


def _matmul(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.MatMul)
    inner = _activated(writer, op, kind.activation)
    x, w, b = (*op.operands, None)[:3]
    product = inner if b is None else writer.tensor(f"{inner}/product")
    writer.node("MatMul", [writer.name(x), writer.name(w)], [product], node_name(op, "MatMul"))
    if b is not None:
        writer.node("Add", [product, writer.name(b)], [inner], f"{layer_name(op)}/bias")
    _activate(writer, op, kind.activation, inner)


def _batch_norm(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.BatchNorm)
    simple("BatchNormalization", epsilon=kind.eps)(writer, op)


def _softmax(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Softmax)
    simple("Softmax", axis=kind.axis)(writer, op)


def _max_pool(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.MaxPool)
    simple("MaxPool", kernel_shape=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=kind.dilations,
           ceil_mode=int(kind.ceil_mode))(writer, op)  # fmt: skip


def _average_pool(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.AveragePool)
    dilations = kind.dilations if is_dilated(kind) else None  # the attribute came with opset 19
    simple("AveragePool", kernel_shape=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=dilations,
           ceil_mode=int(kind.ceil_mode), count_include_pad=int(kind.count_include_pad))(writer, op)  # fmt: skip


def _concat(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Concat)
    simple("Concat", axis=kind.axis)(writer, op)


def _flatten(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Flatten)
    simple("Flatten", axis=kind.axis)(writer, op)


def _reshape(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Reshape)
    result = writer.name(op.result)
    target = writer.constant(f"{result}/shape", np.asarray(kind.shape, np.int64))
    writer.node("Reshape", [writer.name(op.operands[0]), target], [result], node_name(op, "Reshape"),
                allowzero=int(kind.allow_zero))  # fmt: skip


def _transpose(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Transpose)
    simple("Transpose", perm=kind.permutation)(writer, op)


def _cast(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Cast)
    simple("Cast", to=elem_code(kind.to))(writer, op)


def _observe(writer: Writer, op: Op) -> None:
    """Observers leave no trace in a file, except an Identity where one is a graph output."""
    source = op.operands[0]
    assert source is not None
    if not writer.alias(op.result, source):
        writer.node("Identity", [writer.name(source)], [writer.name(op.result)], f"{layer_name(op)}/observe")


def _parameters(writer: Writer, elem: QuantizedType, hint: str) -> list[str]:
    """Scale and zero point initializers; an int32 bias has no zero point."""
    scalar = elem.axis is None
    scale = elem.scale_array.reshape(()) if scalar else elem.scale_array
    names = [writer.constant(f"{hint}/scale", scale)]
    if elem.storage != I32:
        zero = elem.zero_point_array.astype(elem.dtype)
        names.append(writer.constant(f"{hint}/zero_point", zero.reshape(()) if scalar else zero, elem.storage))
    return names


def _quantize(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, quant.Quantize)
    result = writer.name(op.result)
    _check_range(kind.to, op)
    inputs = [writer.name(op.operands[0]), *_parameters(writer, kind.to, result)]
    writer.node("QuantizeLinear", inputs, [result], f"{result}/QuantizeLinear", axis=kind.to.axis)


def _dequantize(writer: Writer, op: Op) -> None:
    source = op.operands[0]
    assert source is not None
    elem = source.type.elem
    assert isinstance(elem, QuantizedType)
    result = writer.name(op.result)
    inputs = [writer.name(source), *_parameters(writer, elem, result)]
    writer.node("DequantizeLinear", inputs, [result], f"{result}/DequantizeLinear", axis=elem.axis)


def _check_range(elem: QuantizedType, op: Op) -> None:
    assert isinstance(elem.storage, ScalarType)
    if (elem.low, elem.high) != elem.storage.integer_range:
        raise UnsupportedError(f"QuantizeLinear cannot clip to [{elem.low}, {elem.high}]", where=layer_name(op))


STANDARD: dict[type[OpKind], Emitter] = {
    Constant: emit_constant, Node: emit_carried,
    nn.Conv: _conv, nn.ConvTranspose: _conv_transpose, nn.Gemm: _gemm, nn.MatMul: _matmul, nn.BatchNorm: _batch_norm,
    nn.Relu: _activation, nn.LeakyRelu: _activation, nn.Clip: _activation, nn.Sigmoid: simple("Sigmoid"),
    nn.Tanh: simple("Tanh"), nn.Softmax: _softmax, nn.Add: simple("Add"), nn.Sub: simple("Sub"), nn.Mul: simple("Mul"),
    nn.Div: simple("Div"), nn.MaxPool: _max_pool, nn.AveragePool: _average_pool,
    nn.GlobalAveragePool: simple("GlobalAveragePool"), nn.Concat: _concat, nn.Flatten: _flatten, nn.Reshape: _reshape,
    nn.Transpose: _transpose, nn.Cast: _cast, nn.Identity: simple("Identity"), quant.Observe: _observe,
    quant.Quantize: _quantize, quant.Dequantize: _dequantize,
}  # fmt: skip
"""Emitters of standard ONNX by op kind."""
