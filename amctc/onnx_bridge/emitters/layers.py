"""Layers, and the activations they carry."""

from __future__ import annotations

import math

import numpy as np

from amctc.ir import Op, layer_name
from amctc.onnx_bridge.emitters.nodes import node_name
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.ops import nn
from amctc.schema import OpKind


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


LAYERS: dict[type[OpKind], Emitter] = {
    nn.Conv: _conv, nn.ConvTranspose: _conv_transpose, nn.Gemm: _gemm, nn.MatMul: _matmul, nn.Relu: _activation,
    nn.LeakyRelu: _activation, nn.Clip: _activation,
}  # fmt: skip
