"""The ``ascend`` dialect: the integer op set of the NPU, on plain storage types. Semantics: rules N1 to N20.

Scales are operands or attributes here, as in the deploy file, not element types: what remains after lowering is
what the hardware sees.
"""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.ascend_layers import BatchMatMul as BatchMatMul
from amctc.ops.ascend_layers import Conv as Conv
from amctc.ops.ascend_layers import ConvTranspose as ConvTranspose
from amctc.ops.ascend_layers import Layer as Layer
from amctc.ops.ascend_layers import MatMul as MatMul
from amctc.ops.ascend_layers import SumPool as SumPool
from amctc.ops.ascend_layers import one_of
from amctc.ops.ascend_layers import weight_input_axis as weight_input_axis
from amctc.ops.ascend_rows import DequantRows as DequantRows
from amctc.ops.ascend_rows import DynamicQuant as DynamicQuant
from amctc.ops.ascend_weight_only import WeightQuantMatMul as WeightQuantMatMul
from amctc.ops.ascend_weight_only import stored_type as stored_type
from amctc.ops.ascend_weight_only import weight_quant_matmul as weight_quant_matmul
from amctc.schema import OpKind, Trait, register
from amctc.types import F16, F32, I4, I8, I16, I32, U64, ScalarType, TensorType, dims_agree


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
        one_of(self, 1, x, F16, F32)
        self.require(self.to in (I8, I4, I16), 2, f"{self.to} is no activation storage type")
        self.require(0 < self.scale < float("inf"), 3, f"scale {self.scale}")
        return (TensorType(x.shape, self.to),)


@dataclass(frozen=True)
class _PerChannel(OpKind):
    """Ops with a parameter of one element, or one per slice along ``axis``."""

    axis: int

    def check(self, acc: TensorType, parameter: TensorType) -> None:
        """C1 an int32 accumulator, C2 float32 or packed uint64 parameters, C3 ``[1]`` or one per channel."""
        one_of(self, 1, acc, I32)
        one_of(self, 2, parameter, F32, U64)
        self.require(parameter.rank == 1, 3, f"parameter {parameter}")
        if parameter.dims != (1,):
            self.require(0 <= self.axis < acc.rank and dims_agree(parameter.dims[0], acc.dims[self.axis]), 3,
                         f"parameter {parameter} for axis {self.axis} of {acc}")  # fmt: skip


@register("ascend.dequant", "acc scale")
@dataclass(frozen=True)
class Dequant(_PerChannel):
    """AscendDequant (N11, N12): float16(acc · M1), M1 the scale with its low 13 mantissa bits dropped.

    ``scale`` is float32, or uint64 once packed; of AveragePool it is divided by ``divisor``, the positions of a window,
    in float32 first (N26). ``to`` float32 means the file leaves the type of the float island to
    the compiler; ``demote-float`` makes it float16. ``relu`` zeroes negative accumulators in the same instruction.
    """

    to: ScalarType = F32
    relu: bool = False
    divisor: int = 1

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 to C3, and C4: the result is float16 or float32; C5: a positive divisor."""
        acc, scale = operands
        assert acc is not None
        assert scale is not None
        self.check(acc, scale)
        self.require(self.to in (F16, F32), 4, f"{self.to} is no dequantized type")
        self.require(self.divisor >= 1, 5, f"divisor {self.divisor}")
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
        one_of(self, 1, q, I8, I4, I16)
        self.require(self.to in (F16, F32), 4, f"{self.to} is no dequantized type")
        return (TensorType(q.shape, self.to),)


KINDS: tuple[type[OpKind], ...] = (
    Quant, Conv, ConvTranspose, MatMul, BatchMatMul, SumPool, WeightQuantMatMul, Dequant, Requant, AntiQuant,
    DynamicQuant, DequantRows,
)  # fmt: skip
"""Every op kind of the target: a graph that holds one has been lowered, in part at least."""
