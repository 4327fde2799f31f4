"""Ops that choose elements: Split, Slice, Gather, Where, Pad."""

from __future__ import annotations

from amctc.onnx_bridge.converters.node_view import Carry, Converted, Converter, NodeView, moved, ranked
from amctc.ops import nn
from amctc.types import BOOL, I32, I64, Dim, QuantizedType, ScalarType


@moved
def _split(view: NodeView) -> Converted:
    """Sizes from attribute or operand (opset 13); else equal parts, the last one smaller from opset 18 on."""
    axis, count = int(view.attributes.get("axis", 0)), len(view.node.output)
    size = view.type().dims[axis]
    sizes = view.integers("split", 1) or _equal_parts(size, count, view.version >= 18)
    return (nn.Split(axis, sizes), view.operands[:1]) if len(sizes) == count else None


def _equal_parts(size: Dim, count: int, uneven: bool) -> tuple[int, ...]:
    if not isinstance(size, int):
        raise Carry("equal parts of an unknown size")
    part = -(-size // count)
    last = size - part * (count - 1)
    if last < 0 or (last != part and not uneven):
        raise Carry(f"{size} elements in {count} equal parts")
    return (*(part for _ in range(count - 1)), last)


@moved
def _slice(view: NodeView) -> Converted:
    """Attributes before opset 10, constant operands since."""
    starts, ends = view.integers("starts", 1), view.integers("ends", 2)
    if starts is None or ends is None:
        return None
    axes = view.integers("axes", 3) or tuple(range(len(starts)))
    steps = view.integers("steps", 4) or (1,) * len(starts)
    rank = view.type().rank
    if 0 in steps or len({a % rank for a in axes if rank}) != len(axes):
        return None  # a repeated axis is left open by the standard
    return nn.Slice(starts, ends, axes, steps), view.operands[:1]


@moved
def _gather(view: NodeView) -> Converted:
    indices = view.type(1).elem
    return (nn.Gather(int(view.attributes.get("axis", 0))), view.operands) if indices in (I32, I64) else None


@ranked
def _where(view: NodeView) -> Converted:
    condition, a, b = (view.type(i) for i in range(3))
    plain = not isinstance(a.elem, QuantizedType) or a.elem.axis is None
    return (nn.Where(), view.operands) if condition.elem == BOOL and a.elem == b.elem and plain else None


@moved
def _pad(view: NodeView) -> Converted:
    """Attributes before opset 11, constant operands since; from opset 18 on for some axes only."""
    pads, mode = view.integers("pads", 1), view.attributes.get("mode", "constant")
    x = view.type()
    if pads is None or mode not in ("constant", "reflect", "edge"):
        return None
    axes = view.integers("axes", 3)
    if axes is not None:
        pads = _on_all_axes(pads, axes, x.rank)
    value = _pad_value(view) if mode == "constant" else 0.0
    if mode != "constant" and not _mirrored(pads, x.dims, mode):
        return None
    return nn.Pad(pads, mode, value), view.operands[:1]


def _on_all_axes(pads: tuple[int, ...], axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis % rank], full[rank + axis % rank] = pads[i], pads[len(axes) + i]
    return tuple(full)


def _mirrored(pads: tuple[int, ...], dims: tuple[Dim, ...], mode: str) -> bool:
    """What all runtimes agree on: no cropping, and as many elements as are repeated."""
    reach = 1 if mode == "reflect" else 0
    sizes = [d if isinstance(d, int) else 1 << 31 for d in (*dims, *dims)]
    return min(pads, default=0) >= 0 and all(p == 0 or n > p * reach for p, n in zip(pads, sizes, strict=True))


def _pad_value(view: NodeView) -> float:
    """The constant that is filled in: one our element type holds exactly, beside plain numbers."""
    elem, array = view.type().elem, view.array(2)
    if array is None and view.operand(2) is not None:
        raise Carry("the value is computed")
    numbers = isinstance(elem, ScalarType) and (elem.is_float or elem.is_integer or elem == BOOL)
    if not numbers or (array is not None and array.size != 1):
        raise Carry(f"a constant beside {elem}")
    exact = view.attributes.get("value", 0.0) if array is None else array.item()
    if float(exact) != exact:
        raise Carry(f"value {exact}")  # NaN, or an integer past 2^53
    return float(exact)


SELECTION: dict[str, Converter] = {
    "Gather": _gather, "Pad": _pad, "Slice": _slice, "Split": _split, "Where": _where,
}  # fmt: skip
