"""Softmax and normalisation."""

from __future__ import annotations

import numpy as np

from amctc.ir import Op
from amctc.onnx_bridge.emitters.nodes import Formula, simple
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.ops import nn
from amctc.schema import OpKind


def _softmax(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.Softmax | nn.LogSoftmax)
    simple("Softmax" if isinstance(kind, nn.Softmax) else "LogSoftmax", axis=kind.axis)(writer, op)


def _batch_norm(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.BatchNorm)
    simple("BatchNormalization", epsilon=kind.eps)(writer, op)


def _layer_norm(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.LayerNorm)
    simple("LayerNormalization", axis=kind.axis, epsilon=kind.eps)(writer, op)


def _instance_norm(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.InstanceNorm)
    simple("InstanceNormalization", epsilon=kind.eps)(writer, op)


def _group_norm(writer: Writer, op: Op) -> None:
    """Below opset 21: the groups as channels of an instance normalisation, then scale and bias per channel."""
    kind = op.kind
    assert isinstance(kind, nn.GroupNorm)
    if writer.opset >= 21:
        simple("GroupNormalization", num_groups=kind.groups, epsilon=kind.eps)(writer, op)
        return
    f = Formula(writer, op)
    x, scale, bias = f.operands
    dtype = op.result.type.scalar.dtype
    ones = writer.constant(f"{f.result}/ones", np.ones(kind.groups, dtype))
    zeros = writer.constant(f"{f.result}/zeros", np.zeros(kind.groups, dtype))
    grouped = f.step("Reshape", x, f.integers("groups", 0, kind.groups, -1))
    normalised = f.step("InstanceNormalization", grouped, ones, zeros, epsilon=kind.eps)
    shaped = f.step("Reshape", normalised, f.step("Shape", x))
    per_channel = f.integers("per_channel", -1, *(1 for _ in op.result.type.dims[2:]))
    scaled = f.step("Mul", shaped, f.step("Reshape", scale, per_channel))
    f.step("Add", scaled, f.step("Reshape", bias, per_channel), last=True)


NORMALIZATION: dict[type[OpKind], Emitter] = {
    nn.Softmax: _softmax, nn.LogSoftmax: _softmax, nn.BatchNorm: _batch_norm, nn.LayerNorm: _layer_norm,
    nn.InstanceNorm: _instance_norm, nn.GroupNorm: _group_norm,
}  # fmt: skip
