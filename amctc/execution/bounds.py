"""What the magnitudes of a layer cannot exceed, whatever its data are."""

from __future__ import annotations

import math

import numpy as np

from amctc.numerics.exact_gemm import INT8_MAGNITUDE
from amctc.numerics.rounding import MAX_FLOAT16
from amctc.onnx_bridge.segment_products import Product
from amctc.types import Array


def largest_accumulators(product: Product) -> Array:
    """128 · Σ|w| + |bias′| of each output channel, which no accumulator exceeds (N8)."""
    weight = product.weight.astype(np.int64)
    by_channel = weight.reshape(len(weight), -1) if product.is_conv else weight.T
    folded = product.bias.astype(np.int64) - product.offset_x * by_channel.sum(axis=1)
    largest: Array = INT8_MAGNITUDE * np.abs(by_channel).sum(axis=1) + np.abs(folded)
    return largest


def largest_partial_sum(product: Product) -> int:
    """What no sum of some of the terms w · (q − offset) and of the bias exceeds."""
    reach = max(INT8_MAGNITUDE + product.offset_x, INT8_MAGNITUDE - 1 - product.offset_x)
    sums = np.abs(product.weight.reshape(product.outputs, -1).astype(np.int64)).sum(axis=1)
    return int((reach * sums + np.abs(product.bias.astype(np.int64))).max(initial=0))


def in_float16(largest: float, overflow: str) -> tuple[float, bool]:
    """What bounds a value once it is float16, and whether it has to be clipped before: ``overflow`` says the rest."""
    rounded = largest * (1 + 2.0**-10)
    if rounded < MAX_FLOAT16:
        return rounded, False
    return (MAX_FLOAT16, True) if overflow == "saturate" else (math.inf, False)
