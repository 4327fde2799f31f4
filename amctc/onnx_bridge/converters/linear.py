"""Conv, ConvTranspose, Gemm, MatMul."""

from __future__ import annotations

from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, floats
from amctc.onnx_bridge.converters.windows import kernel_sizes, sliding_window
from amctc.ops import nn


@floats
def _conv(view: NodeView) -> Converted:
    kernel = kernel_sizes(view)
    window = None if kernel is None or view.type().rank < 3 else sliding_window(view, kernel)
    if window is None:
        return None
    return nn.Conv(**window, group=view.attributes.get("group", 1)), view.operands


@floats
def _conv_transpose(view: NodeView) -> Converted:
    attributes, kernel = view.attributes, kernel_sizes(view)
    unresolved = "output_shape" in attributes or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    window = None if unresolved or kernel is None else sliding_window(view, kernel)
    if window is None:
        return None
    extra = tuple(attributes.get("output_padding", ()))
    return nn.ConvTranspose(**window, group=attributes.get("group", 1), output_padding=extra), view.operands


@floats
def _gemm(view: NodeView) -> Converted:
    a = view.attributes
    alpha, beta = float(a.get("alpha", 1.0)), float(a.get("beta", 1.0))
    return nn.Gemm(alpha, beta, bool(a.get("transA", 0)), bool(a.get("transB", 0))), view.operands


LINEAR: dict[str, Converter] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm,
    "MatMul": floats(lambda v: (nn.MatMul(), v.operands)),
}  # fmt: skip
