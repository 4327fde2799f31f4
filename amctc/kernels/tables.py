"""Kernel tables: which kernel computes which op kind. The evaluator (:mod:`amctc.interp`) is handed one of them.

``FLOAT`` and ``QUANT`` are the oracle: every op in the precision of its arrays. :func:`ascend_table` is the target:
integer ops by the profile's rules, float islands in float16.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from amctc.interp import Kernel, KernelFactory
from amctc.ir import Op
from amctc.kernels import float_linear as linear
from amctc.kernels import float_normalization as normalization
from amctc.kernels import float_pointwise as pointwise
from amctc.kernels import float_pool as pool
from amctc.kernels import float_reduce as reduce
from amctc.kernels import selection
from amctc.kernels.resize import resize_linear, resize_nearest
from amctc.kernels.row_quantization import fake_quantize_rows
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


def _kernel(function: Callable[..., Array | tuple[Array, ...]]) -> KernelFactory:
    """A kernel whose keywords are the op's attributes, under their own names."""

    def bind(op: Op, constants: Sequence[Array | None]) -> Kernel:
        return functools.partial(function, **{f.name: getattr(op.kind, f.name) for f in dataclasses.fields(op.kind)})

    return bind


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
    return functools.partial(normalization.batch_norm, epsilon=kind.eps)


def _layer_norm(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.LayerNorm)
    return functools.partial(normalization.layer_norm, axis=kind.axis, epsilon=kind.eps)


def _instance_norm(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.InstanceNorm)
    return functools.partial(normalization.instance_norm, epsilon=kind.eps)


def _group_norm(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.GroupNorm)
    return functools.partial(normalization.group_norm, groups=kind.groups, epsilon=kind.eps)


def _resize(op: Op, constants: Sequence[Array | None]) -> Kernel:
    k = op.kind
    assert isinstance(k, nn.Resize)
    where = {"axes": k.axes, "sizes": k.sizes, "scales": k.scales, "coordinates": k.coordinates}
    if k.mode == "nearest":
        return functools.partial(resize_nearest, **where, rounding=k.rounding)  # type: ignore[arg-type]
    return functools.partial(resize_linear, **where)  # type: ignore[arg-type]


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
        q, elem.scale_array, elem.zero_point_array, axis=elem.axis, block=elem.block, dtype=elem.expressed.dtype
    )


def _identity(x: Array) -> Array:
    return x


FLOAT: dict[type[OpKind], KernelFactory] = {
    nn.Conv: _conv, nn.ConvTranspose: _conv_transpose, nn.Gemm: _gemm, nn.MatMul: _matmul,
    nn.Relu: _activation, nn.LeakyRelu: _activation, nn.Clip: _activation,
    nn.Sigmoid: _kernel(pointwise.sigmoid), nn.Tanh: _kernel(pointwise.tanh), nn.Elu: _kernel(pointwise.elu),
    nn.HardSigmoid: _kernel(pointwise.hard_sigmoid), nn.HardSwish: _kernel(pointwise.hard_swish),
    nn.Gelu: _kernel(pointwise.gelu), nn.Silu: _kernel(pointwise.silu), nn.Mish: _kernel(pointwise.mish),
    nn.Softplus: _kernel(pointwise.softplus),
    nn.PRelu: _kernel(pointwise.prelu), nn.Neg: _kernel(pointwise.negative), nn.Abs: _kernel(pointwise.absolute),
    nn.Reciprocal: _kernel(pointwise.reciprocal), nn.Sqrt: _kernel(pointwise.sqrt), nn.Exp: _kernel(pointwise.exp),
    nn.Erf: _kernel(pointwise.erf), nn.Pow: _kernel(pointwise.power), nn.Add: _kernel(pointwise.add),
    nn.Sub: _kernel(pointwise.sub), nn.Mul: _kernel(pointwise.mul), nn.Div: _kernel(pointwise.div),
    nn.Min: _kernel(pointwise.minimum), nn.Max: _kernel(pointwise.maximum), nn.Softmax: _kernel(pointwise.softmax),
    nn.LogSoftmax: _kernel(pointwise.log_softmax), nn.BatchNorm: _batch_norm, nn.LayerNorm: _layer_norm,
    nn.InstanceNorm: _instance_norm, nn.GroupNorm: _group_norm, nn.MaxPool: _kernel(pool.max_pool),
    nn.AveragePool: _kernel(pool.average_pool), nn.GlobalAveragePool: _kernel(pool.global_average_pool),
    nn.GlobalMaxPool: _kernel(pool.global_max_pool), nn.ReduceMean: _kernel(reduce.reduce_mean),
    nn.ReduceSum: _kernel(reduce.reduce_sum), nn.ReduceMax: _kernel(reduce.reduce_max), nn.Concat: _concat,
    nn.Flatten: _flatten, nn.Reshape: _reshape, nn.Transpose: _transpose, nn.Squeeze: _kernel(selection.squeeze),
    nn.Unsqueeze: _kernel(selection.unsqueeze), nn.Expand: _kernel(selection.expand),
    nn.Split: _kernel(selection.split), nn.Slice: _kernel(selection.slice_axes),
    nn.Gather: _kernel(selection.gather), nn.Where: _kernel(np.where), nn.Pad: _kernel(selection.pad),
    nn.Resize: _resize, nn.Cast: _cast, nn.Identity: _kernel(_identity),
    quant.Observe: lambda op, constants: _identity,
}  # fmt: skip
"""Float kernels: the oracle that rewrites are checked against."""

QUANT: dict[type[OpKind], KernelFactory] = {
    quant.Quantize: _quantize, quant.Dequantize: _dequantize, quant.FakeQuantizeRows: _kernel(fake_quantize_rows),
}  # fmt: skip
"""ONNX QuantizeLinear and DequantizeLinear (N5 says where they differ from the target), and rows rounded (N6)."""

ORACLE: dict[type[OpKind], KernelFactory] = {**FLOAT, **QUANT}
