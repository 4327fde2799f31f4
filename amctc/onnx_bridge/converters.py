"""How ONNX nodes become ``nn`` and ``quant`` ops. A node no converter takes is carried.

A converter returns the op's kind and operands, the finished value where one op stands for several nodes, or ``None``
to have the node carried: dynamic attributes, training modes and element types we do not compute are not refused, only
left opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from amctc.ir import Origins, Result, Value, const, constant_data
from amctc.onnx_bridge.tensors import ELEM_TYPES
from amctc.ops import nn, quant
from amctc.schema import OpKind
from amctc.types import F32, I8, I16, I32, U8, U16, Array, QuantizedType, ScalarType, TensorType


@dataclass(frozen=True)
class NodeView:
    """A node with its operands resolved to values and its attributes to Python values."""

    node: NodeProto
    operands: tuple[Value | None, ...]
    version: int
    origins: Origins = ()

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute values by name; strings decoded."""
        return {a.name: _decoded(helper.get_attribute_value(a)) for a in self.node.attribute if a.type != a.GRAPH}

    def operand(self, index: int) -> Value | None:
        """The operand at ``index``, ``None`` when absent."""
        return self.operands[index] if index < len(self.operands) else None

    def type(self, index: int = 0) -> TensorType:
        """Type of a present operand."""
        value = self.operands[index]
        assert value is not None
        return value.type

    def array(self, index: int) -> Array | None:
        """The operand's contents if it is a constant."""
        data = constant_data(self.operand(index))
        return None if data is None else data.read()

    @property
    def spatial(self) -> int:
        """Spatial axes of the first operand."""
        return self.type().rank - 2


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


Converted = tuple[OpKind, Sequence[Value | None]] | Result | None
Converter = Callable[[NodeView], Converted]


def _known_floats(view: NodeView) -> bool:
    """All operands are floats of known rank: what the nn dialect computes with."""
    return all(o is None or (o.type.is_float and o.type.shape is not None) for o in view.operands)


def _floats(converter: Converter) -> Converter:
    return lambda view: converter(view) if _known_floats(view) else None


def _ranked(converter: Converter) -> Converter:
    return lambda view: converter(view) if all(o is None or o.type.shape is not None for o in view.operands) else None


def _uniform(converter: Converter) -> Converter:
    """Ranked operands of one element type, none with scales per channel: what ops that move elements take."""

    def convert(view: NodeView) -> Converted:
        elems = {o.type.elem for o in view.operands if o is not None}
        per_channel = any(isinstance(e, QuantizedType) and e.axis is not None for e in elems)
        return None if len(elems) > 1 or per_channel else converter(view)

    return _ranked(convert)


def _unary(kind: type[OpKind]) -> Converter:
    return _floats(lambda view: (kind(), view.operands[:1]))


def _binary(kind: type[OpKind]) -> Converter:
    return _floats(lambda view: (kind(), view.operands) if "broadcast" not in view.attributes else None)


def _pads(
    view: NodeView, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...] | None:
    """Explicit pads; auto_pad is resolved where the spatial sizes are known (ONNX Conv), else ``None``."""
    attributes, n = view.attributes, view.spatial
    mode = attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return tuple(attributes.get("pads", (0,) * (2 * n)))
    if mode == "VALID":
        return (0,) * (2 * n)
    begins, ends = [], []
    for size, k, s, d in zip(view.type().dims[2:], kernel, strides, dilations, strict=True):
        if not isinstance(size, int):
            return None
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return (*begins, *ends)


def sliding_window(view: NodeView, kernel: Sequence[int]) -> dict[str, Any] | None:
    """Strides, pads and dilations of a node that slides a window; ``None`` where pads are unknown or negative."""
    attributes, n = view.attributes, view.spatial
    strides = tuple(attributes.get("strides", (1,) * n))
    dilations = tuple(attributes.get("dilations", (1,) * n))
    pads = _pads(view, kernel, strides, dilations)
    if pads is None or min(pads, default=0) < 0:
        return None
    return {"strides": strides, "pads": pads, "dilations": dilations}


def kernel_sizes(view: NodeView) -> tuple[int, ...] | None:
    """Spatial sizes of the weight (the second operand), ``None`` where one is not a number."""
    weight = view.type(1)
    sizes = weight.dims[2:]
    return tuple(d for d in sizes if isinstance(d, int)) if all(isinstance(d, int) for d in sizes) else None


