"""Softmax, and normalisation by stored statistics or those of the data."""

from __future__ import annotations

import numpy as np

from amctc.data import Data, deferred
from amctc.ir import Value, const, constant_data
from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, floats
from amctc.ops import nn
from amctc.types import F16, F32, dims_agree


def _softmax(kind: type[nn.Softmax | nn.LogSoftmax]) -> Converter:
    def convert(view: NodeView) -> Converted:
        rank = view.type().rank
        axis = int(view.attributes.get("axis", -1 if view.version >= 13 else 1))
        if view.version < 13 and (axis + rank if axis < 0 else axis) != rank - 1:
            return None  # before opset 13 all axes from `axis` on were normalised together
        return kind(axis), view.operands

    return floats(convert)


@floats
def _batch_norm(view: NodeView) -> Converted:
    attributes, x = view.attributes, view.type()
    training = attributes.get("training_mode", 0) or any(view.node.output[1:]) or attributes.get("spatial", 1) != 1
    if training or x.rank < 2 or any(o is not None and o.type.elem != x.elem for o in view.operands):
        return None
    return nn.BatchNorm(float(view.attributes.get("epsilon", 1e-5))), view.operands


def _single_precision(view: NodeView) -> bool:
    """Statistics in float32 (stash_type 1) of float32 or float16 data: what our kernels compute."""
    return view.attributes.get("stash_type", 1) == 1 and view.type().elem in (F32, F16)


@floats
def _layer_norm(view: NodeView) -> Converted:
    """Its first result alone; the mean and deviation it can also give have no form here."""
    x, axis = view.type(), int(view.attributes.get("axis", -1))
    if any(view.node.output[1:]) or not _single_precision(view) or not -x.rank <= axis < x.rank:
        return None
    normalised = x.dims[axis % x.rank :]
    for index in (1, 2):
        if view.operand(index) is not None:
            dims = view.type(index).dims
            lead = len(normalised) - len(dims)
            if lead < 0 or not all(d == 1 or dims_agree(d, n) for d, n in zip(dims, normalised[lead:], strict=True)):
                return None
    return nn.LayerNorm(axis, float(view.attributes.get("epsilon", 1e-5))), view.operands


@floats
def _instance_norm(view: NodeView) -> Converted:
    if view.type().rank < 3 or view.type().elem not in (F32, F16):
        return None
    return nn.InstanceNorm(float(view.attributes.get("epsilon", 1e-5))), view.operands


def _per_channel(data: Data, channels: int, value: Value) -> Value:
    """One parameter per group as one per channel, computed when it is read: declared sizes are not to be trusted."""
    each = channels // data.shape[0]
    repeated = deferred("per channel", lambda p: np.repeat(p, each), data, shape=(channels,), dtype=data.dtype)
    return const(repeated, value.type.elem, name=value.name)


@floats
def _group_norm(view: NodeView) -> Converted:
    """Before opset 21 scale and bias were per group: constants are repeated for the channels of each."""
    x, groups = view.type(), int(view.attributes["num_groups"])
    if x.rank < 3 or not _single_precision(view):
        return None
    parameters = view.operands[1:]
    if view.version < 21:
        channels, given = x.dims[1], [constant_data(p) for p in parameters]
        if not isinstance(channels, int) or channels % groups or any(d is None or d.shape != (groups,) for d in given):
            return None
        parameters = tuple(_per_channel(d, channels, p) for d, p in zip(given, parameters, strict=True) if d and p)
    return nn.GroupNorm(groups, float(view.attributes.get("epsilon", 1e-5))), (view.operands[0], *parameters)


NORMALIZATION: dict[str, Converter] = {
    "BatchNormalization": _batch_norm, "GroupNormalization": _group_norm, "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm, "LogSoftmax": _softmax(nn.LogSoftmax), "Softmax": _softmax(nn.Softmax),
}  # fmt: skip
