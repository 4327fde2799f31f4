"""Rows quantized as they come, and products of them (N6, N13): each row of the data has a scale of its own."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.ascend_layers import one_of
from amctc.schema import OpKind, register
from amctc.types import F16, F32, I8, I32, ScalarType, TensorType, dims_agree, shapes_agree


@register("ascend.dynamic_quant", "x")
@dataclass(frozen=True)
class DynamicQuant(OpKind):
    """DynamicQuant (N6): int8 rows along the last axis, symmetric, and the float32 step of each.

    With m the largest magnitude of a row, s = 127 / m and q = saturate(round_half_even(x · s)); the step is 1 / s.
    """

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 float16 or float32 data, C2 of rank 2 at least; the steps have the shape of x without its last axis."""
        (x,) = operands
        assert x is not None
        one_of(self, 1, x, F16, F32)
        self.require(x.rank >= 2, 2, f"{x} has no rows")
        return (x.with_elem(I8), TensorType(x.dims[:-1], F32))


@register("ascend.dequant_rows", "acc scale row_scale b?")
@dataclass(frozen=True)
class DequantRows(OpKind):
    """The epilogue of QuantBatchMatmulV3 with a scale per row (N13): float16(acc · scale · row_scale + b).

    ``scale`` is float32, ``[1]`` or one per column, all 24 bits of it. ``to`` float32 means the file leaves the type of
    the float island to the compiler; ``demote-float`` makes it float16.
    """

    to: ScalarType = F32

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 an int32 matrix of rank 2 at least, C2 float32 scales and bias, C3 ``scale`` and C4 ``row_scale`` fit it,
        C5 so does the bias, C6 the result is float16 or float32.
        """
        acc, scale, rows, b = (*operands, None)[:4]
        assert acc is not None
        assert scale is not None
        assert rows is not None
        one_of(self, 1, acc, I32)
        self.require(acc.rank >= 2, 1, f"{acc} has no rows")
        for operand in (scale, rows, b):
            one_of(self, 2, operand, F32)
        columns = acc.dims[-1]
        fits = scale.rank == 1 and (scale.dims == (1,) or dims_agree(scale.dims[0], columns))
        self.require(fits, 3, f"scale {scale} for {columns} columns")
        self.require(shapes_agree(rows.shape, acc.dims[:-1]), 4, f"row scales {rows} for {acc}")
        self.require(b is None or (b.rank == 1 and dims_agree(b.dims[0], columns)), 5, f"bias {b} for {columns}")
        self.require(self.to in (F16, F32), 6, f"{self.to} is no dequantized type")
        return (acc.with_elem(self.to),)
