"""Passes that calibrate, place quantizers and quantize weights and biases."""
