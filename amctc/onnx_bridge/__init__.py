"""Floor 3: graphs to and from ONNX models, type inference of carried ops, ONNX Runtime sessions."""

from amctc.onnx_bridge.exporter import export_model
from amctc.onnx_bridge.importer import import_model
from amctc.onnx_bridge.runtime import CARRIED, FloatSession

__all__ = ["CARRIED", "FloatSession", "export_model", "import_model"]
