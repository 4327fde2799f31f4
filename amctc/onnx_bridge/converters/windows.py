"""Strides, pads and dilations of nodes that slide a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amctc.onnx_bridge.converters.node_view import NodeView


def _pads(
    view: NodeView, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...] | None:
    """Explicit pads; auto_pad is resolved where the spatial sizes are known (ONNX Conv), else ``None``."""
    attributes, n = view.attributes, view.spatial
    mode = attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return tuple(attributes.get("pads", (0,) * (2 * n)))
    if mode == "VALID":
        return (0,) * (2 * n)
    begins, ends = [], []
    for size, k, s, d in zip(view.type().dims[2:], kernel, strides, dilations, strict=True):
        if not isinstance(size, int):
            return None
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return (*begins, *ends)


def sliding_window(view: NodeView, kernel: Sequence[int]) -> dict[str, Any] | None:
    """Strides, pads and dilations of a node that slides a window; ``None`` where pads are unknown or negative."""
    attributes, n = view.attributes, view.spatial
    strides = tuple(attributes.get("strides", (1,) * n))
    dilations = tuple(attributes.get("dilations", (1,) * n))
    pads = _pads(view, kernel, strides, dilations)
    if pads is None or min(pads, default=0) < 0:
        return None
    return {"strides": strides, "pads": pads, "dilations": dilations}


def kernel_sizes(view: NodeView) -> tuple[int, ...] | None:
    """Spatial sizes of the weight (the second operand), ``None`` where one is not a number."""
    sizes = view.type(1).dims[2:]
    numbers = tuple([d for d in sizes if isinstance(d, int)])
    return numbers if len(numbers) == len(sizes) else None
