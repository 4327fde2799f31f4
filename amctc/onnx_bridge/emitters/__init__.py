"""Standard ONNX forms of the ``nn`` and ``quant`` dialects (opset 17 and newer)."""

from amctc.ir import Constant
from amctc.onnx_bridge.emitters.layers import LAYERS
from amctc.onnx_bridge.emitters.layout import LAYOUT
from amctc.onnx_bridge.emitters.nodes import node_name, simple
from amctc.onnx_bridge.emitters.normalization import NORMALIZATION
from amctc.onnx_bridge.emitters.pointwise import POINTWISE
from amctc.onnx_bridge.emitters.quantization import QUANTIZATION
from amctc.onnx_bridge.emitters.sampling import SAMPLING
from amctc.onnx_bridge.exporter import Emitter, emit_carried, emit_constant
from amctc.ops.onnx import Node
from amctc.schema import OpKind

STANDARD: dict[type[OpKind], Emitter] = {
    Constant: emit_constant, Node: emit_carried, **LAYERS, **NORMALIZATION, **POINTWISE, **SAMPLING, **LAYOUT,
    **QUANTIZATION,
}  # fmt: skip
"""Emitters of standard ONNX by op kind."""

__all__ = ["STANDARD", "node_name", "simple"]