@_floats
def _conv(view: NodeView) -> Converted:
    kernel = kernel_sizes(view)
    window = None if kernel is None or view.type().rank < 3 else sliding_window(view, kernel)
    if window is None:
        return None
    return nn.Conv(**window, group=view.attributes.get("group", 1)), view.operands


@_floats
def _conv_transpose(view: NodeView) -> Converted:
    attributes, kernel = view.attributes, kernel_sizes(view)
    unresolved = "output_shape" in attributes or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    window = None if unresolved or kernel is None else sliding_window(view, kernel)
    if window is None:
        return None
    extra = tuple(attributes.get("output_padding", ()))
    return nn.ConvTranspose(**window, group=attributes.get("group", 1), output_padding=extra), view.operands


@_floats
def _gemm(view: NodeView) -> Converted:
    a = view.attributes
    alpha, beta = float(a.get("alpha", 1.0)), float(a.get("beta", 1.0))
    return nn.Gemm(alpha, beta, bool(a.get("transA", 0)), bool(a.get("transB", 0))), view.operands


@_floats
def _batch_norm(view: NodeView) -> Converted:
    attributes, x = view.attributes, view.type()
    training = attributes.get("training_mode", 0) or any(view.node.output[1:]) or attributes.get("spatial", 1) != 1
    if training or x.rank < 2 or any(o is not None and o.type.elem != x.elem for o in view.operands):
        return None
    return nn.BatchNorm(float(view.attributes.get("epsilon", 1e-5))), view.operands


@_floats
def _clip(view: NodeView) -> Converted:
    if view.version < 11:
        bounds = [view.attributes.get("min"), view.attributes.get("max")]
    else:
        bounds = []
        for index in (1, 2):
            array = view.array(index)
            if view.operand(index) is not None and (array is None or array.size != 1):
                return None
            bounds.append(None if array is None else array.item())
    low = -np.inf if bounds[0] is None else float(bounds[0])
    high = np.inf if bounds[1] is None else float(bounds[1])
    return None if np.isnan(low) or np.isnan(high) else (nn.Clip(low, high), view.operands[:1])


@_floats
def _leaky_relu(view: NodeView) -> Converted:
    return nn.LeakyRelu(float(view.attributes.get("alpha", 0.01))), view.operands


@_floats
def _softmax(view: NodeView) -> Converted:
    rank = view.type().rank
    axis = int(view.attributes.get("axis", -1 if view.version >= 13 else 1))
    if view.version < 13 and (axis + rank if axis < 0 else axis) != rank - 1:
        return None  # before opset 13 all axes from `axis` on were normalised together
    return nn.Softmax(axis), view.operands


def max_pool(view: NodeView) -> Converted:
    """MaxPool without indices on data with spatial axes, whatever its element type."""
    if len(view.node.output) != 1 or view.type().shape is None or view.type().rank < 3:
        return None
    kernel = tuple(view.attributes["kernel_shape"])
    window = sliding_window(view, kernel)
    if window is None:
        return None
    return nn.MaxPool(**window, kernel=kernel, ceil_mode=bool(view.attributes.get("ceil_mode", 0))), view.operands


@_uniform
def _max_pool(view: NodeView) -> Converted:
    return max_pool(view) if view.type().scalar.name in ("f16", "f32", "f64") else None


@_floats
def _average_pool(view: NodeView) -> Converted:
    attributes, kernel = view.attributes, tuple(view.attributes["kernel_shape"])
    window = sliding_window(view, kernel) if view.type().rank >= 3 else None
    if window is None or any(d != 1 for d in window["dilations"]):
        return None
    include = bool(attributes.get("count_include_pad", 0))
    return nn.AveragePool(**window, kernel=kernel, ceil_mode=bool(attributes.get("ceil_mode", 0)),
                          count_include_pad=include), view.operands  # fmt: skip


@_floats
def _global_average_pool(view: NodeView) -> Converted:
    return (nn.GlobalAveragePool(), view.operands) if view.type().rank >= 3 else None


@_ranked
def _reshape(view: NodeView) -> Converted:
    target, elem = view.array(1), view.type().elem
    if target is None or (isinstance(elem, QuantizedType) and elem.axis is not None):
        return None
    return nn.Reshape(tuple(int(d) for d in target), bool(view.attributes.get("allowzero", 0))), view.operands[:1]


