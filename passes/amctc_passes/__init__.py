"""The passes, one per file, in folders by stage: simplify, fuse, quantize, lower. ``presets`` are pipelines by name."""
