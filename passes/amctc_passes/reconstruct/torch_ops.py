"""Ops of a float graph with quantizers as differentiable functions of PyTorch; importing this needs the extra.

Quantizers round in the forward direction only, their gradient is that of the saturation (straight-through estimator,
Bengio et al. 2013). Integers are float tensors with whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amctc.ir import Constant, Op, Value
from amctc.ops import nn, quant
from amctc.ops.linear import ConvWindow, Windowed
from amctc.ops.shapes import window_output
from amctc.schema import OpKind
from amctc.types import F32, Array, QuantizedType

Translation = Callable[..., Tensor]
"""Computes an op of one result: called with its kind, then one tensor per operand."""


def tensor(array: Array) -> Tensor:
    """A copy of ``array`` in float32."""
    return torch.from_numpy(np.array(array, np.float32))


def untranslated(ops: Sequence[Op]) -> OpKind | None:
    """The kind of the first of ``ops`` that has no form here; ``None`` where all have."""
    return next((op.kind for op in ops if not _is_translated(op)), None)


def _is_translated(op: Op) -> bool:
    values = [v for v in (*op.operands, *op.results) if v is not None]
    elems = [v.type.elem for v in values]
    if any(e.block if isinstance(e, QuantizedType) else e != F32 for e in elems) or len(op.results) != 1:
        return False
    if isinstance(op.kind, nn.AveragePool) and (op.kind.ceil_mode or set(op.kind.dilations) != {1}):
        return False
    if isinstance(op.kind, nn.Pad) and op.kind.mode != "constant":
        return False
    spatial = len(op.kind.strides) if isinstance(op.kind, Windowed) else 1
    return type(op.kind) in TRANSLATIONS and spatial <= 3


Parameters = tuple[Tensor, Tensor | None]
"""The weight and the bias of a layer."""


def computed(ops: Sequence[Op], known: Mapping[Value, Tensor], own: Mapping[Op, Parameters]) -> dict[Value, Tensor]:
    """The tensors of all results of ``ops``, operands before users, and of what is ``known``.

    Layers in ``own`` have these parameters in place of those in the graph.
    """
    found = dict(known)
    for op in ops:
        if op.result in found:
            continue
        operands: list[Tensor | None] = [None if o is None else found[o] for o in op.operands]
        if op in own:
            operands[1:] = own[op]
        found[op.result] = TRANSLATIONS[type(op.kind)](_attributes(op), *operands)
    return found


def _attributes(op: Op) -> object:
    """What a translation gets first: the kind, or for a dequantizer the type that it undoes."""
    if not isinstance(op.kind, quant.Dequantize):
        return op.kind
    assert op.operands[0] is not None
    return op.operands[0].type.elem


def spread(values: Sequence[float] | Array, axis: int | None, rank: int) -> Tensor:
    """Numbers along ``axis`` of a tensor of ``rank``, or one for all."""
    shape = [1] * rank
    if axis is not None:
        shape[axis] = -1
    return tensor(np.asarray(values, np.float32)).reshape(shape if len(values) > 1 else [])


# ------------------------------------------------------------------------------------------------- quantizers, layers


def _quantize(kind: quant.Quantize, x: Tensor) -> Tensor:
    elem = kind.to
    scaled = x / spread(elem.scales, elem.axis, x.ndim)
    rounded = scaled + (scaled.round() - scaled).detach()
    return (rounded + spread(elem.zero_points, elem.axis, x.ndim)).clamp(elem.low, elem.high)


def _dequantize(elem: QuantizedType, q: Tensor) -> Tensor:
    return (q - spread(elem.zero_points, elem.axis, q.ndim)) * spread(elem.scales, elem.axis, q.ndim)


def _conv(kind: nn.Conv, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    convolve = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    y = convolve(_padded(kind, x), w, b, kind.strides, 0, kind.dilations, kind.group)
    return _activated(kind.activation, y)


def _conv_transpose(kind: nn.ConvTranspose, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x.ndim - 3]
    whole = convolve(x, w, None, kind.strides, 0, 0, kind.group, kind.dilations)
    begins, ends = _halves(kind.pads)
    extra = kind.output_padding or (0,) * len(begins)
    y = F.pad(whole, _innermost_first([-p for p in begins], [e - p for e, p in zip(extra, ends, strict=True)]))
    if b is not None:
        y = y + b.reshape(-1, *[1] * len(begins))
    return _activated(kind.activation, y)


def _gemm(kind: nn.Gemm, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    y = kind.alpha * ((x.T if kind.trans_a else x) @ (w.T if kind.trans_b else w))
    return _activated(kind.activation, y if b is None else y + kind.beta * b)


def _matmul(kind: nn.MatMul, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    y = torch.matmul(x, w)
    return _activated(kind.activation, y if b is None else y + b)


def _activated(activation: nn.Activation | None, x: Tensor) -> Tensor:
    return x if activation is None else TRANSLATIONS[type(activation)](activation, x)


# ---------------------------------------------------------------------------------------------------- windows, shapes


def _halves(pads: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Begins and ends."""
    return pads[: len(pads) // 2], pads[len(pads) // 2 :]


def _innermost_first(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Pads per axis as PyTorch wants them: begin and end of the last axis first."""
    return [p for pair in reversed(list(zip(begins, ends, strict=True))) for p in pair]


def _padded(kind: ConvWindow | nn.MaxPool | nn.AveragePool, x: Tensor, value: float = 0.0) -> Tensor:
    return F.pad(x, _innermost_first(*_halves(kind.pads)), value=value) if any(kind.pads) else x


def _max_pool(kind: nn.MaxPool, x: Tensor) -> Tensor:
    begins, ends = _halves(kind.pads)
    missing = []
    for i, (size, k) in enumerate(zip(x.shape[2:], kind.kernel, strict=True)):
        stride, dilation = kind.strides[i], kind.dilations[i]
        count = window_output(size, k, stride, begins[i], ends[i], dilation, kind.ceil_mode)
        assert isinstance(count, int)
        reach = (count - 1) * stride + dilation * (k - 1) + 1
        missing.append(max(ends[i], reach - size - begins[i]))
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3]
    padded = F.pad(x, _innermost_first(begins, missing), value=-math.inf)
    return pool(padded, kind.kernel, kind.strides, 0, kind.dilations)


def _average_pool(kind: nn.AveragePool, x: Tensor) -> Tensor:
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3]
    mean = pool(_padded(kind, x), kind.kernel, kind.strides)
    if kind.count_include_pad or not any(kind.pads):
        return mean
    return mean / pool(_padded(kind, torch.ones_like(x)), kind.kernel, kind.strides)


def _reshape(kind: nn.Reshape, x: Tensor) -> Tensor:
    copied = (x.shape[i] if d == 0 and not kind.allow_zero else d for i, d in enumerate(kind.shape))
    return x.reshape(tuple(copied))


def _flatten(kind: nn.Flatten, x: Tensor) -> Tensor:
    axis = kind.axis % x.ndim if kind.axis < 0 else kind.axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _unsqueeze(kind: nn.Unsqueeze, x: Tensor) -> Tensor:
    rank = x.ndim + len(kind.axes)
    for axis in sorted(a % rank for a in kind.axes):
        x = x.unsqueeze(axis)
    return x


def _slice(kind: nn.Slice, x: Tensor) -> Tensor:
    for axis, start, end, step in zip(kind.axes, kind.starts, kind.ends, kind.steps, strict=True):
        places = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _pad(kind: nn.Pad, x: Tensor) -> Tensor:
    return F.pad(x, _innermost_first(*_halves(kind.pads)), value=kind.value)


def _clip(kind: nn.Clip, x: Tensor) -> Tensor:
    return x.clamp(kind.low, kind.high)


def _layer_norm(kind: nn.LayerNorm, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = kind.axis % x.ndim
    axes = tuple(range(axis, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    y = centred / (centred.square().mean(axes, keepdim=True) + kind.eps).sqrt() * scale
    return y if bias is None else y + bias


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


TRANSLATIONS: Mapping[type[Any], Translation] = {
    Constant: lambda k: tensor(k.data.read()), quant.Quantize: _quantize, quant.Dequantize: _dequantize,
    nn.Conv: _conv, nn.ConvTranspose: _conv_transpose, nn.Gemm: _gemm, nn.MatMul: _matmul,
    nn.Add: lambda k, a, b: a + b, nn.Sub: lambda k, a, b: a - b, nn.Mul: lambda k, a, b: a * b,
    nn.Div: lambda k, a, b: a / b,
    nn.Relu: lambda k, x: x.relu(), nn.LeakyRelu: lambda k, x: F.leaky_relu(x, k.alpha), nn.Clip: _clip,
    nn.PRelu: lambda k, x, slope: torch.where(x >= 0, x, slope * x),
    nn.Sigmoid: lambda k, x: x.sigmoid(), nn.Tanh: lambda k, x: x.tanh(), nn.Silu: lambda k, x: F.silu(x),
    nn.HardSigmoid: lambda k, x: (k.alpha * x + k.beta).clamp(0.0, 1.0), nn.HardSwish: lambda k, x: F.hardswish(x),
    nn.Gelu: lambda k, x: F.gelu(x, approximate="tanh" if k.approximate else "none"),
    nn.Softmax: lambda k, x: x.softmax(k.axis), nn.LayerNorm: _layer_norm,
    nn.MaxPool: _max_pool, nn.AveragePool: _average_pool,
    nn.GlobalAveragePool: lambda k, x: x.mean(_spatial(x), keepdim=True),
    nn.GlobalMaxPool: lambda k, x: x.amax(_spatial(x), keepdim=True),
    nn.ReduceMean: lambda k, x: x.mean(k.axes, keepdim=k.keepdims),
    nn.Concat: lambda k, *xs: torch.cat(xs, k.axis), nn.Identity: lambda k, x: x,
    nn.Flatten: _flatten, nn.Reshape: _reshape, nn.Unsqueeze: _unsqueeze,
    nn.Slice: _slice, nn.Pad: _pad,
    nn.Squeeze: lambda k, x: x.squeeze(k.axes), nn.Transpose: lambda k, x: x.permute(k.permutation),
}  # fmt: skip
"""One entry per op kind."""
