"""Matrix products of float data and integer weights (N21)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amctc.ir import Value, const, constant_data
from amctc.ops.ascend_layers import one_of
from amctc.schema import OpKind, register
from amctc.types import F16, F32, I4, I8, I32, QuantizedType, ScalarType, Shape, TensorType, dims_agree, shapes_agree


@register("ascend.weight_quant_matmul", "x w scale offset? b?")
@dataclass(frozen=True)
class WeightQuantMatMul(OpKind):
    """WeightQuantBatchMatmulV2 (N21): x @ ((w + offset) · scale) + b, w ``[K, N]`` or, ``trans_b``, ``[N, K]``.

    ``scale`` and ``offset``, minus a zero point, are ``[1]``, one per output channel ``[N]``, or, with ``group``, one
    for each ``group`` input channels: of the shape of w with K counted in groups.
    """

    trans_b: bool = False
    group: int = 0

    @property
    def parameter_axis(self) -> int:
        """Axis of w that the scales run along: its output channels, with ``group`` its input channels."""
        return int(self.trans_b) if self.group else 1 - int(self.trans_b)

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 ranks, C3 inner dimensions, C4 bias length, C5 element types, C6 shapes of scale and offset."""
        x, w, scale, offset, b = (*operands, None, None)[:5]
        assert x is not None
        assert w is not None
        assert scale is not None
        for operand, *allowed in ((x, F16, F32), (w, I8, I4), (scale, F32), (offset, I32)):
            one_of(self, 5, operand, *allowed)
        self.require(b is None or b.elem == x.elem, 5, f"bias {b} under data {x}")
        self.require(x.rank >= 1 and w.rank == 2, 1, f"x {x} and w {w}")
        inner, columns = w.dims[::-1] if self.trans_b else w.dims
        self.require(dims_agree(x.dims[-1], inner), 3, f"inner dimensions {x.dims[-1]} and {inner}")
        self.require(b is None or (b.rank == 1 and dims_agree(b.dims[0], columns)), 4, f"bias {b} for {columns}")
        same = offset is None or offset.shape == scale.shape
        self.require(same and self.group >= 0, 6, f"scale {scale} and offset {offset}")
        if scale.dims != (1,) or self.group:
            wanted = self._parameter_shape(w.dims)
            self.require(shapes_agree(scale.shape, wanted), 6, f"scale {scale} for {list(wanted)}")
        return (TensorType((*x.dims[:-1], columns), x.elem),)

    def _parameter_shape(self, weight: Shape) -> Shape:
        """The shape of a scale that is not one for all."""
        inner, columns = weight[::-1] if self.trans_b else weight
        if not self.group:
            return (columns,)
        groups = -(-inner // self.group) if isinstance(inner, int) else None
        return (columns, groups) if self.trans_b else (groups, columns)


def weight_quant_matmul(
    stored: Value, *, trans_b: bool, layer: str
) -> tuple[WeightQuantMatMul, tuple[Value, Value, Value | None]]:
    """The product with a constant matrix of a quantized type, and its operands w, scale and offset (N21).

    ``layer`` names the constants. Raises :class:`TypeConstraintError` for scales along another axis than the op's.
    """
    elem, data = stored.type.elem, constant_data(stored)
    assert isinstance(elem, QuantizedType)
    assert data is not None
    kind = WeightQuantMatMul(trans_b, elem.block)
    kind.require(elem.axis in (None, kind.parameter_axis), 6, f"scales along axis {elem.axis}")
    shape = elem.parameter_shape(data.shape) or (1,)
    scale = const(elem.scale_array.reshape(shape), name=f"{layer}.scale")
    offsets = -elem.zero_point_array.astype(np.int32).reshape(shape)
    offset = const(offsets, name=f"{layer}.offset") if offsets.any() else None
    return kind, (const(data, elem.storage, name=stored.name), scale, offset)


def stored_type(
    kind: WeightQuantMatMul, weight: TensorType, scale: Value | None, offset: Value | None
) -> QuantizedType:
    """The quantized type that the operands of a product describe; the inverse of :func:`weight_quant_matmul`."""
    data, zeros = constant_data(scale), constant_data(offset)
    assert data is not None
    assert isinstance(weight.elem, ScalarType)
    scales = tuple(float(s) for s in data.read().ravel())
    points = (0,) * len(scales) if zeros is None else tuple(-int(z) for z in zeros.read().ravel())
    axis = kind.parameter_axis if kind.group or data.shape != (1,) else None
    return QuantizedType(weight.elem, F32, scales, points, axis, *weight.elem.integer_range, kind.group)
