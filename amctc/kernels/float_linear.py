"""Float convolution, transposed convolution and matrix products: the oracle the integer kernels are compared with.

All compute in the element type given (float16: float32, one rounding at the end, N26). The order of the additions
inside a dot product is BLAS's; nothing here promises bits, except that they do not depend on the memory layout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.errors import InputError
from amctc.kernels.float_precision import rounds_once
from amctc.kernels.windows import (
    Window,
    blocks,
    channels_first,
    channels_last,
    pad_axes,
    pad_for,
    patch_view,
    tap_slices,
    trailing,
)

Array = NDArray[Any]

PATCH_BYTES = 8 << 20  # scratch for gathered patches; measured flat from 1 to 32 MiB


@rounds_once
def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int = 1,
) -> Array:
    """ONNX Conv: x (N, C, spatial…), w (O, C/group, kernel…), b (O) -> (N, O, out…), 1 to 3 spatial axes.

    Dot product over kernel positions and channels, then the bias is added. Raises :class:`InputError` when channels,
    groups and window do not fit together.
    """
    _check_groups(x.shape[1], w.shape[1] * group, w.shape[0], group)
    window = Window(w.shape[2:], strides, pads, dilations)
    out = window.output_shape(x.shape[2:])
    taps, per_group = math.prod(window.kernel), w.shape[1]
    padded = channels_last(pad_for(x, window, 0))
    outputs = w.shape[0] // group
    columns = w.reshape(group, outputs, per_group, taps).transpose(0, 3, 2, 1)
    operand = np.ascontiguousarray(columns).reshape(group, taps * per_group, outputs)
    y = np.empty((x.shape[0], *out, w.shape[0]), np.result_type(x, w))
    patches = patch_view(padded, window, out)
    for box in blocks(y.shape[:-1], PATCH_BYTES // (x.itemsize * taps * x.shape[1])):
        rows = patches[box].reshape(-1, taps, group, per_group).transpose(2, 0, 1, 3)
        product: Array = np.matmul(np.ascontiguousarray(rows).reshape(group, -1, taps * per_group), operand)
        y[box] = product.transpose(1, 0, 2).reshape(y[box].shape)
    if b is not None:
        y += b
    return channels_first(y)


@rounds_once
def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int = 1,
    output_padding: tuple[int, ...] | None = None,
) -> Array:
    """ONNX ConvTranspose: x (N, C, spatial…), w (C, O/group, kernel…), b (O) -> (N, O, out…).

    out = stride · (in − 1) + output_padding + extent − pads, computed by spreading each input element over the output
    (taps in row-major order), then cropping (a negative pad, which ``output_shape`` can ask for, extends) and adding
    the bias. Raises :class:`InputError` when channels and groups do not fit together.
    """
    batch, channels, *spatial = x.shape
    rank = len(spatial)
    if w.ndim != x.ndim:
        raise InputError(f"a weight of shape {w.shape} on an input of shape {x.shape}")
    _check_groups(channels, w.shape[0], w.shape[1] * group, group)
    extra = output_padding or (0,) * rank
    window = Window(w.shape[2:], strides, (0,) * (2 * rank), dilations)
    full = [s * (n - 1) + e + more for s, n, e, more in zip(strides, spatial, window.extents, extra, strict=True)]
    spread = np.zeros((batch, w.shape[1] * group, *full), np.result_type(x, w))
    inputs = np.ascontiguousarray(x).reshape(batch, group, channels // group, math.prod(spatial)).swapaxes(2, 3)
    weights = np.ascontiguousarray(w).reshape(group, channels // group, w.shape[1], -1)
    for number, tap in enumerate(np.ndindex(*window.kernel)):
        product = np.matmul(inputs, weights[:, :, :, number])  # (batch, group, positions, O/group)
        met = product.swapaxes(2, 3).reshape(batch, spread.shape[1], *spatial)
        spread[trailing(tap_slices(tap, window, spatial))] += met
    y = pad_axes(spread, [-p for p in pads[:rank]], [-p for p in pads[rank:]], 0)
    return y if b is None else y + b.reshape(-1, *(1,) * rank)


@rounds_once
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    trans_a: bool = False,
    trans_b: bool = False,
) -> Array:
    """ONNX Gemm: alpha · A′B′ + beta · C with A′ (M, K), B′ (K, N), C broadcast to (M, N).

    Order: the product, times alpha when it is not 1, plus beta · C.
    """
    product: Array = np.matmul(np.ascontiguousarray(a.T if trans_a else a), np.ascontiguousarray(b.T if trans_b else b))
    if alpha != 1.0:
        product *= alpha
    if c is None:
        return product
    return np.asarray(product + (c if beta == 1.0 else beta * c))


@rounds_once
def matmul(a: Array, b: Array) -> Array:
    """ONNX MatMul, which is :func:`numpy.matmul`: (…, M, K) @ (…, K, N), leading axes broadcast."""
    return np.asarray(np.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b)))


def _check_groups(channels: int, expected: int, outputs: int, group: int) -> None:
    if group < 1 or channels != expected or channels % group or outputs % group:
        raise InputError(
            f"{channels} input and {outputs} output channels do not fit a weight for {expected} in {group} groups"
        )
