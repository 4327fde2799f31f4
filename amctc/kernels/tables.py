"""Kernel tables: which kernel computes which op kind. The evaluator (:mod:`amctc.interp`) is handed one of them.

``FLOAT`` and ``QUANT`` are the oracle: every op in the precision of its arrays. :func:`ascend_table` is the target:
integer ops by the profile's rules, float islands in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amctc.interp import Kernel, KernelFactory
from amctc.ir import Op
from amctc.kernels import float_linear as linear
from amctc.kernels import float_pointwise as pointwise
from amctc.kernels import float_pool as pool
from amctc.numerics.linear import dequantize_linear, quantize_linear
from amctc.ops import nn, quant
from amctc.schema import OpKind
from amctc.types import Array, QuantizedType


def activation_kernel(activation: nn.Activation | None) -> Callable[[Array], Array]:
    """The function of a fused activation; the identity without one."""
    if activation is None:
        return lambda x: x
    return _pointwise(activation)


def _pointwise(kind: OpKind) -> Callable[[Array], Array]:
    if isinstance(kind, nn.LeakyRelu):
        return lambda x: pointwise.leaky_relu(x, kind.alpha)
    if isinstance(kind, nn.Clip):
        low = kind.low if kind.low > -np.inf else None
        high = kind.high if kind.high < np.inf else None
        return lambda x: pointwise.clip(x, low, high)
    return pointwise.relu


def _activation(op: Op, constants: Sequence[Array | None]) -> Kernel:
    return _pointwise(op.kind)


def _plain(function: Callable[..., Array]) -> KernelFactory:
    """A kernel without attributes."""
    return lambda op, constants: function


def _conv(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Conv)
    activate = activation_kernel(kind.activation)

    def run(x: Array, w: Array, b: Array | None = None) -> Array:
        return activate(linear.conv(
            x, w, b, strides=kind.strides, pads=kind.pads, dilations=kind.dilations, group=kind.group
        ))  # fmt: skip

    return run


def _conv_transpose(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.ConvTranspose)
    activate = activation_kernel(kind.activation)
    extra = kind.output_padding or (0,) * len(kind.strides)

    def run(x: Array, w: Array, b: Array | None = None) -> Array:
        return activate(linear.conv_transpose(
            x, w, b, strides=kind.strides, pads=kind.pads, dilations=kind.dilations, group=kind.group,
            output_padding=extra,
        ))  # fmt: skip

    return run


def _gemm(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Gemm)
    activate = activation_kernel(kind.activation)

    def run(x: Array, w: Array, b: Array | None = None) -> Array:
        return activate(linear.gemm(
            x, w, b, alpha=kind.alpha, beta=kind.beta, trans_a=kind.trans_a, trans_b=kind.trans_b
        ))  # fmt: skip

    return run


def _matmul(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.MatMul)
    activate = activation_kernel(kind.activation)

    def run(x: Array, w: Array, b: Array | None = None) -> Array:
        y = linear.matmul(x, w)
        return activate(y if b is None else pointwise.add(y, b))

    return run


def _batch_norm(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.BatchNorm)
    return lambda x, gamma, beta, mean, var: linear.batch_norm(x, gamma, beta, mean, var, epsilon=kind.eps)


def _softmax(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Softmax)
    return lambda x: pointwise.softmax(x, kind.axis)


def _max_pool(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.MaxPool)
    return lambda x: pool.max_pool(
        x, kernel=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=kind.dilations, ceil_mode=kind.ceil_mode
    )


def _average_pool(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.AveragePool)
    return lambda x: pool.average_pool(
        x, kernel=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=kind.dilations, ceil_mode=kind.ceil_mode,
        count_include_pad=kind.count_include_pad,
    )  # fmt: skip


def _concat(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Concat)
    return lambda *xs: pointwise.concat(xs, kind.axis)


def _flatten(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Flatten)

    def run(x: Array) -> Array:
        axis = kind.axis % x.ndim if kind.axis < 0 else kind.axis
        return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))

    return run


def _reshape(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Reshape)

    def run(x: Array) -> Array:
        copied = [x.shape[i] if d == 0 and not kind.allow_zero else d for i, d in enumerate(kind.shape)]
        return x.reshape(copied)

    return run


def _transpose(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Transpose)
    return lambda x: x.transpose(kind.permutation)


def _cast(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.Cast)

    def run(x: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            # The float64 oracle computes float32 values in float64: a cast to float32 keeps its precision, one to a
            # narrower type rounds, and the oracle goes on in float64.
            if x.dtype == np.float64 and kind.to.is_float:
                return x if kind.to.bits >= 32 else x.astype(kind.to.dtype).astype(np.float64)
            return x.astype(kind.to.dtype)

    return run


def _quantize(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, quant.Quantize)
    to = kind.to
    return lambda x: quantize_linear(
        x, to.scale_array, to.zero_point_array, low=to.low, high=to.high, axis=to.axis, dtype=to.dtype
    )


def _dequantize(op: Op, constants: Sequence[Array | None]) -> Kernel:
    operand = op.operands[0]
    assert operand is not None
    elem = operand.type.elem
    assert isinstance(elem, QuantizedType)
    return lambda q: dequantize_linear(
        q, elem.scale_array, elem.zero_point_array, axis=elem.axis, dtype=elem.expressed.dtype
    )


def _identity(x: Array) -> Array:
    return x


FLOAT: dict[type[OpKind], KernelFactory] = {
    nn.Conv: _conv, nn.ConvTranspose: _conv_transpose, nn.Gemm: _gemm, nn.MatMul: _matmul,
    nn.BatchNorm: _batch_norm, nn.Relu: _activation, nn.LeakyRelu: _activation, nn.Clip: _activation,
    nn.Sigmoid: _plain(pointwise.sigmoid), nn.Tanh: _plain(pointwise.tanh), nn.Softmax: _softmax,
    nn.Add: _plain(pointwise.add), nn.Sub: _plain(pointwise.sub), nn.Mul: _plain(pointwise.mul),
    nn.Div: _plain(pointwise.div), nn.MaxPool: _max_pool, nn.AveragePool: _average_pool,
    nn.GlobalAveragePool: _plain(pool.global_average_pool), nn.Concat: _concat, nn.Flatten: _flatten,
    nn.Reshape: _reshape, nn.Transpose: _transpose, nn.Cast: _cast, nn.Identity: _plain(_identity),
    quant.Observe: _plain(_identity),
}  # fmt: skip
"""Float kernels: the oracle that rewrites are checked against."""

QUANT: dict[type[OpKind], KernelFactory] = {quant.Quantize: _quantize, quant.Dequantize: _dequantize}
"""ONNX QuantizeLinear and DequantizeLinear (N5 says where they differ from the target)."""

ORACLE: dict[type[OpKind], KernelFactory] = {**FLOAT, **QUANT}
