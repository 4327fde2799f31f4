"""Reductions and resampling."""

from __future__ import annotations

from dataclasses import replace

from amctc.ir import apply
from amctc.onnx_bridge.converters.node_view import Carry, Converted, Converter, NodeView, float_data, moved
from amctc.ops import nn
from amctc.ops.reductions import Reduction
from amctc.ops.resize import COORDINATES, MODES, ROUNDINGS
from amctc.types import Shape


def _reduction(kind: type[Reduction]) -> Converter:
    """The axes are an attribute at first and an operand since opset 13 (ReduceSum) or 18; none means all."""

    def convert(view: NodeView) -> Converted:
        axes, rank = view.integers("axes", 1), view.type().rank
        if not axes and view.attributes.get("noop_with_empty_axes", 0):
            return nn.Identity(), view.operands[:1]
        axes = axes or tuple(range(rank))
        return (kind(axes, bool(view.attributes.get("keepdims", 1))), view.operands[:1]) if axes else None

    return float_data(convert)


@moved
def _resize(view: NodeView) -> Converted:
    """Nearest neighbour and linear interpolation; opset 10 and Upsample have no modes of coordinates yet."""
    a, early = view.attributes, view.node.op_type == "Upsample" or view.version < 11
    mode = a.get("mode", "nearest")
    coordinates = "asymmetric" if early else a.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if early else a.get("nearest_mode", "round_prefer_floor")
    special = a.get("antialias", 0) or a.get("exclude_outside", 0)
    stretched = a.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    known = mode in MODES and coordinates in COORDINATES and rounding in ROUNDINGS
    if special or not stretched or not known or (mode == "linear" and not view.type().is_float):
        return None
    axes = tuple(int(i) % view.type().rank for i in a.get("axes", range(view.type().rank)))
    sizes, scales = (None if early else view.integers("sizes", 3)), _scales(view, early)
    if bool(sizes) == bool(scales):
        return None
    kind = _reduced(nn.Resize(axes, sizes or (), scales, mode, coordinates, rounding), view.type().dims)
    if kind is None or not kind.axes:
        return None if kind is None else (nn.Identity(), view.operands[:1])
    shrunk = [i for i, s in enumerate(kind.scales) if s < 1] if early and mode == "nearest" else []
    return _shrunk_at_last(view, kind, shrunk) if shrunk else (kind, view.operands[:1])


def _shrunk_at_last(view: NodeView, kind: nn.Resize, shrunk: list[int]) -> Converted:
    """Where the standard left open which element is the nearest, runtimes took the next one on axes that shrink."""
    last = replace(_on(kind, shrunk), rounding="ceil")
    grown = [i for i in range(len(kind.axes)) if i not in shrunk]
    if not grown:
        return last, view.operands[:1]
    return last, (apply(_on(kind, grown), view.operands[0], origins=view.origins),)


def _on(kind: nn.Resize, chosen: list[int]) -> nn.Resize:
    """The same resampling on some of its axes."""
    axes = tuple(kind.axes[i] for i in chosen)
    sizes = tuple(kind.sizes[i] for i in chosen if kind.sizes)
    scales = tuple(kind.scales[i] for i in chosen if kind.scales)
    return replace(kind, axes=axes, sizes=sizes, scales=scales)


def _scales(view: NodeView, early: bool) -> tuple[float, ...]:
    """From attribute (Upsample 7) or operand; empty where sizes are given instead."""
    if "scales" in view.attributes:
        return tuple(float(s) for s in view.attributes["scales"])
    index = 1 if early else 2
    array = view.array(index)
    if array is None and view.operand(index) is not None:
        raise Carry("scales are computed")
    return () if array is None else tuple(float(s) for s in array.ravel())


def _reduced(kind: nn.Resize, dims: Shape) -> nn.Resize | None:
    """Without the axes that keep their elements in place: a scale of 1, the size they have. ``None`` if malformed."""
    given = kind.sizes or kind.scales
    if len(given) != len(kind.axes) or any(not g > 0 or dims[a] == 0 for g, a in zip(given, kind.axes, strict=True)):
        return None
    return _on(kind, [i for i, a in enumerate(kind.axes) if given[i] != (dims[a] if kind.sizes else 1.0)])


SAMPLING: dict[str, Converter] = {
    "ReduceMax": _reduction(nn.ReduceMax), "ReduceMean": _reduction(nn.ReduceMean),
    "ReduceSum": _reduction(nn.ReduceSum), "Resize": _resize, "Upsample": _resize,
}  # fmt: skip
