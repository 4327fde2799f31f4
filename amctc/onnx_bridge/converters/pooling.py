"""MaxPool, AveragePool and their global forms."""

from __future__ import annotations

from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, floats, uniform
from amctc.onnx_bridge.converters.windows import sliding_window
from amctc.ops import nn


def max_pool(view: NodeView) -> Converted:
    """MaxPool without indices on data with spatial axes, whatever its element type."""
    if len(view.node.output) != 1 or view.type().shape is None or view.type().rank < 3:
        return None
    kernel = tuple(view.attributes["kernel_shape"])
    window = sliding_window(view, kernel)
    if window is None:
        return None
    return nn.MaxPool(**window, kernel=kernel, ceil_mode=bool(view.attributes.get("ceil_mode", 0))), view.operands


@uniform
def _max_pool(view: NodeView) -> Converted:
    return max_pool(view) if view.type().scalar.name in ("f16", "f32", "f64") else None


def average_pool(view: NodeView) -> Converted:
    """AveragePool without dilation on data with spatial axes, whatever its element type."""
    attributes, kernel = view.attributes, tuple(view.attributes["kernel_shape"])
    window = sliding_window(view, kernel) if view.type().rank >= 3 else None
    if window is None or any(d != 1 for d in window["dilations"]):
        return None
    include = bool(attributes.get("count_include_pad", 0))
    return nn.AveragePool(**window, kernel=kernel, ceil_mode=bool(attributes.get("ceil_mode", 0)),
                          count_include_pad=include), view.operands  # fmt: skip


def _global(kind: type[nn.GlobalAveragePool | nn.GlobalMaxPool]) -> Converter:
    return floats(lambda v: (kind(), v.operands) if v.type().rank >= 3 and 0 not in v.type().dims[2:] else None)


POOLING: dict[str, Converter] = {
    "AveragePool": floats(average_pool), "MaxPool": _max_pool, "GlobalAveragePool": _global(nn.GlobalAveragePool),
    "GlobalMaxPool": _global(nn.GlobalMaxPool),
}  # fmt: skip
