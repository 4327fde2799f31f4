"""The dialects: ``nn`` (float networks), ``quant`` (observers and quantizers), ``ascend`` (the integer op set),
``onnx`` (nodes carried as they came)."""

from amctc.ops import ascend, nn, onnx, quant

__all__ = ["ascend", "nn", "onnx", "quant"]
