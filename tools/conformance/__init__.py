"""ONNX's own test suites, in and out; ``python -m tools.conformance --help``."""
