"""Floor 6: files in. ONNX models, Ascend deploy models, AMCT records."""
