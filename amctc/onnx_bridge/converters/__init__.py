"""How ONNX nodes become ``nn`` and ``quant`` ops. A node no converter takes is carried.

A converter returns the op's kind and operands, the finished value where one op stands for several nodes, or ``None``
to have the node carried: dynamic attributes, training modes and element types we do not compute are not refused, only
left opaque.
"""

from amctc.onnx_bridge.converters.layout import LAYOUT
from amctc.onnx_bridge.converters.linear import LINEAR
from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, build_named
from amctc.onnx_bridge.converters.normalization import NORMALIZATION
from amctc.onnx_bridge.converters.pointwise import POINTWISE
from amctc.onnx_bridge.converters.pooling import POOLING, average_pool, max_pool
from amctc.onnx_bridge.converters.q_operators import Q_OPERATORS
from amctc.onnx_bridge.converters.quantization import QUANTIZATION
from amctc.onnx_bridge.converters.sampling import SAMPLING
from amctc.onnx_bridge.converters.selection import SELECTION
from amctc.onnx_bridge.converters.windows import kernel_sizes, sliding_window

_DEFAULT_DOMAIN = (LINEAR, POOLING, POINTWISE, NORMALIZATION, SAMPLING, LAYOUT, SELECTION, QUANTIZATION)

CONVERTERS: dict[tuple[str, str], Converter] = {
    **{("", op_type): converter for table in _DEFAULT_DOMAIN for op_type, converter in table.items()}, **Q_OPERATORS,
}  # fmt: skip
"""Converters by domain and op type; those of the default domain for opset 7 and newer."""

__all__ = [
    "CONVERTERS", "Converted", "Converter", "NodeView", "average_pool", "build_named", "kernel_sizes", "max_pool",
    "sliding_window",
]  # fmt: skip
