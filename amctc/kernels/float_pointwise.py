"""Float element-wise operations, activations, softmax and concatenation.

All compute in the element type given (float16: float32, one rounding at the end, N26). NaN propagates everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from amctc.kernels.float_precision import gapless, rounds_once
from amctc.kernels.half_precision import clip_float16

Array = NDArray[Any]


@rounds_once
def add(a: Array, b: Array) -> Array:
    """a + b, broadcast; :func:`amctc.kernels.integer_epilogue.add_float16` proves float16 correctly rounded."""
    return np.add(a, b)


@rounds_once
def sub(a: Array, b: Array) -> Array:
    """a − b, broadcast."""
    return np.subtract(a, b)


@rounds_once
def mul(a: Array, b: Array) -> Array:
    """a · b, broadcast."""
    return np.multiply(a, b)


@rounds_once
def div(a: Array, b: Array) -> Array:
    """a / b, broadcast; integers are divided toward zero (ONNX Div)."""
    if np.issubdtype(np.result_type(a, b), np.integer):
        return np.asarray(a // b + ((a % b != 0) & ((a < 0) != (b < 0))))
    return np.true_divide(a, b)


def relu(x: Array) -> Array:
    """max(x, 0); −0 becomes +0."""
    quick = clip_float16(x, 0.0, math.inf) if x.dtype == np.float16 else None
    return _relu(x) if quick is None else quick


@rounds_once
def _relu(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + 0)


def clip(x: Array, low: Array | float | None = None, high: Array | float | None = None) -> Array:
    """min(max(x, low), high): when the bounds cross, every element becomes ``high`` (ONNX Clip)."""
    quick = None
    if x.dtype == np.float16 and isinstance(low, float) and (high is None or isinstance(high, float)):
        quick = clip_float16(x, low, math.inf if high is None else high)
    return _clip(x, low, high) if quick is None else quick


@rounds_once
def _clip(x: Array, low: Array | float | None, high: Array | float | None) -> Array:
    y = x if low is None else np.maximum(x, low)
    return np.array(y) if high is None else np.minimum(y, high)


@rounds_once
def leaky_relu(x: Array, alpha: float = 0.01) -> Array:
    """X where x ≥ 0, else alpha · x."""
    return np.where(x < 0, x * alpha, x)


@rounds_once
def prelu(x: Array, slope: Array) -> Array:
    """X where x ≥ 0, else slope · x; ``slope`` broadcasts to x by NumPy's rule."""
    return np.where(x < 0, x * slope, x)


@rounds_once
def sigmoid(x: Array) -> Array:
    """1 / (1 + e^−x) without overflow: with e = exp(−|x|), 1/(1 + e) or e/(1 + e) by the sign of x."""
    decay = np.exp(-np.abs(gapless(x)))
    return np.asarray(np.where(x < 0, decay, np.ones_like(decay)) / (decay + 1))


@rounds_once
def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(gapless(x))


@rounds_once
def hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """max(0, min(1, alpha · x + beta))."""
    return np.asarray(np.maximum(np.minimum(x * alpha + beta, 1), 0))


@rounds_once
def hard_swish(x: Array) -> Array:
    """X · max(0, min(1, x/6 + 1/2)), with x/6 as x · (1/6) as ONNX defines it."""
    return np.asarray(x * np.maximum(np.minimum(x * (1 / 6) + 0.5, 1), 0))


@rounds_once
def elu(x: Array, alpha: float = 1.0) -> Array:
    """X where x > 0, else alpha · (e^x − 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(gapless(x), 0)))


@rounds_once
def erf(x: Array) -> Array:
    """The error function."""
    return np.asarray(special.erf(gapless(x)))


@rounds_once
def gelu(x: Array, approximate: bool = False) -> Array:
    """X/2 · (1 + erf(x/√2)), or x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))) when ``approximate`` (ONNX Gelu 20)."""
    x = gapless(x)
    if approximate:
        inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))
    else:
        inner = np.asarray(special.erf(x * math.sqrt(0.5)))
    return np.asarray(x * 0.5 * (inner + 1))


@rounds_once
def silu(x: Array) -> Array:
    """X / (1 + e^−x) as x · sigmoid(x)."""
    return np.asarray(x * sigmoid(x))


@rounds_once
def softplus(x: Array) -> Array:
    """ln(1 + e^x) as max(x, 0) + log1p(e^−|x|)."""
    x = gapless(x)
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


@rounds_once
def mish(x: Array) -> Array:
    """X · tanh(ln(1 + e^x)) with the logarithm of :func:`softplus`."""
    x = gapless(x)
    return np.asarray(x * np.tanh(softplus(x)))


@rounds_once
def negative(x: Array) -> Array:
    """−x."""
    return np.negative(x)


@rounds_once
def absolute(x: Array) -> Array:
    """|x|."""
    return np.abs(x)


@rounds_once
def reciprocal(x: Array) -> Array:
    """1 / x."""
    return np.asarray(np.true_divide(x.dtype.type(1), x))


@rounds_once
def sqrt(x: Array) -> Array:
    """The square root; NaN below zero."""
    return np.sqrt(x)


@rounds_once
def exp(x: Array) -> Array:
    """E^x."""
    return np.exp(gapless(x))


@rounds_once
def power(x: Array, exponent: float) -> Array:
    """X to a constant power; whole powers of 2 and 3 as products, as ONNX Runtime computes them."""
    if exponent in (2.0, 3.0):
        square = x * x
        return np.asarray(square if exponent == 2.0 else square * x)
    return np.asarray(np.power(gapless(x), x.dtype.type(exponent)))


@rounds_once
def minimum(a: Array, b: Array) -> Array:
    """The smaller of a and b, broadcast; NaN wins."""
    return np.minimum(a, b)


@rounds_once
def maximum(a: Array, b: Array) -> Array:
    """The larger of a and b, broadcast; NaN wins."""
    return np.maximum(a, b)


@rounds_once
def softmax(x: Array, axis: int = -1) -> Array:
    """e^(x − max) / Σ e^(x − max) along one axis (the rule of ONNX Softmax 13+)."""
    if not x.size:
        return x.copy()
    powers = np.exp(_below_max(x, axis))
    return np.moveaxis(powers / powers.sum(axis=-1, keepdims=True), -1, axis)


@rounds_once
def log_softmax(x: Array, axis: int = -1) -> Array:
    """(x − max) − log Σ e^(x − max) along one axis (the rule of ONNX LogSoftmax 13+)."""
    if not x.size:
        return x.copy()
    shifted = _below_max(x, axis)
    return np.moveaxis(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), -1, axis)


def _below_max(x: Array, axis: int) -> Array:
    """x − max, ``axis`` last and contiguous: the order of a sum over it must not depend on the memory layout of x."""
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    return np.asarray(rows - rows.max(axis=-1, keepdims=True))


def concat(xs: Sequence[Array], axis: int) -> Array:
    """The arrays one after another along ``axis``; any element type, memory order of the parts kept."""
    return np.concatenate(xs, axis=axis)
