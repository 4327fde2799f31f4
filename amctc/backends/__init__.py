"""Floor 6: files out. ONNX and QDQ models, Ascend deploy models, AMCT records."""
