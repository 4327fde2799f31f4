"""The passes, one per file; folders are the stages: simplify, fuse, quantize, lower. ``presets`` are pipelines by name."""
