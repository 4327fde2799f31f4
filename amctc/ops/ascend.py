"""The ``ascend`` dialect: the integer op set of the NPU, on plain storage types. Semantics: rules N1 to N20.

Scales are operands or attributes here, as in the deploy file, not element types: what remains after lowering is
what the hardware sees.
"""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.linear import ConvWindow, unpack
from amctc.schema import OpKind, Trait, register
from amctc.types import F16, F32, I4, I8, I16, I32, U64, ScalarType, TensorType, dims_agree


def _same(kind: OpKind, number: int, operand: TensorType | None, *allowed: ScalarType) -> None:
    if operand is not None:
        kind.require(operand.elem in allowed, number, f"{operand.elem} is none of {', '.join(map(str, allowed))}")


@register("ascend.quant", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Quant(OpKind):
    """AscendQuant (N1 to N4): saturate(round_half_even(x·scale + offset)); ``scale`` is the reciprocal of the step."""

    scale: float
    offset: int
    to: ScalarType = I8
    sqrt_mode: bool = False

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 float16 or float32 data, C2 an int8, int4 or int16 result, C3 a positive scale."""
        (x,) = operands
        assert x is not None
        _same(self, 1, x, F16, F32)
        self.require(self.to in (I8, I4, I16), 2, f"{self.to} is no activation storage type")
        self.require(0 < self.scale < float("inf"), 3, f"scale {self.scale}")
        return (TensorType(x.shape, self.to),)


@register("ascend.conv", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class Conv(ConvWindow):
    """int8 convolution with int32 accumulation (N7, N8): Σ w·(x - offset_x) + b, padding counts as offset_x."""

    offset_x: int = 0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """Constraints of convolution; C5: int8 data and weight, int32 bias; C7: offset_x is an int8."""
        x, w, b = unpack(operands)
        _same(self, 5, x, I8)
        _same(self, 5, w, I8, I4)
        _same(self, 5, b, I32)
        self.require(-128 <= self.offset_x <= 127, 7, f"offset_x {self.offset_x}")
        return (TensorType(self.conv_shape(x, w, b), I32),)


@register("ascend.matmul", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class MatMul(OpKind):
    """int8 matrix product, int32 accumulation (N7, N8): x ``[…, K]``, w ``[K, N]`` or, ``trans_b``, ``[N, K]``."""

    trans_b: bool = False
    offset_x: int = 0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 ranks, C3 inner dimensions, C4 bias length, C5 element types, C7 offset_x is an int8."""
        x, w, b = unpack(operands)
        _same(self, 5, x, I8)
        _same(self, 5, w, I8, I4)
        _same(self, 5, b, I32)
        self.require(x.rank >= 1 and w.rank == 2, 1, f"x {x} and w {w}")
        inner, columns = w.dims[::-1] if self.trans_b else w.dims
        self.require(dims_agree(x.dims[-1], inner), 3, f"inner dimensions {x.dims[-1]} and {inner}")
        self.require(b is None or (b.rank == 1 and dims_agree(b.dims[0], columns)), 4, f"bias {b} for {columns}")
        self.require(-128 <= self.offset_x <= 127, 7, f"offset_x {self.offset_x}")
        return (TensorType((*x.dims[:-1], columns), I32),)


@dataclass(frozen=True)
class _PerChannel(OpKind):
    """Ops with a parameter of one element, or one per slice along ``axis``."""

    axis: int

    def check(self, acc: TensorType, parameter: TensorType) -> None:
        """C1 an int32 accumulator, C2 float32 or packed uint64 parameters, C3 ``[1]`` or one per channel."""
        _same(self, 1, acc, I32)
        _same(self, 2, parameter, F32, U64)
        self.require(parameter.rank == 1, 3, f"parameter {parameter}")
        if parameter.dims != (1,):
            self.require(0 <= self.axis < acc.rank and dims_agree(parameter.dims[0], acc.dims[self.axis]), 3,
                         f"parameter {parameter} for axis {self.axis} of {acc}")  # fmt: skip


@register("ascend.dequant", "acc scale")
@dataclass(frozen=True)
class Dequant(_PerChannel):
    """AscendDequant (N11, N12): float16(acc · M1), M1 the scale with its low 13 mantissa bits dropped.

    ``scale`` is float32, or uint64 once packed. ``to`` float32 means the file leaves the type of the float island to
    the compiler; ``demote-float`` makes it float16. ``relu`` zeroes negative accumulators in the same instruction.
    """

    to: ScalarType = F32
    relu: bool = False

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 to C3, and C4: the result is float16 or float32."""
        acc, scale = operands
        assert acc is not None
        assert scale is not None
        self.check(acc, scale)
        self.require(self.to in (F16, F32), 4, f"{self.to} is no dequantized type")
        return (TensorType(acc.shape, self.to),)


@register("ascend.requant", "acc scale")
@dataclass(frozen=True)
class Requant(_PerChannel):
    """AscendRequant (N17, N18): int8 from the accumulator in one multiplication.

    ``slope`` scales negative accumulators: 0 is relu, 1 is no activation, else leaky relu.
    """

    offset: int = 0
    slope: float = 1.0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 to C3, and C4: the offset is an int9, the slope lies in [0, 1]."""
        acc, scale = operands
        assert acc is not None
        assert scale is not None
        self.check(acc, scale)
        self.require(
            -256 <= self.offset <= 255 and 0 <= self.slope <= 1, 4, f"offset {self.offset}, slope {self.slope}"
        )
        return (TensorType(acc.shape, I8),)


@register("ascend.anti_quant", "q", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class AntiQuant(OpKind):
    """AscendAntiQuant (N20): float16((q + offset)·scale); ``offset`` is the compiler's, minus the quantizer's."""

    scale: float
    offset: int
    to: ScalarType = F32

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 int8 data, C4 a float16 or float32 result."""
        (q,) = operands
        assert q is not None
        _same(self, 1, q, I8, I4, I16)
        self.require(self.to in (F16, F32), 4, f"{self.to} is no dequantized type")
        return (TensorType(q.shape, self.to),)


KINDS: tuple[type[OpKind], ...] = (Quant, Conv, MatMul, Dequant, Requant, AntiQuant)
"""Every op kind of the target: a graph that holds one has been lowered, in part at least."""
