"""Convolutions with groups in ONNX Runtime's float32, on integers: exact while no sum of some terms exceeds 2^24.

ONNX Runtime has no such product of integers that gives int32 without being several times slower. Its float32 kernels
for groups of one channel are fastest on data that hold a *block* of channels (as many as a vector register) innermost:
N, C / block, H, W, block. The ops that convert and compute them belong to its own domain, into which its optimiser
rewrites a graph; here they are written directly, because an optimiser may rewrite more than what has been proven.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import numpy as np

from amctc.ir import GraphInput
from amctc.onnx_bridge.segment_products import ONE, Array, Product
from amctc.onnx_bridge.segment_writer import BLOCKED_DOMAIN, TO_FIRST, TO_LAST, UNSIGNED, Segment, SegmentWriter
from amctc.types import F16, I8, TensorType

BLOCKS = (16, 8, 4)
"""Channels in a block, on processors with vector registers of that many float32."""

LARGEST_EXPONENT = 64
"""Integers below 2^24 times such a power of two are far from the ends of float32."""


def emit_group_conv(w: SegmentWriter, product: Product, multiplier: Array) -> str:
    """f32(acc) · ``multiplier`` of a convolution with groups, channels last.

    Powers of two go into weight and bias: every sum of terms is then the integer times that power, as exact as before.
    """
    weight, bias = product.weight.astype(np.float32), product.bias.astype(np.float32)
    folded = _is_power_of_two(multiplier)
    if folded:
        weight, bias = weight * multiplier.reshape(-1, 1, 1, 1), bias * multiplier
    block = channel_block() if product.weight.shape[:2] == (product.group, 1) else None
    if block is None or product.outputs % block:
        sums = _planar(w, product, weight, bias)
    else:
        sums = _blocked(w, product, weight, bias, block)
    return sums if folded else w.node("Mul", sums, w.constant(multiplier))


@functools.cache
def channel_block() -> int | None:
    """How many channels a block of this machine's kernels has; ``None`` where ONNX Runtime has no such kernels.

    It tells nobody, and a weight laid out for another block gives wrong sums: so each is tried, on distinct weights,
    the largest first, which the smaller divide. Elsewhere than on x86-64 these ops are not known to refuse.
    """
    known = platform.machine().lower() in ("x86_64", "amd64")
    return next((block for block in BLOCKS if _sums_are_right(block)), None) if known else None


def _sums_are_right(block: int) -> bool:
    channels = 3 * max(BLOCKS)  # whole blocks of any size
    x = GraphInput("x", TensorType((1, channels, 1, 2), I8))
    y = GraphInput("y", TensorType((1, channels, 1, 1), F16))
    weight = np.arange(2 * channels, dtype=np.float32).reshape(channels, 1, 1, 2)
    product = Product(x, weight.astype(np.int8), np.zeros(channels, np.int32), 0, (1, 1), (0,) * 4, (1, 1), channels)
    data = (np.arange(2 * channels) % 7 - 3).astype(np.int8).reshape(1, channels, 1, 2)
    writer = SegmentWriter()
    writer.node("Identity", _blocked(writer, product, weight, product.bias.astype(np.float32), block),
                result=writer.name(y))  # fmt: skip
    try:
        (sums,) = Segment(writer, [x], [y])(data)
    except Exception:  # the runtime's exception types are not stable across versions
        return False
    return np.array_equal(sums[0, :, 0, 0], (data[0] * weight[:, 0]).sum(axis=(1, 2)))


def _planar(w: SegmentWriter, product: Product, weight: Array, bias: Array) -> str:
    x = w.node("Transpose", w.name(product.x), perm=TO_FIRST)
    sums = w.node("Conv", _real(w, product, x), w.constant(weight), w.constant(bias), **_attributes(product))
    return w.node("Transpose", sums, perm=TO_LAST)


def _blocked(w: SegmentWriter, product: Product, weight: Array, bias: Array, block: int) -> str:
    """``product`` by kernels that take and give blocks of channels; ``weight`` holds them innermost."""
    kernel = weight.shape[2:]
    blocks = weight.reshape(-1, block, *kernel).transpose(0, 2, 3, 1).reshape(weight.shape)
    x = w.node("ReorderInput", _real(w, product, w.name(product.x)), domain=BLOCKED_DOMAIN, channels_last=1)
    sums = w.node("Conv", x, w.constant(blocks), w.constant(bias), domain=BLOCKED_DOMAIN, **_attributes(product))
    return w.node("ReorderOutput", sums, domain=BLOCKED_DOMAIN, channels=product.outputs, channels_last=1)


def _real(w: SegmentWriter, product: Product, x: str) -> str:
    """The int8 numbers, less the one that means 0: what padding adds is then 0 too."""
    return w.node("DequantizeLinear", x, w.constant(ONE), w.constant(np.array(product.offset_x + UNSIGNED, np.uint8)))


def _attributes(product: Product) -> dict[str, Any]:
    return {
        "kernel_shape": product.weight.shape[2:], "strides": product.strides, "pads": product.pads,
        "dilations": product.dilations, "group": product.group,
    }  # fmt: skip


def _is_power_of_two(multiplier: Array) -> bool:
    fraction, exponent = np.frexp(multiplier)
    return bool((fraction == 0.5).all() and (np.abs(exponent) <= LARGEST_EXPONENT).all())
