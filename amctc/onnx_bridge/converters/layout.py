"""Ops that give elements another place or another type."""

from __future__ import annotations

from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, moved, ranked, uniform
from amctc.onnx_bridge.tensors import ELEM_TYPES
from amctc.ops import nn
from amctc.types import ScalarType


@moved
def _reshape(view: NodeView) -> Converted:
    target = view.array(1)
    if target is None:
        return None
    return nn.Reshape(tuple(int(d) for d in target), bool(view.attributes.get("allowzero", 0))), view.operands[:1]


@uniform
def _flatten(view: NodeView) -> Converted:
    return nn.Flatten(int(view.attributes.get("axis", 1))), view.operands


@uniform
def _transpose(view: NodeView) -> Converted:
    rank = view.type().rank
    return nn.Transpose(tuple(view.attributes.get("perm", range(rank)[::-1]))), view.operands


@uniform
def _concat(view: NodeView) -> Converted:
    return nn.Concat(int(view.attributes["axis"])), view.operands


@ranked
def _cast(view: NodeView) -> Converted:
    to = ELEM_TYPES.get(int(view.attributes["to"]))
    elem = view.type().elem
    simple = isinstance(elem, ScalarType) and elem.name in _CASTABLE
    return (nn.Cast(to), view.operands[:1]) if simple and to is not None and to.name in _CASTABLE else None


_CASTABLE = {"f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool"}


@ranked
def _identity(view: NodeView) -> Converted:
    return nn.Identity(), view.operands[:1]


@ranked
def _dropout(view: NodeView) -> Converted:
    mode = view.array(2)
    training = view.operand(2) is not None and (mode is None or bool(mode.item()))
    return None if training or any(view.node.output[1:]) else (nn.Identity(), view.operands[:1])


@moved
def _squeeze(view: NodeView) -> Converted:
    """Without axes all those of size 1 go; that needs a static shape."""
    axes, x = view.integers("axes", 1), view.type()
    if axes is None:
        if not x.is_static:
            return None
        axes = tuple(i for i, d in enumerate(x.dims) if d == 1)
    return (nn.Squeeze(axes) if axes else nn.Identity()), view.operands[:1]


@moved
def _unsqueeze(view: NodeView) -> Converted:
    axes = view.integers("axes", 1)
    if axes is None:
        return None
    return (nn.Unsqueeze(axes) if axes else nn.Identity()), view.operands[:1]


@moved
def _expand(view: NodeView) -> Converted:
    shape = view.integers("shape", 1)
    return None if shape is None else (nn.Expand(shape), view.operands[:1])


LAYOUT: dict[str, Converter] = {
    "Cast": _cast, "Concat": _concat, "Dropout": _dropout, "Expand": _expand, "Flatten": _flatten,
    "Identity": _identity, "Reshape": _reshape, "Squeeze": _squeeze, "Transpose": _transpose, "Unsqueeze": _unsqueeze,
}  # fmt: skip