@_uniform
def _flatten(view: NodeView) -> Converted:
    return nn.Flatten(int(view.attributes.get("axis", 1))), view.operands


@_uniform
def _transpose(view: NodeView) -> Converted:
    rank = view.type().rank
    return nn.Transpose(tuple(view.attributes.get("perm", range(rank)[::-1]))), view.operands


@_uniform
def _concat(view: NodeView) -> Converted:
    return nn.Concat(int(view.attributes["axis"])), view.operands


def _cast(view: NodeView) -> Converted:
    to = ELEM_TYPES.get(int(view.attributes["to"]))
    elem = view.type().elem
    simple = isinstance(elem, ScalarType) and elem.name in _CASTABLE
    return (nn.Cast(to), view.operands[:1]) if simple and to is not None and to.name in _CASTABLE else None


_CASTABLE = {"f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool"}


def _identity(view: NodeView) -> Converted:
    return nn.Identity(), view.operands[:1]


def _dropout(view: NodeView) -> Converted:
    mode = view.array(2)
    training = view.operand(2) is not None and (mode is None or bool(mode.item()))
    return None if training or any(view.node.output[1:]) else (nn.Identity(), view.operands[:1])


def _quantized_type(view: NodeView, storage: ScalarType, expressed: ScalarType) -> QuantizedType | None:
    """The element type of a (de)quantization by constant scale and zero point, ``None`` where ours cannot say it.

    One scale in a vector is per tensor too: ONNX Runtime reads it so, and other tools write it.
    """
    scale, zero = view.array(1), view.array(2)
    if scale is None or (view.operand(2) is not None and zero is None) or scale.dtype != np.float32:
        return None
    axis = int(view.attributes.get("axis", 1)) % max(view.type().rank, 1)
    scales = tuple(float(s) for s in scale.ravel())
    zeros = tuple(int(z) for z in zero.ravel()) if zero is not None else (0,) * len(scales)
    usable = scale.ndim <= 1 and len(zeros) == len(scales) and bool((scale > 0).all() and np.isfinite(scale).all())
    if not usable or view.attributes.get("block_size", 0):
        return None
    return QuantizedType(storage, expressed, scales, zeros, None if scale.size == 1 else axis, *storage.integer_range)


@_ranked
def _quantize(view: NodeView) -> Converted:
    zero = view.operand(2)
    storage = U8 if zero is None else zero.type.elem
    if storage not in (I8, U8, I16, U16) or view.type().elem != F32 or "output_dtype" in view.attributes:
        return None
    assert isinstance(storage, ScalarType)
    to = _quantized_type(view, storage, F32)
    return None if to is None else (quant.Quantize(to), view.operands[:1])


@_ranked
def _dequantize(view: NodeView) -> Converted:
    source = view.operands[0]
    assert source is not None
    storage = source.type.elem
    if isinstance(storage, QuantizedType):
        same = _quantized_type(view, storage.storage, F32) == storage
        return (quant.Dequantize(), (source,)) if same else None
    data = constant_data(source)
    if data is None or storage not in (I8, U8, I16, U16, I32):
        return None
    elem = _quantized_type(view, storage, F32)
    if elem is None or (storage == I32 and any(elem.zero_points)):
        return None
    return quant.Dequantize(), (const(data, elem, name=source.name),)


CONVERTERS: dict[str, Converter] = {
    "Add": _binary(nn.Add), "Sub": _binary(nn.Sub), "Mul": _binary(nn.Mul), "Div": _binary(nn.Div),
    "AveragePool": _average_pool, "BatchNormalization": _batch_norm, "Cast": _cast, "Clip": _clip,
    "Concat": _concat, "Conv": _conv, "ConvTranspose": _conv_transpose, "DequantizeLinear": _dequantize,
    "Dropout": _dropout, "Flatten": _flatten, "Gemm": _gemm, "GlobalAveragePool": _global_average_pool,
    "Identity": _identity, "LeakyRelu": _leaky_relu,
    "MatMul": _floats(lambda v: (nn.MatMul(), v.operands)), "MaxPool": _max_pool, "QuantizeLinear": _quantize,
    "Relu": _unary(nn.Relu), "Reshape": _reshape, "Sigmoid": _unary(nn.Sigmoid), "Softmax": _softmax,
    "Tanh": _unary(nn.Tanh), "Transpose": _transpose,
}  # fmt: skip
"""Converters by op type of the default domain, for opset 7 and newer."""
